"""The smallest change that would make a refused plan possible.

Owns the help of a refusal. Each change is tried by planning again, with one thing altered, so what is
suggested is known to work. It changes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from devpolicy._core.abilities import Target
from devpolicy._core.device import LARGEST_ID
from devpolicy._core.errors import PolicyError, Unsatisfiable
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.fields import TensorSplit
from devpolicy._core.language.policy import Amount, DeviceSelector, ResolvedPolicy
from devpolicy._core.memory.budgets import FREE_STEP
from devpolicy._core.memory.sizing import context_of
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.candidates import OVERFLOW
from devpolicy._core.sizes import GIB, MIB, TIB, format_size

if TYPE_CHECKING:
    from devpolicy._core.placement.assemble import PlacedModel

Make = Callable[[ResolvedPolicy, ModelTree, Host], "PlacedModel"]
"""Places a model. Raises where that is refused."""
Attempt = Callable[[ResolvedPolicy, Host], "PlacedModel | None"]
"""Places the model with an altered policy and host, `None` for a refusal."""

_MOST_STEPS = 4 * TIB // FREE_STEP
_MOST_DEVICES = 8
_LARGE = 5_000
"""For trees of more modules only `overflow` is tried: planning dozens of times would take longer than anyone waits."""
_LEAST_CONTEXT = 128


def suggestions(policy: ResolvedPolicy, tree: ModelTree, host: Host, make: Make, consumer: Target) -> str:
    """Return the help of a refusal: each line one change that would do, the smallest first; empty where none would."""
    # Whether it fits is all that is asked: what fits in the order of ids fits in the fastest order. But where several
    # devices cost the consumer more than one does, `when-needed` alone takes one.
    alike = consumer.abilities.budget == "per-device" and consumer.abilities.shares_ties != "alone"
    whole = alike and policy.split != "never" and not isinstance(policy.split, TensorSplit)

    def attempt(policy: ResolvedPolicy, host: Host) -> PlacedModel | None:
        policy = replace(policy, split="when-needed") if whole else policy
        try:
            return make(policy, tree, host)
        except (Unsatisfiable, PolicyError):  # on another host other rules apply
            return None

    lines = list(_overflow(policy, host, attempt))
    if len(tree.modules) <= _LARGE:
        lines = [*_memory(policy, host, attempt), *_devices(policy, host, attempt), *lines]
        lines += _share(policy, host, attempt)
        lines += _context(policy, tree, host, attempt)
    lines += _cpu(policy, host, attempt)
    return "\n".join([lines[0], *(f"or {line}" for line in lines[1:])]) if lines else ""


def _present(policy: ResolvedPolicy, host: Host) -> Iterator[tuple[DeviceSelector, list[Accelerator]]]:
    """The accelerator terms of `prefer` that name working devices of this host."""
    for term in policy.prefer:
        named = [one for one in host.devices(term.type) if term.names(one) and one.fault is None]
        if named and host.fault(term.type) is None:
            yield term, named


def _memory(policy: ResolvedPolicy, host: Host, attempt: Attempt) -> Iterator[str]:
    for term, named in _present(policy, host):
        largest = max(named, key=lambda one: (one.free, -(one.id or 0)))
        only = replace(policy, prefer=(term,))
        for which in ([largest], named)[: len(named)]:
            steps = _least(_MOST_STEPS, partial(_with_host, attempt, only, partial(_grown, host, which)))
            if steps is not None:
                each = "each of " if len(which) > 1 else ""
                yield f"{_exactly(steps)} more on {each}{', '.join(f'`{one.type}:{one.id}`' for one in which)} would do"
                break


def _exactly(steps: int) -> str:
    """Return that many steps as text: rounded to a decimal, what is suggested would not do."""
    size = steps * FREE_STEP
    return f"{size // MIB} MiB" if size < GIB else f"{size / GIB:g} GiB"


def _with_host(
    attempt: Attempt, policy: ResolvedPolicy, change: Callable[[int], Host], steps: int
) -> PlacedModel | None:
    return attempt(policy, change(steps))


def _grown(host: Host, which: Sequence[Accelerator], steps: int) -> Host:
    more = steps * FREE_STEP
    accelerators = tuple(
        replace(one, memory=one.memory + more, free=one.free + more) if one in which else one
        for one in host.accelerators
    )
    pool = more if any(one.unified for one in which) else 0
    return replace(host, accelerators=accelerators, memory=host.memory + pool, free=host.free + pool)


def _devices(policy: ResolvedPolicy, host: Host, attempt: Attempt) -> Iterator[str]:
    for term, named in _present(policy, host):
        if term.id is not None or term.type == "mps":
            continue
        last = named[-1]
        # Of several that are alike, one alone holds no more than the next; but others may have taken from the first.
        wanted = 1 if policy.split == "never" else _MOST_DEVICES
        most = min(wanted, LARGEST_ID - max(one.id or 0 for one in host.devices(term.type)))
        only = replace(policy, prefer=(term,))
        larger = partial(_with_host, attempt, only, partial(_with_more_like, host, last))
        count = next((count for count in range(1, most + 1) if larger(count) is not None), None)
        if count is not None:
            yield f"{count} more device{'s' if count > 1 else ''} like `{last.type}:{last.id}`"


def _with_more_like(host: Host, one: Accelerator, count: int) -> Host:
    first = max(other.id or 0 for other in host.devices(one.type)) + 1
    added = tuple(replace(one, id=first + at, uuid=None, physical=None) for at in range(count))
    return replace(host, accelerators=(*host.accelerators, *added))


def _overflow(policy: ResolvedPolicy, host: Host, attempt: Attempt) -> Iterator[str]:
    if policy.overflow:
        return
    for places in (("cpu",), ("disk",), ("cpu", "disk")):
        placed = attempt(replace(policy, overflow=tuple(DeviceSelector(place) for place in places)), host)
        if placed is not None:
            units, offloaded = placed.division.units, placed.solution.offloaded
            kept = sum(
                units[at].buffers + units[at].elsewhere for at, offload in offloaded.items() if offload.rule == OVERFLOW
            )
            kept += placed.ledger["cpu"].weights if placed.kept else 0
            written = f'"{places[0]}"' if len(places) == 1 else '["cpu", "disk"]'
            yield f"`overflow = {written}`, which keeps {format_size(kept)} there and is slower"
            return


def _share(policy: ResolvedPolicy, host: Host, attempt: Attempt) -> Iterator[str]:
    if policy.share is None:
        return
    least = int(policy.share.percent)

    def larger(steps: int) -> PlacedModel | None:
        return attempt(replace(policy, share=Amount(percent=least + steps)), host)

    steps = _least(100 - least, larger)
    if steps is not None:
        yield f'`share = "{least + steps}%"`'


def _context(policy: ResolvedPolicy, tree: ModelTree, host: Host, attempt: Attempt) -> Iterator[str]:
    context = context_of(tree, policy.workload)

    def shorter(steps: int) -> PlacedModel | None:
        workload = replace(policy.workload, context=context - steps * _LEAST_CONTEXT)
        return attempt(replace(policy, workload=workload), host)

    # The answer must still have room in it.
    steps = _least((context - 1 - (policy.workload.new_tokens or 0)) // _LEAST_CONTEXT, shorter)
    if steps is not None:
        yield f"`[workload]` with `context = {context - steps * _LEAST_CONTEXT}`"


def _cpu(policy: ResolvedPolicy, host: Host, attempt: Attempt) -> Iterator[str]:
    cpu = DeviceSelector("cpu")
    if cpu in policy.prefer:
        return
    if attempt(replace(policy, prefer=(cpu,)), host) is not None:
        yield '`"cpu"` at the end of `prefer`'
    elif attempt(replace(policy, prefer=(cpu,), overflow=(DeviceSelector("disk"),)), host) is not None:
        yield '`"cpu"` at the end of `prefer`, with `overflow = "disk"`'


def _least(most: int, attempt: Callable[[int], PlacedModel | None]) -> int | None:
    """Return the least step from 1 to `most` that succeeds, if more is never worse; `None` where `most` fails."""
    if most < 1 or attempt(most) is None:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(middle) is None:
            low = middle
        else:
            high = middle
    return high
