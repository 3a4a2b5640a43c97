"""Typed comparisons: `">=24 GiB"`, `2`, `"==0"`, `">=8.9"`, `">=2.6, <3"`.

Owns what they mean and how they are read. A bare number or size means at least. They know no key and no host: what is
compared is handed to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from devpolicy._core.sizes import SizeError, exact_size, parse_size
from devpolicy._core.toml.tables import JsonSchema, Kind, wrong_type

if TYPE_CHECKING:
    from devpolicy._core.toml.tables import Cursor

V = TypeVar("V", int, tuple[int, int])
Operator = Literal[">=", "<=", ">", "<", "=="]


@dataclass(frozen=True, slots=True)
class Comparison(Generic[V]):
    """A comparison with a value; the other operand is on its left."""

    operator: Operator
    value: V

    def holds(self, value: V) -> bool:
        """Whether `value` passes."""
        other = self.value
        return {
            ">=": value >= other, "<=": value <= other, ">": value > other, "<": value < other, "==": value == other,
        }[self.operator]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.operator}{self.shown(self.value)}"

    @staticmethod
    def shown(value: V) -> str:
        """Return a value as it is written."""
        return str(value)


class SizeTest(Comparison[int]):
    """A comparison with a size in bytes: `>=256 MiB`."""

    __slots__ = ()

    @staticmethod
    def shown(value: int) -> str:
        """Return a size with its unit."""
        return exact_size(value)


class CountTest(Comparison[int]):
    """A comparison with a number of devices: `>=2`."""

    __slots__ = ()


class CapabilityTest(Comparison[tuple[int, int]]):
    """A comparison with a compute capability: `>=8.9`."""

    __slots__ = ()

    @staticmethod
    def shown(value: tuple[int, int]) -> str:
        """Return a capability with its dot."""
        return f"{value[0]}.{value[1]}"


@dataclass(frozen=True, slots=True)
class VersionTest:
    """A comparison with versions of software, as Python's packages compare them: `>=2.6, <3`."""

    text: str

    def holds(self, version: str) -> bool:
        """Whether `version` passes; a text that is no version never does. What comes before a release counts too."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # not needed before
        from packaging.version import InvalidVersion

        try:
            return SpecifierSet(self.text).contains(version, prereleases=True)
        except (InvalidSpecifier, InvalidVersion):
            return False

    def __str__(self) -> str:
        return self.text


# Reading.

_OPERATORS: dict[str, Operator] = {">=": ">=", "<=": "<=", ">": ">", "<": "<", "==": "=="}
_MISTAKEN = {"=>": ">=", "=<": "<=", "=": "==", "": ">="}
_PARTS = re.compile(r"\s*([<>=!~]*)\s*(.*?)\s*", re.DOTALL)
_SIGN = r"^\s*(>=|<=|>|<|==)"


def _read_parts(text: str, cursor: Cursor, example: str, *, bare: bool) -> tuple[Operator, str] | None:
    """Return the operator and the rest of a comparison; with `bare`, none means at least. Collects DP104."""
    found = _PARTS.fullmatch(text)
    operator, rest = (found[1], found[2]) if found else ("", text)
    if operator in _OPERATORS:
        return _OPERATORS[operator], rest
    if bare and not operator:
        return ">=", rest
    meant = _MISTAKEN.get(operator)
    hint = f'did you mean "{meant}{rest}"?' if meant else f"such as {example}; operators are >=, >, <=, <, =="
    cursor.error("DP104", f"`{text}` is no comparison", label="no operator", help=hint)
    return None


def _read_size_test(value: object, cursor: Cursor) -> SizeTest | None:
    if not isinstance(value, str):
        hint = f'did you mean ">={exact_size(value)}"?' if type(value) is int and value >= 0 else ""
        wrong_type(value, cursor, 'a comparison such as ">=256 MiB"', hint)
        return None
    parts = _read_parts(value, cursor, '">=256 MiB"', bare=False)
    return None if parts is None else _sized(*parts, cursor)


def _sized(operator: Operator, size: int | str, cursor: Cursor) -> SizeTest | None:
    try:
        return SizeTest(operator, parse_size(size))
    except SizeError as broken:
        cursor.error("DP104", str(broken), label="not a size")
        return None


_SIZE = r"\s*[0-9]+(\.[0-9]+)?\s*[KMGTPkmgtp]?i?[Bb]\s*$"
SIZE_TEST: Kind[SizeTest] = Kind(
    'a comparison such as `">=256 MiB"`', _read_size_test, {"type": "string", "pattern": _SIGN + _SIZE}
)


def _read_least_size(value: object, cursor: Cursor) -> SizeTest | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        wrong_type(value, cursor, 'a size such as "20 GiB", or a comparison such as ">=20 GiB"')
        return None
    if isinstance(value, int):
        if 0 < value < 1 << 16:
            hint = f'write "{value} GiB", or "{value} B" where bytes are meant'
            cursor.error("DP104", f"`{value}` would be {value} bytes", label="no unit", help=hint)
            return None
        return _sized(">=", value, cursor)
    parts = _read_parts(value, cursor, '">=20 GiB"', bare=True)
    return None if parts is None else _sized(*parts, cursor)


LEAST_SIZE: Kind[SizeTest] = Kind(
    'a size (at least), or a comparison such as `"<20 GiB"`',
    _read_least_size,
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": rf"{_SIGN}?{_SIZE}"}]},
)


def _read_count(value: object, cursor: Cursor) -> CountTest | None:
    parts = _read_bare(value, cursor, r"([0-9]{1,6})", "a number", '"==0"')
    return CountTest(parts[0], parts[1][0]) if parts else None


def _read_tokens(value: object, cursor: Cursor) -> CountTest | None:
    parts = _read_bare(value, cursor, r"([0-9]{1,10})", "a number of tokens", '">=8192"')
    return CountTest(parts[0], parts[1][0]) if parts else None


def _read_capability(value: object, cursor: Cursor) -> CapabilityTest | None:
    parts = _read_bare(value, cursor, r"([0-9]{1,3})(?:\.([0-9]{1,3}))?", "a compute capability", '">=8.9"')
    return CapabilityTest(parts[0], (parts[1][0], parts[1][1])) if parts else None


def _read_bare(
    value: object, cursor: Cursor, number: str, what: str, example: str
) -> tuple[Operator, tuple[int, ...]] | None:
    """Read a number, or text that is one with or without an operator; `number` is a regex of its parts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        wrong_type(value, cursor, f"{what}, or a comparison such as {example}")
        return None
    parts = _read_parts(str(value), cursor, example, bare=True)
    if parts is None:
        return None
    found = re.fullmatch(number, parts[1])
    if found is None:
        cursor.error("DP104", f"`{value}` is not {what}", label="not one", help=f"such as {example}")
        return None
    read = tuple(int(part or 0) for part in found.groups())
    if parts[0] == ">=" and not any(read):
        cursor.error("DP104", f"`{value}` always holds", label="at least nothing", help='write "==0" for none')
        return None
    return parts[0], read


