"""Which node each component goes to, with its wishes fixed.

Owns the search over nodes. It looks at choices in the order in which they are preferred, so that the first assignment
that it finds is the best one; it counts its steps, and gives up after so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from devpolicy._core.fleet.components import FleetComponent, Node
from devpolicy._core.fleet.loads import Load, Loads
from devpolicy._core.fleet.shapes import Copies, Cost, Room, Shape, shapes
from devpolicy._core.host import MOST_DEVICES
from devpolicy._core.language.nodes import Nodes
from devpolicy._core.language.wishes import Replicas
from devpolicy._core.placement.plan import Plan
from devpolicy._core.planning.replicas import Group
from devpolicy._core.planning.search import Away, Choice

MOST_STEPS = 2_000
"""Choices of a node that one search looks at."""
MOST_IN_ALL = 30_000
"""Those that all searches of one plan look at."""


Stays = tuple[tuple[int, str], ...]
"""The numbers of the nodes on which copies run now, each with the digest of its plan without its name."""


class Asked(NamedTuple):
    """What an assignment must do for one component."""

    choices: Sequence[Choice]
    """Its wishes: any of these, those that are tried first first."""
    limit: Away | None = None
    """No more bytes may be kept away; `None` sets no limit."""
    most: Cost | None = None
    """Its nodes may cost no more."""
    below: Cost | None = None
    """Its nodes must cost less."""
    stays: Stays = ()
    """Where it runs now; what stays there does not count as a move."""

    def is_too_dear(self, cost: Cost) -> bool:
        """Whether nodes cost more than is asked for."""
        return (self.most is not None and cost > self.most) or (self.below is not None and cost >= self.below)


class Assigned(NamedTuple):
    """One component on its nodes."""

    choice: Choice
    copies: Copies
    away: Away
    cost: Cost
    moves: int = 0
    """The copies that do not run so now."""


Assignment = tuple[Assigned, ...]
"""What is assigned to each component, in their order."""


@dataclass
class Steps:
    """How many steps are left of those that all searches may take together."""

    left: int = MOST_IN_ALL
    exhausted: bool = False
    divided: set[int] = field(default_factory=set)
    """The numbers of components whose copies can be divided over nodes in more ways than were looked at."""

    @property
    def whole(self) -> bool:
        """Whether everything was looked at."""
        return not self.exhausted and not self.divided


@dataclass
class Assigner:
    """Searches for assignments on the nodes of one fleet. Nodes are in the order in which they are preferred."""

    nodes: Sequence[Node]
    components: Sequence[FleetComponent]
    loads: Loads
    steps: Steps = field(default_factory=Steps)
    occupied: frozenset[int] = frozenset()
    """The numbers of nodes on which something runs now."""

    @cached_property
    def _labels(self) -> list[str]:
        """What components lack on each node: where that differs, nodes are not alike."""
        return [str([component.unlabelled(node) for component in self.components]) for node in self.nodes]

    def first(self, asked: Sequence[Asked], moves: int | None = None) -> Assignment | None:
        """Return the best assignment, in the order of components; `None` where there is none, or none was found.

        At most so many `moves` may be made, where they are limited.
        """
        return next(self._assignments(asked, MOST_STEPS, moves), None)

    def alone(self, number: int, choice: Choice) -> Assigned | None:
        """Return how a component is assigned to an empty fleet with as few bytes kept away as may be."""
        best: Assigned | None = None
        for option in self._options(number, Asked((choice,)), [()] * len(self.nodes)):
            if best is None or option.away < best.away:
                best = option
            if not any(best.away):
                break
        return best

    def least_cost(self, number: int, asked: Asked) -> Cost | None:
        """Return what a component's nodes cost at least, whatever is beside it."""
        option = next(self._options(number, asked, [()] * len(self.nodes)), None)
        return None if option is None else option.cost

    def least_away(self, asked: Sequence[Asked], number: int) -> Assignment | None:
        """Return an assignment in which a component keeps as few bytes away as it may."""
        best: Assignment | None = None
        wanted = list(asked)
        while True:
            found = self.first(wanted)
            if found is None:
                return best
            best, away = found, found[number].away
            if not any(away):
                return best
            wanted[number] = asked[number]._replace(limit=_below(away))

    def _assignments(self, asked: Sequence[Asked], steps: int, moves: int | None) -> Iterator[Assignment]:
        """Yield the assignments that do what is asked, the best first."""
        loads: list[Load] = [()] * len(self.nodes)
        done: list[Assigned] = []
        before: list[list[tuple[int, Load]]] = []
        stack = [self._options(0, asked[0], loads)] if asked else []
        while stack:
            if len(done) == len(stack):  # the last choice is taken back
                done.pop()
                for node, load in before.pop():
                    loads[node] = load
            option = next(stack[-1], None)
            if steps <= 0 or self.steps.left <= 0:
                self.steps.exhausted = True
                return
            steps, self.steps.left = steps - 1, self.steps.left - 1
            if option is None:
                stack.pop()
                continue
            number = len(done)
            if moves is not None and option.moves + sum(one.moves for one in done) > moves:
                continue
            done.append(option)
            before.append([(node, loads[node]) for node, _ in option.copies])
            for node, count in option.copies:
                loads[node] = (*loads[node], (number, option.choice, count))
            if len(done) == len(asked):
                yield tuple(done)
            else:
                stack.append(self._options(len(done), asked[len(done)], loads))

    def _options(self, number: int, asked: Asked, loads: Sequence[Load]) -> Iterator[Assigned]:
        """Yield each way in which a component has a place beside what is there, the best first."""
        said = self.components[number].said.policy
        most = MOST_DEVICES if said.replicas == "each" else said.replicas
        for choice in asked.choices:
            found = self._shapes(number, choice, said.replicas, said.nodes, loads)
            for moves, shape in self._moved(number, choice, most, asked.stays, found, loads):
                if asked.is_too_dear(shape.cost):
                    break
                away = self._away(number, choice, most, shape.copies, loads)
                if asked.limit is None or away <= asked.limit:
                    yield Assigned(choice, shape.copies, away, shape.cost, moves)

    def _moved(
        self, number: int, choice: Choice, most: int, stays: Stays, found: Iterator[Shape], loads: Sequence[Load]
    ) -> Iterable[tuple[int, Shape]]:
        """Return shapes with the moves that they make; where something runs now, those with the fewest first."""
        if not stays:
            return ((0, shape) for shape in found)
        counted: list[tuple[int, Shape]] = []
        for shape in found:
            now: list[tuple[int, str]] = []
            for at, count in shape.copies:
                now += [(at, unnamed(plan)) for plan in self._plans(number, choice, most, at, loads)[:count]]
            counted.append((len((Counter(now) - Counter(stays))), shape))
        return sorted(counted, key=lambda one: one[0])

    def _shapes(
        self, number: int, choice: Choice, replicas: Replicas, nodes: Nodes, loads: Sequence[Load]
    ) -> Iterator[Shape]:
        if replicas == 1:
            for room in self._rooms(number, choice, 1, loads):
                yield Shape((room.rank,), ((room.node, 1),))
        elif replicas == "each":
            every = tuple((one.node, one.copies) for one in self._rooms(number, choice, MOST_DEVICES, loads))
            yield from [Shape((), every)] if every else []
        else:
            found = shapes(list(self._rooms(number, choice, replicas, loads)), replicas, nodes)
            if not found.whole:
                self.steps.divided.add(number)
            yield from found.in_turn

    def _rooms(self, number: int, choice: Choice, most: int, loads: Sequence[Load]) -> Iterator[Room]:
        """Yield the nodes on which a component has a place, the smallest first, with how many copies have.

        Of nodes that are alike, so many are yielded as there are copies.
        """
        seen: dict[tuple[int, Load, str], int] = {}
        component = self.components[number]
        for at, node in enumerate(self.nodes):
            lacks = component.unlabelled(node)
            # Of alike nodes one on which something runs now is not like the others.
            key = (node.kind, loads[at], self._labels[at] + (node.name if at in self.occupied else ""))
            seen[key] = seen.get(key, 0) + 1
            if lacks or seen[key] > most:
                continue
            copies = len(self.loads.plans(node, loads[at], number, choice, most))
            if copies:
                yield Room(at, node.rank, copies, key)

    def _away(self, number: int, choice: Choice, most: int, copies: Copies, loads: Sequence[Load]) -> Away:
        """Return the bytes that are kept away, in sum over the nodes."""
        parts = [
            self.loads.kept(self.nodes[at], number, self._plans(number, choice, most, at, loads)[:count])
            for at, count in copies
        ]
        longest = max(map(len, parts), default=0)
        padded = [(0,) * (longest - len(part)) + part for part in parts]
        return tuple(map(sum, zip(*padded, strict=True)))

    def _plans(self, number: int, choice: Choice, most: int, at: int, loads: Sequence[Load]) -> Group:
        return self.loads.plans(self.nodes[at], loads[at], number, choice, most)


def unnamed(plan: Plan) -> str:
    """Return the digest of a plan without the name of its component: of copies none is another one's."""
    return replace(plan, component=None).digest


def _below(away: Away) -> Away:
    """Return the largest that is less than bytes, as tuples are compared."""
    *rest, last = away
    return (*rest, last - 1)
