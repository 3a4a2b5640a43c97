"""The result of probing one source, and a timeout for sources that may raise or hang.

Owns the rule that no driver's failure leaves the probe as an exception: it becomes a fault, one
line of text under the name of the source.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from devpolicy._core.child_process import MALFORMED, timeout_message
from devpolicy._core.host import Accelerator
from devpolicy._core.text import one_line
from devpolicy._core.threads import started

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Accelerators in the order of torch's ids, and pairs of versions and of faults, as `Host` takes them."""

    accelerators: tuple[Accelerator, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    faults: tuple[tuple[str, str], ...] = ()


def reason(error: BaseException) -> str:
    """Return an error as one line: its message, or the name of its class where it has none."""
    return one_line(error) or type(error).__name__


def with_timeout(seconds: float, ask: Callable[[], T]) -> T:
    """Return what `ask` returns, or raise `TimeoutError` after `seconds`, or what it raises: always an `Exception`.

    The call cannot be stopped: one that hangs in a driver keeps a daemon thread until the process ends.
    The thread sees the caller's context variables, so that it sees a simulated machine where one is set.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(ask())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failure.append(error)

    thread = threading.Thread(target=copy_context().run, args=(work,), name="devpolicy-probe", daemon=True)
    if started(thread):
        thread.join(seconds)
    else:
        work()  # without threads nothing limits its time
    if failure and not isinstance(failure[0], Exception):
        raise RuntimeError(reason(failure[0]))  # `sys.exit()` in a library is not this program's end
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(timeout_message(seconds))
    return outcome[0]


def accelerator(type: str, facts: Mapping[str, Any]) -> Accelerator:  # noqa: A002 - as in Accelerator
    """Return an accelerator of facts that a driver gave; what makes no sense is left out or becomes a fault."""
    try:
        memory = max(0, int(facts.get("memory") or 0))
        free = min(memory, max(0, int(facts.get("free", memory))))
        capability = facts.get("capability")
        return Accelerator(
            type,
            memory=memory,
            free=free,
            name=one_line(facts.get("name") or "") or None,
            capability=(int(capability[0]), int(capability[1])) if capability else None,
            unified=bool(facts.get("unified")),
            fault=one_line(facts.get("fault") or "") or None,
            physical=facts.get("physical"),
            uuid=one_line(facts.get("uuid") or "") or None,
        )
    except MALFORMED as broken:
        return Accelerator(type, memory=0, fault=f"the driver's facts make no sense: {reason(broken)}")
