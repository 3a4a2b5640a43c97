"""Which module runs, and the device errors of its code.

Owns the stack of modules whose forward runs, and the mode that notes an operator whose tensors are on devices that do
not meet, moves them, and goes on: so one run finds every place where the code does not move its inputs.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor, device
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from devpolicy._core.dry_run.result import RunError

APART = re.compile(r"on the same device|same device as|on different devices|not on the expected device")
_LOST = re.compile(r"meta tensor")
MOST_ERRORS = 100
_MACHINERY = ("/torch/", "/accelerate/", "/devpolicy/_core/", "/contextlib.py", "/functools.py")


class Watch:
    """The modules of one model that run, the innermost last, and what went wrong in them."""

    def __init__(self, places: Callable[[str], str | None]) -> None:
        self.errors: list[RunError] = []
        self.phase = "load"
        self._places = places
        self._paths: dict[int, str] = {}
        self._running: list[Module] = []
        self._raised: tuple[BaseException | None, Module | None] = (None, None)

    def follow(self, model: Module) -> None:
        """Learn the names of the modules."""
        self._paths = {id(module): path for path, module in model.named_modules()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the modules, and pass device errors."""
        hooks = [
            register_module_forward_pre_hook(lambda module, _: self._running.append(module)),
            register_module_forward_hook(lambda module, *_: self._leave(module), always_call=True),
        ]
        try:
            with _PassDeviceErrors(self):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self, module: Module) -> None:
        broken = sys.exc_info()[1]
        if broken is not None and broken is not self._raised[0]:
            self._raised = broken, module  # the innermost is left first
        while self._running and self._running.pop() is not module:
            pass

    def note(self, broken: BaseException, frame: FrameType | None = None) -> None:
        """Record an error with the module that runs and the line of its code. Each line is recorded once."""
        running = self._running[-1] if self._running else None
        if broken is self._raised[0]:
            running = self._raised[1]
        path = None if running is None else self._paths.get(id(running))
        message = str(broken).strip().partition("\n")[0] or type(broken).__name__
        where = _line(frame, broken)
        kind = _kind(broken)
        if kind == "code":
            message = f"{type(broken).__name__}: {message}"
        known = any((one.module, one.line, one.kind) == (path, where, kind) for one in self.errors)
        if known or len(self.errors) >= MOST_ERRORS:
            return
        cls = None if running is None else type(running).__name__
        children = self._children(running, path) if kind == "device" else ()
        self.errors.append(RunError(kind, self.phase, message, path, cls, where, children))

    @staticmethod
    def is_of_devices(broken: BaseException) -> bool:
        """Whether an error is about devices or their memory, so that other inputs would not help."""
        return _kind(broken) != "code"

    def forget(self) -> None:
        """Begin another attempt."""
        self._running.clear()

    def _children(self, running: Module | None, path: str | None) -> tuple[tuple[str, str], ...]:
        if running is None or path is None:
            return ()
        names = [f"{path}.{name}" if path else name for name, _ in running.named_children()]
        found = [(name, place) for name in names if (place := self._places(name)) is not None]
        return tuple(found) if len({place for _, place in found}) > 1 else ()


def _kind(broken: BaseException) -> str:
    if type(broken).__name__ == "OutOfMemoryError":
        return "memory"
    return "device" if APART.search(str(broken)) or _LOST.search(str(broken)) else "code"


def _line(frame: FrameType | None, broken: BaseException) -> str | None:
    """Return the innermost line that is a model's own, with its file."""
    frames = traceback.extract_stack(frame) if frame is not None else traceback.extract_tb(broken.__traceback__)
    own = [entry for entry in frames if not any(part in Path(entry.filename).as_posix() for part in _MACHINERY)]
    if not own:
        return None
    last = own[-1]
    return f"{Path(last.filename).name}:{last.lineno}: {last.line}"


class _PassDeviceErrors(TorchFunctionMode):
    """Records an operator whose tensors are apart, brings them together and runs it again."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError as broken:
            if not APART.search(str(broken)):
                raise
            self._watch.note(broken, sys._getframe(1))
            there = _first_accelerator((args, kwargs))
            if there is None:
                raise
            moved, named = tree_map_only(Tensor, lambda tensor: tensor.to(there), (args, kwargs))
            return func(*moved, **named)


def _first_accelerator(values: Any) -> device | None:
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor))
    return next((tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")), None)
