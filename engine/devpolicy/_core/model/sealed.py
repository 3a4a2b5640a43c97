"""Building a model of Transformers with its ways out of the process shut.

Owns what is shut while a model is built: questions on stdin and code of a checkpoint, kernels and models of the hub,
and a number of modules beyond all models. `neutral` takes away what would lead there; this holds where
it missed something. Other threads of the process are not affected.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import shown
from devpolicy._core.model.limits import LARGEST_TREE

_made: ContextVar[list[int] | None] = ContextVar("devpolicy_modules_made", default=None)
"""In a thread that builds a model, the number of its modules so far."""

_lock = threading.Lock()
_builds = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def sealed() -> Iterator[None]:
    """Shut Transformers' ways out for what this thread does in the block. Raises `ModelError` where one is tried."""
    global _builds
    with _lock:
        if not _builds:
            _restore.extend(_shut())
        _builds += 1
    token = _made.set([0])
    try:
        yield
    finally:
        _made.reset(token)
        with _lock:
            _builds -= 1
            while not _builds and _restore:
                _restore.pop()()


def _shut() -> Iterator[Callable[[], None]]:
    """Replace the doors one after the other, and yield for each what puts it back."""
    from torch import nn
    from transformers import backbone_utils
    from transformers.integrations import hub_kernels
    from transformers.models.auto import auto_factory
    from transformers.utils import import_utils

    yield _replace(backbone_utils, "hf_api", lambda *_, **__: _NoHub())
    yield _replace(hub_kernels, "get_kernel", _no_kernel)
    yield _replace(sys.modules.get("kernels"), "get_kernel", _no_kernel)
    # Some models ask as they are imported whether a kernel of the hub could be used, by loading it. The answer is kept
    # for the whole process, so it is what it would be later: yes, where `kernels` is installed.
    kernels_here = getattr(import_utils, "is_kernels_available", lambda: False)
    yield _replace(import_utils, "is_flash_attn_kernel_fallback_available", lambda *_, **__: kernels_here())
    yield _replace(auto_factory, "resolve_trust_remote_code", lambda *_, **__: False)
    yield _replace(auto_factory, "get_class_from_dynamic_module", _no_code)
    yield _count(nn.Module)


def _replace(owner: Any, name: str, sealed_door: Callable[..., Any]) -> Callable[[], None]:
    """Put `sealed_door` in a function's place for the threads that build. Return what puts the function back."""
    before = getattr(owner, name, None)
    if before is None:  # a version of Transformers that does not have this door
        return lambda: None

    def door(*args: Any, **kwargs: Any) -> Any:
        return before(*args, **kwargs) if _made.get() is None else sealed_door(*args, **kwargs)

    setattr(owner, name, door)
    return lambda: setattr(owner, name, before)


def _count(module_class: Any) -> Callable[[], None]:
    """Count what is made of `module_class` in the threads that build, and stop the build that makes too many."""
    before = module_class.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        count = _made.get()
        if count is not None:
            count[0] += 1
            if count[0] > LARGEST_TREE:
                message = f"this configuration makes a model of more than {LARGEST_TREE} modules, the limit"
                raise ModelError(Diagnostic("DP104", message))
        before(self, *args, **kwargs)

    module_class.__init__ = counting
    return lambda: setattr(module_class, "__init__", before)


class _NoHub:
    """The hub for a thread that builds: a repository is not looked for, and a model's own short name is none."""

    def repo_exists(self, name: object, *_: Any, **__: Any) -> bool:
        if "/" in str(name):
            message = f"the configuration names `{shown(name)}`, a repository: nothing is fetched for a plan"
            help_ = "write the configuration of the backbone as `backbone_config`"
            raise ModelError(Diagnostic("DP104", message, help=help_))
        return False


def _no_kernel(name: object = "", *_: Any, **__: Any) -> Any:
    raise ImportError(f"the kernel `{shown(name)}` is not loaded for a plan")


def _no_code(*_: Any, **__: Any) -> Any:
    raise ModelError(Diagnostic("DP104", "the configuration names code of its checkpoint, which is not run"))
