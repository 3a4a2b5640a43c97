"""What a device map can say of a block that rules divide, and of tensors outside of any block.

Owns what follows from the rules because of how accelerate runs a map: the pieces of a block stay together, and what
must run on the main device does. The rules themselves are the matter of `rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from devpolicy._core.connected import united
from devpolicy._core.errors import Diagnostic
from devpolicy._core.placement.rules import Assignment, Kept, Refused, World
from devpolicy._core.placement.units import Unit

_CUT = "a rule keeps a part of a block elsewhere, so the block and what it may read run on the main device"
_OWN = "the consumer moves what the model itself holds to the main device"


def hold_together(units: Sequence[Unit], world: World, result: Assignment) -> None:
    """Hold the pieces of each block together, or refuse where the consumer could not run them (DP404, DP408)."""
    blocks: dict[int, list[int]] = {}
    for at, unit in enumerate(units):
        if unit.block is not None:
            blocks.setdefault(unit.block, []).append(at)
        if unit.own_only and at in result.kept:
            raise Refused(_mixed_container(unit, result.kept[at]))
    free = {at for cluster in result.clusters for at in cluster}
    whole, cut = [], []
    for pieces in blocks.values():
        running = [at for at in pieces if at not in result.kept]
        seats = {result.pinned[at][0] for at in running if at in result.pinned}
        loose = [at for at in running if at in free]
        if len(seats) > 1 or (seats and loose and len(world.seats) > 1):
            raise Refused(_apart(units, pieces, result))
        places = {result.kept[at].place for at in pieces if at in result.kept}
        if len(places) + bool(running) > 1:
            cut.append(pieces)
        elif loose:
            whole.append(loose)
    result.clusters = united([*result.clusters, *whole])
    if cut:
        _bind_cut(units, cut, result)
    if units and units[0].own_only and not units[0].path:
        _bind_own(world, result)


def _bind_cut(units: Sequence[Unit], cut: list[list[int]], result: Assignment) -> None:
    """Run the cut blocks and all that they may read on the main device.

    What is kept elsewhere runs on the main device. accelerate moves a module's inputs where it has a hook, and a
    cut block has none as a whole: its residual connection adds what comes from the block before to what its
    pieces return, and its attention turns queries by rotary tables that are made once for all blocks. So everything
    up to the last cut block runs there, and what stands beside the blocks too: the tables are registered behind them.
    """
    last = max(pieces[-1] for pieces in cut)
    beside = max(units[pieces[0]].stack_end for pieces in cut)
    bound = set()
    for at, unit in enumerate(units):
        if at > last and (unit.is_block or unit.block is not None or unit.start >= beside):
            continue
        bound.add(at)
        if at in result.pinned:
            seat = result.pinned[at][0]
            if result.main not in (None, seat):
                raise Refused(_apart(units, [at], result))
            result.main = seat
    _bind(bound, _CUT, result)


def _bind_own(world: World, result: Assignment) -> None:
    """Run what the model itself holds on the main device.

    accelerate gives the root a hook for the main device, which moves the root's own tensors there, whatever their keys
    say. They come first, so without pins they are on the lowest device anyway.
    """
    lowest = min((seat for seat, _ in result.pinned.values()), default=None)
    if lowest is None or len(world.seats) == 1:
        return
    if 0 not in result.pinned:
        _bind({0}, _OWN, result)
        return
    seat, rule = result.pinned[0]
    if seat != lowest or result.main not in (None, seat):
        main = world.seats[lowest if result.main is None else result.main]
        raise Refused(
            Diagnostic(
                "DP408",
                f"rule `{rule.name}` runs what the model itself holds on `{world.seats[seat]}`, "
                f"and the consumer would move it to the main device, `{main}`",
                rule.place,
                help="match the model's children (`*`), and leave the model itself out",
            )
        )
    result.main = seat


def _bind(bound: Iterable[int], why: str, result: Assignment) -> None:
    """Take the clusters that hold any of `bound` out of the search: they run on the main device."""
    wanted, left = set(bound), []
    for cluster in result.clusters:
        if wanted.isdisjoint(cluster):
            left.append(cluster)
        else:
            result.with_main.update(dict.fromkeys(cluster, why))
            result.bound.append(cluster)
    result.clusters = left


def _apart(units: Sequence[Unit], pieces: list[int], result: Assignment) -> Diagnostic:
    at = next(at for at in pieces if at in result.pinned)
    rule = result.pinned[at][1]
    whole = units[pieces[0]].path
    block = units[at].path.rpartition(".")[0] or whole
    return Diagnostic(
        "DP404",
        f"rule `{rule.name}` runs `{units[at].path}` apart from the rest of its block",
        rule.place,
        "a block runs on one device",
        help=f"match the whole block (`{block}`), or keep the part elsewhere with `offload`",
    )


def _mixed_container(unit: Unit, kept: Kept) -> Diagnostic:
    path = unit.path or "the model itself"
    return Diagnostic(
        "DP408",
        f"rule `{kept.rule}` keeps the own tensors of `{path}` on `{kept.place}` and leaves its children",
        help=f"keep all of `{path}` there, or only its children",
    )
