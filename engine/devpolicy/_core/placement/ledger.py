"""The ledger of a plan: what each device is asked to hold.

Owns the sums, taken anew from the placement and not from the search, so that an error of the search
shows in a broken invariant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from devpolicy._core.placement.plan import Budget
from devpolicy._core.placement.rules import World
from devpolicy._core.placement.search import Solution
from devpolicy._core.placement.units import Unit


def ledger_of(units: Sequence[Unit], solution: Solution, world: World) -> dict[str, Budget]:
    """Return the budgets of the devices that are used: executing ones in id order, then `cpu`, then `disk`.

    INVARIANT: on each but the disk, `used + headroom <= cap`.
    """
    ledger: dict[str, Budget] = {}
    away = {place: [at for at, kept in solution.kept.items() if kept.place == place] for place in ("cpu", "disk")}
    on_cpu = sum(units[at].weights for at in away["cpu"])
    # By side of the one pool that integrated accelerators share with the CPU.
    pool = {"cpu": on_cpu}
    for number in sorted(set(solution.seat)):
        seat = world.seats[number]
        running = [at for at, where in enumerate(solution.seat) if where == number]
        here = [at for at in running if at not in solution.kept]
        is_main = number == solution.main
        ledger[str(seat)] = Budget(
            weights=sum(units[at].resident for at in here)
            + (sum(units[at].buffers for at in solution.kept) if is_main else 0),
            kv_cache=sum(units[at].kv_cache for at in running) if seat.kv_cache is None else seat.kv_cache,
            activations=world.activations(number),
            streaming=max((units[at].streamed for at in solution.kept), default=0) if is_main else 0,
            others=seat.others,
            headroom=seat.headroom,
            cap=seat.cap,
        )
        if seat.unified:
            pool[str(seat)] = ledger[str(seat)].used - seat.others
    if away["cpu"]:
        ledger["cpu"] = Budget(weights=on_cpu, others=world.cpu.others, headroom=world.cpu.headroom, cap=world.cpu.cap)
    if len(pool) > 1:
        for side in pool.keys() & ledger.keys():
            beside = sum(pool.values()) - pool[side]
            ledger[side] = replace(ledger[side], others=ledger[side].others + beside)
    if away["disk"]:
        ledger["disk"] = Budget(
            weights=sum(units[at].weights for at in away["disk"]),
            headroom=world.disk.headroom,
            cap=world.disk.cap,
        )
    return ledger
