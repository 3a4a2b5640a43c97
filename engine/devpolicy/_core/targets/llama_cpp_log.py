"""What llama.cpp's own log says that each device holds, once a model is loaded.

Owns starting a program of llama.cpp for as long as it takes to load a model, the lines of its log that name a buffer,
and how a plan compares. Whoever calls says how devices are called there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from time import monotonic

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.placement.plan import Plan
from devpolicy._core.text import one_line

_BUFFER = re.compile(r"(\S{1,100}) +(model|KV|RS|compute) buffer size = +([\d.]+) MiB")
_LOADED = re.compile(r"graph.*: nodes =|graph nodes +=|reserve took")
"""What is logged behind the last compute buffer."""
_TERMS = {"model": "weights", "KV": "kv_cache", "RS": "kv_cache", "compute": "activations"}
_SUFFIX = re.compile(r"_(Mapped|Private|Split|REPACK)$")
_TALKATIVE = {"LLAMA_ARG_LOG_VERBOSITY": "4", "LLAMA_LOG_VERBOSITY": "4"}
"""Since some version buffers are logged to those alone who ask for more; before, the variable had another name."""
_ROUNDED = 5_243
"""Bytes by which a figure of the log, in hundredths of a MiB, differs from the truth at most."""
_LONGEST_LINE, _KEPT_LINES, _GRACE = 1 << 16, 20, 10.0


@dataclass(slots=True)
class Held:
    """What a device holds as the log says it, in bytes."""

    weights: int = 0
    kv_cache: int = 0
    activations: int = 0
    lines: int = 0
    """How many figures that is the sum of, each rounded."""


@dataclass(slots=True)
class Log:
    """The log as far as it was read."""

    names: Mapping[str, str]
    """The plan's device by what llama.cpp calls it."""
    held: dict[str, Held] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    complete: bool = False

    def read(self, line: str) -> None:
        """Take one line. Raises `DevPolicyError` for a buffer of a device that the plan does not use."""
        self.last.append(line)
        computes = any(one.activations for one in self.held.values())
        self.complete = self.complete or bool(computes and _LOADED.search(line))
        for place, what, size in _BUFFER.findall(line) if "buffer size" in line else ():
            one = self.held.setdefault(self._device(place), Held())
            term = _TERMS[what]
            setattr(one, term, getattr(one, term) + round(float(size) * (1 << 20)))
            one.lines += 1

    def _device(self, place: str) -> str:
        found = self.names.get(place) or self.names.get(_SUFFIX.sub("", place))
        if found is None and (place.startswith("CPU") or place.endswith("_Host")):
            return "cpu"
        if found is None:
            message = f"the log names a buffer on `{one_line(place)}`, and the plan uses no such device"
            raise DevPolicyError([Diagnostic("", message, help="give the command no flags that place the model")])
        return found


def measure(
    command: Sequence[str], variables: Mapping[str, str], names: Mapping[str, str], timeout: float
) -> dict[str, Held]:
    """Start a program of llama.cpp, and return what each device holds when the model is loaded; then end it.

    Raises `DevPolicyError` where it cannot be started, ends before, or says nothing within `timeout` seconds.
    """
    try:
        process = subprocess.Popen(
            [*command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_TALKATIVE, **os.environ, **variables},
            start_new_session=True,
        )
    except (OSError, ValueError) as broken:
        reason = broken.strerror if isinstance(broken, OSError) and broken.strerror else str(broken)
        raise _error(
            f"`{command[0]}` cannot be run: {reason.lower()}", "check its name, and that it is on PATH"
        ) from None
    log = Log(names)
    try:
        _follow(process, log, timeout)
    finally:
        _end(process)
    if log.complete:
        return log.held
    if process.returncode:
        said_last = [line for line in reversed(log.last) if line.strip()]
        last = next((line for line in said_last if "error" in line.lower()), next(iter(said_last), ""))
        said = f": {one_line(last)}" if last else ""
        how = f"with status {process.returncode}" if process.returncode > 0 else f"by signal {-process.returncode}"
        message = f"`{command[0]}` ended {how} before the model was loaded{said}"
        raise _error(message, "run the command without `--measure`, and see what it says")
    message = f"the log of `{command[0]}` does not say what each device holds"
    raise _error(message, "give a program of llama.cpp that loads the model: `-- llama-server -m FILE`")


def _follow(process: subprocess.Popen[bytes], log: Log, timeout: float) -> None:
    """Read the log until the model is loaded, the program ends, or time is up."""
    lines: Queue[bytes] = Queue()

    def forward() -> None:
        with suppress(OSError, ValueError):  # it is closed when the program is ended
            while process.stdout is not None and (line := process.stdout.readline(_LONGEST_LINE)):
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=forward, daemon=True).start()
    deadline = monotonic() + timeout
    while not log.complete:
        try:
            line = lines.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            message = f"the model was not loaded within {timeout:g} seconds"
            help_ = "give it more: `--timeout SECONDS`; a server that loads at the first request never does"
            raise _error(message, help_) from None
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            return
        log.read(line.decode(errors="replace").rstrip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program, and whatever it started."""
    for name in ("SIGTERM", "SIGKILL"):
        if process.poll() is not None:
            break
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    if process.stdout is not None:
        process.stdout.close()


def _error(message: str, help_: str) -> DevPolicyError:
    return DevPolicyError([Diagnostic("", message, help=help_)])


def differences(plan: Plan, held: Mapping[str, Held]) -> list[str]:
    """Return where the log says another thing than the plan, as sentences.

    Weights that the CPU maps from the file are counted by llama.cpp in whole ranges of it, so they are left out.
    """
    found = []
    for device in sorted({*plan.ledger, *held} - {"disk"}):
        budget, one = plan.ledger.get(device), held.get(device, Held())
        most = _ROUNDED * max(1, one.lines)
        for term, name in (("weights", "weights"), ("kv_cache", "KV cache")):
            planned, told = getattr(budget, term, 0), getattr(one, term)
            if abs(planned - told) > most and (device, term) != ("cpu", "weights"):
                found.append(f"`{device}` holds {_mib(told)} of {name}, and {_mib(planned)} are planned")
        planned = budget.activations if budget else 0
        if one.activations > planned + most and device != "cpu":
            found.append(f"`{device}` reserves {_mib(one.activations)} to compute, and {_mib(planned)} are planned")
    return found


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.2f} MiB"


def reserves(plan: Plan, held: Mapping[str, Held], program: str) -> str:
    """Return the lines of a policy by which the next plan counts the compute buffers that were measured."""
    lines = [f"# measured with {one_line(Path(program).name)}, on the devices of plan {plan.digest[:19]}"]
    for device, one in held.items():
        if one.activations and device in plan.ledger:
            kib = -(-(one.activations + _ROUNDED) // 1024)
            lines += [f'[memory."{device}"]', f'reserve = {{ activations = "{kib} KiB" }}']
    return "\n".join(lines) + "\n"
