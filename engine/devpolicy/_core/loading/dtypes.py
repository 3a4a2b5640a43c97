"""The dtype in which Transformers loads each tensor.

Owns the rules of `from_pretrained`: the dtype of the whole model, and the tensors that stay in float32 beside it. The
stored dtype of a tensor plays no part in them but where the configuration names none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

FLOAT32_IN: dict[str, frozenset[str]] = {
    "": frozenset(),
    "float16": frozenset({"float16"}),
    "half": frozenset({"float16", "bfloat16"}),
    "any": frozenset({"float16", "bfloat16", "float32", "float64"}),
}
"""The dtypes of a model in which a tensor is float32 all the same, by the word that a tensor carries.

`"float16"` is Transformers' `_keep_in_fp32_modules`, `"half"` its `_keep_in_fp32_modules_strict`, and `"any"` a tensor
that the model's code makes in float32.
"""

LOADABLE = ("float32", "float16", "bfloat16", "float64")
"""The dtypes that a model can be loaded in."""


def loaded_dtype(named: str | None, stored: Iterable[str]) -> str:
    """Return the dtype of a model that nobody asked for another: the configuration's, else its first floating tensor's.

    `stored` are the dtypes of the checkpoint's tensors, in the order of their names.
    """
    if named in LOADABLE:
        return named
    return next((dtype for dtype in stored if dtype in LOADABLE), "float32")


def float32_rule(model: Any) -> Callable[[str], str]:
    """Return the function that says in which dtypes a Transformers model keeps the tensor of a name in float32."""
    strict = _pattern(getattr(model, "_keep_in_fp32_modules_strict", None))
    float16 = _pattern(getattr(model, "_keep_in_fp32_modules", None))

    def rule(name: str) -> str:
        if strict is not None and strict.search(name):
            return "half"
        return "float16" if float16 is not None and float16.search(name) else ""

    return rule


def has_float32_rule(model: Any) -> bool:
    """Return whether a model keeps any tensor in float32 by name."""
    return bool(getattr(model, "_keep_in_fp32_modules", None) or getattr(model, "_keep_in_fp32_modules_strict", None))


def _pattern(names: Any) -> re.Pattern[str] | None:
    """Return the pattern that Transformers makes of such names: any of them, anywhere, with `*` for any text."""
    texts = sorted(str(name).replace("*", ".*") for name in names or ())
    return re.compile("|".join(texts)) if texts else None
