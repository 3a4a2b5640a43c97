"""Haystack's components under a policy.

    with use_policy(policy): ...                                        # components that are made without a device
    Pipeline.loads(text, callbacks=DeserializationCallbacks(component_pre_init=decide(policy)))  # a saved pipeline
    apply(pipeline, policy)                                             # a pipeline that was built in code

Owns the public names for Haystack. A process in which `DEVPOLICY` names a policy needs `import devpolicy` alone.
"""

from __future__ import annotations

from devpolicy._core.targets.haystack import from_haystack, restore_order, to_haystack
from devpolicy._core.targets.haystack_components.ambient import COMPONENTS
from devpolicy._core.targets.haystack_components.applying import apply
from devpolicy._core.targets.haystack_components.deciding import decide
from devpolicy._core.targets.haystack_components.survey import Resolved, Survey, survey
from devpolicy._core.targets.pools import fastembed_pool, sentence_transformers_pool

__all__ = [
    "Resolved",
    "Survey",
    "apply",
    "decide",
    "fastembed_pool",
    "from_haystack",
    "install",
    "restore_order",
    "sentence_transformers_pool",
    "survey",
    "to_haystack",
    "uninstall",
]


def __dir__() -> list[str]:
    return __all__


def install() -> None:
    """Make components that are given no device ask the policy that `DEVPOLICY` names.

    `import devpolicy` does this where the variable is set by then: this is for programs that set it later. It counts
    for all threads, until `uninstall`. Blocks of `use_policy` need neither.
    """
    COMPONENTS.install()


def uninstall() -> None:
    """Put back what `install` replaced in Haystack, once no `use_policy` block is open."""
    COMPONENTS.uninstall()
