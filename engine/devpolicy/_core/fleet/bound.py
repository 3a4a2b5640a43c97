"""A bound on every plan of a fleet, for a search over nodes that was cut short.

Owns the relaxation: components are bytes, and all nodes of one kind are one room. Where not even that has a place for a
component with one wish more, no plan has. HiGHS says so with the extra `solver`; without it sums of bytes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from devpolicy._core.certify.highs import Model, available
from devpolicy._core.fleet.assignment import Assigned, Assignment
from devpolicy._core.fleet.certificate import FleetCertificate
from devpolicy._core.fleet.components import Node
from devpolicy._core.planning.search import Choice
from devpolicy._core.sizes import GIB

if TYPE_CHECKING:
    from devpolicy._core.fleet.planner import Joint

_POOLS = ("accelerators", "all")
_Needs = dict[int, dict[str, int]]
"""By the kind of a node the bytes that a component takes at least of each pool."""


def certify(joint: Joint, found: Assignment, *, granted: bool, moved: bool) -> FleetCertificate:
    """Return what can be shown of an assignment."""
    names = [component.title for component in joint.components]
    steps = joint.assigner.steps
    settled = list(range(len(names)))
    if not granted:
        bound = _Bound(joint)
        settled = [number for number in settled if bound.is_settled(found, number)]
    return FleetCertificate(
        settled=tuple(names[number] for number in settled),
        open=tuple(name for number, name in enumerate(names) if number not in settled),
        by="search" if granted else "highs" if available() else "bytes",
        smallest=steps.whole,
        fewest_moves=steps.whole if moved else None,
        divided=tuple(names[number] for number in sorted(steps.divided)),
    )


class _Bound:
    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.kinds: dict[int, list[Node]] = {}
        for node in joint.nodes:
            self.kinds.setdefault(node.kind, []).append(node)
        self.spent = [asked.choices for asked in joint.spent()]
        self.rooms = {kind: self._room(nodes[0]) for kind, nodes in self.kinds.items()}

    def is_settled(self, found: Assignment, number: int) -> bool:
        """Whether no plan grants a component more, given what those before it have."""
        better = list(self._better(number, found[number]))
        if not better:
            return True
        asked = (
            [(one.choice,) for one in found[:number]]
            + [tuple(better)]
            + [tuple(one) for one in self.spent[number + 1 :]]
        )
        needs = [self._needs(at, choices) for at, choices in enumerate(asked)]
        return not all(needs) or not self._has_room(needs)

    def _better(self, number: int, one: Assigned) -> Iterator[Choice]:
        """Yield, of the choices that give way less, those that take the fewest bytes."""
        options = self.joint.components[number].options
        have = self._level(number, one.choice, any(one.away))
        for candidate in options.candidates:
            contexts = options.contexts.get(candidate.model)
            tried: list[int | None] = [None]
            if contexts is not None and one.choice.context is not None:
                above = contexts.number(one.choice.context) + 1
                tried = [contexts.least, *([contexts[above]] if above < len(contexts) else [])]
            for context in tried:
                choice = Choice(candidate, context, options.overflow)
                if self._level(number, choice, kept=False) < have:
                    yield choice

    def _level(self, number: int, choice: Choice, kept: bool) -> tuple[int, ...]:
        one = choice.candidate
        levels = {
            "prefer": one.prefer,
            "model": one.model,
            "quantization": one.quantization,
            "context": -(choice.context or 0),
            "overflow": int(kept),
        }
        return tuple(levels[wish] for wish in reversed(self.joint.components[number].relax))

    def _needs(self, number: int, choices: Sequence[Choice]) -> _Needs:
        """Return what a component takes at least, on the kinds of nodes that have a place for it."""
        found: _Needs = {}
        component = self.joint.components[number]
        for kind, nodes in self.kinds.items():
            if all(component.unlabelled(node) for node in nodes):
                continue
            attempts = component.attempts(kind, nodes[0].host)
            least: list[dict[str, int]] = []
            for choice in choices:
                plans = self.joint.loads.plans(nodes[0], (), number, choice, 1)
                if plans:
                    ledger = plans[0].ledger
                    held = {name: one.weights + one.kv_cache for name, one in ledger.items() if name != "disk"}
                    away = choice.overflow and bool(attempts.places)
                    total = 0 if away and "disk" in attempts.places else sum(held.values())
                    fixed = 0 if away else sum(size for name, size in held.items() if name != "cpu")
                    least.append({"accelerators": fixed, "all": total})
            if least:
                found[kind] = {pool: min(one[pool] for one in least) for pool in _POOLS}
        return found

    def _room(self, node: Node) -> dict[str, int]:
        sound = sum(one.memory for one in node.host.accelerators if one.fault is None)
        shared = any(one.unified for one in node.host.accelerators)
        return {"accelerators": sound, "all": node.host.memory + (0 if shared else sound)}

    def _has_room(self, needs: Sequence[_Needs]) -> bool:
        if not available():
            most = {
                pool: sum(self.rooms[kind][pool] * len(nodes) for kind, nodes in self.kinds.items()) for pool in _POOLS
            }
            return all(sum(min(one[pool] for one in need.values()) for need in needs) <= most[pool] for pool in _POOLS)
        model = Model()
        columns = [{kind: model.variable(0, 1, whole=True) for kind in need} for need in needs]
        for column in columns:
            model.row(1, 1, dict.fromkeys(column.values(), 1.0))
        for kind, nodes in self.kinds.items():
            for pool in _POOLS:
                terms = {
                    column[kind]: need[kind][pool] / GIB
                    for column, need in zip(columns, needs, strict=True)
                    if kind in column and need[kind][pool]
                }
                if terms:
                    model.row(-float("inf"), self.rooms[kind][pool] * len(nodes) / GIB, terms)
        return model.bound() is not None
