"""The kinds of values that a policy holds: amounts, patterns, class names, dtypes.

Owns how each is read, how the reference calls it and its JSON schema. Which key takes which kind is defined by the
tables of keys.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from devpolicy._core.language.patterns import Pattern, PatternError
from devpolicy._core.language.values import Amount
from devpolicy._core.model.tree import DTYPE_BITS, FLOATING
from devpolicy._core.sizes import SizeError, parse_size
from devpolicy._core.toml.document import Inside
from devpolicy._core.toml.tables import JsonSchema, Kind, did_you_mean, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor

# Amounts and sizes.

_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*%")


def _read_amount(value: object, cursor: Cursor) -> Amount | None:
    if isinstance(value, list):
        parts = [_read_amount_part(part, cursor.at(index)) for index, part in enumerate(value)]
        if not parts:
            cursor.error("DP104", "this list is empty", label="adds up to nothing", help="write `0` for none")
            return None
        good = [part for part in parts if part is not None]
        if len(good) < len(parts):
            return None
        total = Amount(sum(part.size for part in good), sum(part.percent for part in good))
        if total.percent > 100:
            cursor.error("DP104", "these percentages add up to more than 100", label="more than there is")
            return None
        return total
    return _read_amount_part(value, cursor)


def _read_amount_part(value: object, cursor: Cursor) -> Amount | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        hint = 'write "20 GiB" or "90%"'
        if isinstance(value, float) and 0 < value <= 1:
            hint = f'write "{value:.6g}" as a percentage: "{value * 100:.6g}%"'
        wrong_type(value, cursor, "a size or a percentage", hint)
        return None
    if isinstance(value, int) and 0 < value < 1 << 16:
        hint = f'write "{value} GiB", or "{value} B" where bytes are meant'
        cursor.error("DP104", f"`{value}` would be {value} bytes", label="no unit", help=hint)
        return None
    if isinstance(value, str) and "%" in value:
        percent = _PERCENT.fullmatch(value.strip())
        if percent is None:
            cursor.error("DP104", f"`{value}` is no percentage", label="not one", help='write a number and "%": "90%"')
        elif float(percent[1]) > 100:
            cursor.error("DP104", f"`{value}` is more than all of it", label="more than 100 %")
        else:
            return Amount(0, float(percent[1]))
        return None
    try:
        return Amount(parse_size(value))
    except SizeError as broken:
        cursor.error("DP104", str(broken), label="not a size")
        return None


_SIZE_SCHEMA: JsonSchema = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KMGTPkmgtp]?i?[Bb]|%)\s*$"},
    ]
}
AMOUNT: Kind[Amount] = Kind(
    "a size, a percentage, or a list that adds up",
    _read_amount,
    {"anyOf": [*_SIZE_SCHEMA["anyOf"], {"type": "array", "items": _SIZE_SCHEMA, "minItems": 1}]},
)


def _read_share(value: object, cursor: Cursor) -> Amount | None:
    if isinstance(value, str) and "%" in value:
        found = _read_amount_part(value, cursor)
        if found is not None and not found.percent:
            cursor.error("DP104", "a share of nothing holds nothing", label="no share", help='such as `share = "50%"`')
            return None
        return found
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(value, cursor, "a fraction or a percentage", 'write `0.5` or `"50%"`')
        return None
    # Written so that it refuses what is not a number, too.
    if not 0 < value <= 1:
        hint = f'did you mean "{value:g}%"?' if 1 < value <= 100 else 'such as `share = 0.5` or `share = "50%"`'
        cursor.error("DP104", f"`{value}` is no share of one", label="not between 0 and 1", help=hint)
        return None
    percent = round(float(value) * 100, 6)
    if not percent:
        cursor.error("DP104", "a share of nothing holds nothing", label="no share", help='such as `share = "50%"`')
        return None
    return Amount(0, percent)


SHARE: Kind[Amount] = Kind(
    "a fraction or a percentage",
    _read_share,
    {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"},
        ]
    },
)

# Names of modules, classes and dtypes.


def read_pattern(text: str, cursor: Cursor) -> Pattern | None:
    """Read a pattern. Collects DP104 at the characters that are wrong."""
    try:
        return Pattern.parse(text)
    except PatternError as broken:
        inside = Inside(text, broken.offset, broken.length)
        cursor.error("DP104", str(broken), help=broken.help, inside=inside)
        return None


def _read_pattern_value(value: object, cursor: Cursor) -> Pattern | None:
    if isinstance(value, str):
        return read_pattern(value, cursor)
    wrong_type(value, cursor, "a pattern of module paths, or a list of them")
    return None


_SEGMENT = r"(\*\*|([^.*{}]|\*(?!\*)|\{[0-9]+\.\.[0-9]*\})+)"
PATTERN: Kind[Pattern] = Kind(
    "a pattern", _read_pattern_value, {"type": "string", "pattern": rf"^{_SEGMENT}(\.{_SEGMENT})*$"}
)


def _read_class(value: object, cursor: Cursor) -> str | None:
    if not isinstance(value, str):
        wrong_type(value, cursor, "a class name, or a list of them")
        return None
    if re.fullmatch(r"[\w*?]+", value):
        return value
    name = re.sub(r"[^\w*?]", "", value.strip().rpartition(".")[2])
    hint = f"did you mean `{name}`?" if name else "such as `*Attention`"
    cursor.error("DP104", f"`{value}` is no name of a class", label="letters, digits, `_`, `*` and `?`", help=hint)
    return None


CLASS: Kind[str] = Kind("a glob of class names", _read_class, {"type": "string", "pattern": r"^[^\s.]+$"})


def _read_class_path(value: object, cursor: Cursor) -> str | None:
    if not isinstance(value, str):
        wrong_type(value, cursor, "the path of a class")
        return None
    if re.fullmatch(r"[\w*?]+(\.[\w*?]+)*", value):
        return value
    hint = "such as `haystack_integrations.*Embedder`"
    cursor.error("DP104", f"`{value}` is no path of a class", label="names with dots, `*` and `?`", help=hint)
    return None


CLASS_PATH: Kind[str] = Kind(
    "a glob of class paths", _read_class_path, {"type": "string", "pattern": r"^[^\s.]+(\.[^\s.]+)*$"}
)

_SHORT_DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32",
    "single": "float32", "fp64": "float64", "double": "float64", "fp8": "float8_e4m3fn",
}  # fmt: skip
CACHE_DTYPES = tuple(sorted(FLOATING)) + tuple(
    name for name in DTYPE_BITS if name.startswith("float8_e") and "m" in name
)


def one_of_dtypes(*names: str) -> Kind[str]:
    """Return the kind of torch's names of dtypes, from those given."""

    def read(value: object, cursor: Cursor) -> str | None:
        if not isinstance(value, str):
            wrong_type(value, cursor, "the name of a dtype")
            return None
        if value in names:
            return value
        word = value.removeprefix("torch.").lower()
        meant = _SHORT_DTYPES.get(word, word)
        if word == "auto":
            hint = "leave the key out: the model's own dtype is the default"
        else:
            hint = f"did you mean `{meant}`?" if meant in names else did_you_mean(meant, names)
        cursor.error("DP104", f"`{value}` is no dtype that this key takes", label="not one of them", help=hint)
        return None

    return Kind("a dtype: " + ", ".join(f'`"{name}"`' for name in names), read, {"enum": list(names)})
