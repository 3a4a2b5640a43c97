"""What the checks of this folder share: the words of an error, the last device, and a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from devpolicy._core.simulation import simulated_host

two_gpus = pytest.mark.two_gpus
"""The machine needs a second GPU; one without skips it."""


def last() -> torch.device:
    """Return the last GPU: the second of two, the only one of one."""
    return torch.device("cuda", torch.cuda.device_count() - 1)


def raises(kind: Any, call: Callable[[], object], words: str = "") -> BaseException:
    """Return what `call` raises, which is of a kind and has these words."""
    with pytest.raises(kind) as raised:
        call()
    assert words in str(raised.value)
    return raised.value


def raises_alone(kind: type[BaseException], code: str, words: str) -> None:
    """Hold that a statement raises. On hardware in a process of its own, whose devices are lost after it."""
    if simulated_host() is not None:
        raises(kind, lambda: exec(code, {"torch": torch}), words)
        return
    done = subprocess.run([sys.executable, "-c", f"import torch\n{code}"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert kind.__name__ in done.stderr
