"""Structures of common model families, from a configuration alone.

Owns which families have a template, for hosts where Transformers is not installed, and the names that their checkpoints
have. A test holds each template against what version 5 of Transformers builds. Whatever a template does not know
(another task head, another activation) is no match, and the caller falls back to what the checkpoint's headers say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from devpolicy._core.loading.dtypes import loaded_dtype
from devpolicy._core.model.architecture_template import Config, Template, build
from devpolicy._core.model.facts import named_dtype
from devpolicy._core.model.ranges import PatternError
from devpolicy._core.model.templates.bert import BERTS
from devpolicy._core.model.templates.decoders import DECODERS
from devpolicy._core.model.templates.defaults import complete
from devpolicy._core.model.templates.encoders import ENCODERS
from devpolicy._core.model.templates.family import Family
from devpolicy._core.model.templates.mixtures import MIXTURES
from devpolicy._core.model.templates.paired import PAIRED, PAIRED_CLASSES
from devpolicy._core.model.templates.towers import TOWER_CLASSES, TOWERS
from devpolicy._core.model.tree import ModelTree

FAMILIES: Mapping[str, Callable[[Config, str], Template | None]] = {
    **DECODERS,
    **MIXTURES,
    **BERTS,
    **ENCODERS,
    **PAIRED,
    **TOWERS,
}
"""What makes a template of a completed configuration and the name of a class, by model type."""

_SINCE: Mapping[str, tuple[int, int]] = {
    "deepseek_v2": (5, 24),
    "deepseek_v3": (5, 24),
    "glm4_moe": (5, 24),
    "glm4_moe_lite": (5, 24),
    "gemma2": (5, 21),
}
"""The release of Transformers that a template is of, where earlier ones of version 5 load the model otherwise.

Routers stay in float32 since 5.24 (`_keep_in_fp32_modules_strict`), and Gemma 2 is given eager attention since 5.21
(`_supports_sdpa`).
"""


def templates_hold(model_type: str, transformers: str) -> bool:
    """Whether a version of Transformers builds the same as the templates of a model type."""
    try:
        major, minor = map(int, transformers.split(".")[:2])
    except ValueError:
        return False
    return major == 5 and (major, minor) >= _SINCE.get(model_type, (5, 0))


def family_tree(config: Config, dtype: str | None = None) -> ModelTree | None:
    """Return the model that Transformers would build, or `None` where no template covers it.

    `config` is the content of a `config.json`, `dtype` what is loaded, by default what it names, else float32. Where it
    names no class, the task-free one is built.
    """
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    architecture = task_free(model_type) if architectures is None else named
    if family is None or not isinstance(architecture, str):
        return None
    try:
        whole = complete(config, model_type)
        template = None if whole is None else family(whole, architecture)
        if template is None or not all(isinstance(size, int) and size > 0 for size in template.sizes.values()):
            return None
        return build(template, architecture, dtype or loaded_dtype(named_dtype(config), ()))
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, PatternError):
        return None  # a size that the template needs is missing or no number


def classes_of(model_type: str) -> Iterator[str]:
    """Yield the classes of a model type that there are templates for, those that write text or mask it first."""
    family = FAMILIES.get(model_type)
    if isinstance(family, Family):
        yield from family.heads
        yield family.body_class
    yield from {**PAIRED_CLASSES, **TOWER_CLASSES}.get(model_type, ())


def task_free(model_type: str) -> str | None:
    """Return the class that `AutoModel` has for a model type, `None` where there is no template for it."""
    others = ("LMHeadModel", "EncoderModel")
    classes = (name for name in classes_of(model_type) if name.endswith("Model") and not name.endswith(others))
    return next(classes, None)
