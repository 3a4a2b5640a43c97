"""Why a fleet has no place for a component, and the smallest change that would make one.

Owns the findings DP308 and DP309.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, PolicyError, Unsatisfiable
from devpolicy._core.fleet.components import FleetComponent, Node, Said
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.planning.search import Choice, Search
from devpolicy._core.planning.wishes import Wishes
from devpolicy._core.toml.tables import suggest

if TYPE_CHECKING:
    from devpolicy._core.fleet.planner import Joint

_MOST_NOTES = 8
_MOST_TRIED = 4
"""Nodes of which the smallest change is looked for, the largest ones."""


def check_labels(components: Sequence[FleetComponent], nodes: Sequence[Node], fleet: Fleet) -> None:
    """Raise `Unsatisfiable` with a DP309 for each label that a component asks for and that no node has."""
    findings = []
    for component in components:
        # Of two profiles that ask for different labels, each is asked on its own nodes.
        asked = {label for one in component.by_kind.values() if isinstance(one, Said) for label in _labels(one)}
        for name, values in sorted(asked):
            if not any(node.labels.get(name) in values for node in nodes):
                findings.append(_no_label(component, name, values, nodes))
    if not nodes:
        faults = tuple(f"`{name}`: {reason}" for name, reason in fleet.faults.items())
        findings = [Diagnostic("DP308", "the fleet has no node that can be used", notes=faults[:_MOST_NOTES])]
    if findings:
        raise Unsatisfiable(findings)


def _labels(said: Said) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return said.policy.node.labels if said.policy.node is not None else ()


def _no_label(component: FleetComponent, name: str, values: tuple[str, ...], nodes: Sequence[Node]) -> Diagnostic:
    known = sorted({node.labels[name] for node in nodes if name in node.labels})
    every = sorted({label for node in nodes for label in node.labels})
    near = suggest(values[0], known) if known else suggest(name, every)
    there = [f'`{name} = "{value}"`' for value in known] or [f"`{label}`" for label in every]
    hint = f"did you mean `{near}`?" if near else "" if not there else f"there are {', '.join(there[:_MOST_NOTES])}"
    asked = " or ".join(f'"{value}"' for value in values)
    message = f"no node of the fleet has the label `{name} = {asked}`, which component `{component.title}` asks for"
    return Diagnostic("DP309", message, help=hint or "no node has labels: give them in the fleet file")


def refused_alone(joint: Joint, number: int) -> Unsatisfiable:
    """Return the refusal of a component that has no place even on an empty fleet."""
    component = joint.components[number]
    message = f"no node of the fleet has a place for component `{component.title}`"
    notes, hints = list(_notes(joint, component)), list(_smallest(joint, component))
    replicas = component.said.policy.replicas
    if isinstance(replicas, int) and replicas > 1:
        held = _most_copies(joint, number)
        if held:
            message = f"{held} of {replicas} replicas of `{component.title}` have a place in the fleet"
            hints = [f'ask for fewer, or for as many as fit: `replicas = "each"` in `[component.{component.title}]`']
    return Unsatisfiable(Diagnostic("DP308", message, notes=tuple(notes), help="\n".join(hints)))


def _most_copies(joint: Joint, number: int) -> int:
    """Return how many copies have a place with wishes as far spent as they may be."""
    component, most = joint.components[number], 0
    choices: list[Choice] = list(Search(component.options, lambda choice: None).spent())
    for choice in choices:
        counted = (
            len(joint.loads.plans(node, (), number, choice, int(component.said.policy.replicas)))
            for node in joint.nodes
            if not component.unlabelled(node)
        )
        most = max(most, sum(counted))
    return most


def _notes(joint: Joint, component: FleetComponent) -> Iterator[str]:
    """Yield why each kind of node has no place, the largest first."""
    told: dict[tuple[int, str], list[str]] = {}
    for node in reversed(joint.nodes):
        lacks = component.unlabelled(node)
        reason = f"it has no label {lacks}" if lacks else _reason(component, node)
        told.setdefault((node.kind if not lacks else -1, reason), []).append(node.name)
    for at, ((_, reason), names) in enumerate(told.items()):
        if at == _MOST_NOTES:
            yield f"and {len(told) - at} more kinds of nodes"
            return
        more = f" and {len(names) - 1} alike" if len(names) > 1 else ""
        yield f"`{names[0]}`{more}: {reason}"
    for name, reason in joint.fleet.faults.items():
        yield f"`{name}` cannot be used: {reason}"


def _reason(component: FleetComponent, node: Node) -> str:
    refused = _refusal(component, node, advise=False)
    if refused is None:
        return "it has a place for one"
    return in_short(refused.diagnostics[0])


def in_short(first: Diagnostic) -> str:
    """Return why a component has no place on a node, in one line."""
    notes = [note for note in first.notes if ": the host has no `" not in note] or list(first.notes)
    # What a plan on one host says of all its terms together says less than what it says of each.
    return "; ".join(notes[:2] if first.code == "DP301" and notes else [first.message, *notes[:2]])


def _smallest(joint: Joint, component: FleetComponent) -> Iterator[str]:
    """Yield what the smallest change to each of the largest nodes, or to the policy there, would do."""
    tried: set[int] = set()
    told: set[str] = set()
    for node in reversed(joint.nodes):
        if component.unlabelled(node) or node.kind in tried or len(tried) == _MOST_TRIED:
            continue
        tried.add(node.kind)
        refused = _refusal(component, node, advise=True)
        hint = "" if refused is None else refused.diagnostics[0].help.partition("\n")[0]
        if hint and hint not in told:
            told.add(hint)
            yield f"{'or ' if len(told) > 1 else ''}on `{node.name}`: {hint}"


def _refusal(component: FleetComponent, node: Node, *, advise: bool) -> Unsatisfiable | None:
    said = component.by_kind[node.kind]
    if not isinstance(said, Said):
        return Unsatisfiable(said)
    try:
        Wishes(said.policy, said.models, node.host, said.target, {}).grant(advise=advise)
    except Unsatisfiable as refused:
        return refused
    except PolicyError as broken:
        return Unsatisfiable(broken.diagnostics)
    return None


def nothing_left(joint: Joint, *, exhausted: bool) -> Unsatisfiable:
    """Return the refusal of components of which each has a place, and all together have none."""
    names = [component.title for component in joint.components]
    # The first that finds no place behind those before it tells most.
    placed = next((at for at in range(len(names)) if joint.assigner.first(joint.spent()[: at + 1]) is None), len(names))
    last = names[min(placed, len(names) - 1)]
    message = f"the fleet has no place for component `{last}` beside the others"
    if exhausted:
        message = f"no place for component `{last}` beside the others was found among those that were tried"
    before = ", ".join(f"`{name}`" for name in names[: names.index(last)])
    notes = (f"each has a place alone; before it are planned: {before}",) if before else ()
    hint = (
        "add a node, ask for fewer replicas, or let more of them give way: `overflow`, or an ordered list in `prefer`"
    )
    return Unsatisfiable(Diagnostic("DP308", message, notes=notes, help=hint))