COUNT_TEST: Kind[CountTest] = Kind(
    'a number (at least), or a comparison such as `"==0"`',
    _read_count,
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": rf"{_SIGN}?\s*[0-9]+\s*$"}]},
)
TOKENS_TEST: Kind[CountTest] = Kind(
    'a number of tokens (at least), or a comparison such as `">=8192"`', _read_tokens, COUNT_TEST.schema
)
_CAPABILITY: JsonSchema = {"type": "string", "pattern": rf"{_SIGN}?\s*[0-9]+(\.[0-9]+)?\s*$"}
CAPABILITY_TEST: Kind[CapabilityTest] = Kind(
    'a compute capability (at least), or a comparison such as `">=8.9"`',
    _read_capability,
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _CAPABILITY]},
)


def _read_version(value: object, cursor: Cursor) -> VersionTest | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if isinstance(value, bool) or not isinstance(value, int | str):
        # TOML's 2.10 is the number 2.1.
        hint = "write versions in quotes" if isinstance(value, float) else ""
        wrong_type(value, cursor, 'a version such as "2.6", or a comparison such as ">=2.6"', hint)
        return None
    text = str(value).strip()
    if not text:
        cursor.error("DP104", "this text is empty", label="empty", help="leave the key out instead")
        return None
    spelt = text if re.match(r"[<>=!~]", text) else f">={text}"
    try:
        SpecifierSet(spelt)
    except InvalidSpecifier:
        sign = re.match(r"[<>=!~]*", text)
        meant = _MISTAKEN.get(sign[0]) if sign and sign[0] else None
        hint = f'did you mean "{meant}{text[len(sign[0]) :].strip()}"?' if sign and meant else 'such as ">=2.6, <3"'
        cursor.error("DP104", f"`{value}` is no version and no comparison", label="not one", help=hint)
        return None
    return VersionTest(spelt)


VERSION_TEST: Kind[VersionTest] = Kind(
    'a version (at least), or a comparison such as `">=2.6, <3"`',
    _read_version,
    {"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 1}]},
)
