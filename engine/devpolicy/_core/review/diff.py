"""Where two policies differ, over models and hosts.

Owns the matrix and the smallest host that shows a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from devpolicy._core.memory.sizing import context_of
from devpolicy._core.review.outcome import Outcome, plan_outcomes
from devpolicy._core.review.parallel_map import Progress, parallel_map
from devpolicy._core.review.plan_diff import Where, other_changes, plan_diff
from devpolicy._core.review.shrink import shrunk

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.review.hosts import Variant


@dataclass(frozen=True, slots=True)
class Difference:
    """How the outcomes of two policies differ for one model on one host."""

    model: str | None
    host: str
    moved: dict[str, tuple[Where, Where]] = field(default_factory=dict)
    """Modules with their places under the first and the second policy; of components `NAME: module`."""
    other: str = ""
    """Other differences: the chosen device, the loading arguments."""
    refused: tuple[str, str] = ("", "")
    """Why each of them refuses the host, empty where it does not."""

    def __bool__(self) -> bool:
        return bool(self.moved or self.other or self.refused[0] or self.refused[1])


@dataclass(frozen=True, slots=True)
class Differences:
    """The matrix: what differs, of how many, and the smallest host that shows it."""

    compared: int
    found: tuple[Difference, ...]
    smallest: Host | None = None
    shown: Difference | None = None
    """What differs on the smallest host."""


@dataclass(frozen=True, slots=True)
class _Pair:
    policies: tuple[Policy, Policy]
    models: tuple[ModelTree | None, ...]
    hosts: tuple[Variant, ...]


def diff(
    first: Policy,
    second: Policy,
    models: Sequence[ModelTree | None],
    hosts: Sequence[Variant],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Differences:
    """Plan both policies for every model on every host, and return where they differ.

    A model that is `None` leaves the policies' own components, or the device choice.
    """
    pair = _Pair((first, second), tuple(models), tuple(hosts))
    cells = [(model, host) for model in range(len(models)) for host in range(len(hosts))]
    results = parallel_map(_cell, pair, cells, jobs=jobs, progress=progress)
    different = [(cell, one) for cell, one in zip(cells, results, strict=True) if one]
    found = tuple(one for _, one in different)
    if not found:
        return Differences(len(cells), found)
    model, host = min((cell for cell, _ in different), key=lambda cell: _size(hosts[cell[1]].host))
    tree = models[model]
    smallest = shrunk(hosts[host].host, lambda other: bool(compare(pair.policies, tree, other, "")))
    smallest = replace(smallest, name=None, description=None)
    return Differences(len(cells), found, smallest, compare(pair.policies, tree, smallest, "smallest"))


def _size(host: Host) -> tuple[int, int, int]:
    return len(host.accelerators), sum(one.memory for one in host.accelerators), host.memory


def _cell(pair: _Pair, cell: tuple[int, int]) -> Difference:
    model, host = cell
    variant = pair.hosts[host]
    return compare(pair.policies, pair.models[model], variant.host, variant.name)


def compare(policies: tuple[Policy, Policy], tree: ModelTree | None, host: Host, name: str) -> Difference:
    """Return how the outcomes of two policies differ for one model on one host, falsy if they do not."""
    first, second = (plan_outcomes(policy, tree, host) for policy in policies)
    model = None if tree is None else tree.name
    refused = _refused(first), _refused(second)
    if refused[0] or refused[1]:
        # The same refusal on both sides is no difference.
        alike = refused[0].partition(":")[0] == refused[1].partition(":")[0]
        return Difference(model, name) if alike else Difference(model, name, refused=refused)
    moved: dict[str, tuple[Where, Where]] = {}
    others: list[str] = []
    pairs = _by_component(first, second)
    for component, (one, other) in pairs.items():
        of = f"{component}: " if len(pairs) > 1 else ""
        if one is None or other is None:
            others.append(f"only the {'first' if other is None else 'second'} has component `{component}`")
        elif one.plan is not None and other.plan is not None:
            wishes = granted_otherwise(one, other)
            others += [of + wishes] if wishes else []
            changes = {} if one.tree != other.tree else plan_diff(one.plan, other.plan)
            moved |= {of + path: places for path, places in changes.items()}
            rest = "" if changes or one.tree != other.tree else other_changes(one.plan, other.plan)
            others += [of + rest] if rest else []
        elif one.device != other.device:
            others.append(f"{of}{_device(one)} -> {_device(other)}")
    return Difference(model, name, moved, "; ".join(others))


def granted_otherwise(one: Outcome, other: Outcome) -> str:
    """Return what of models, schemes and context differs, empty where nothing does."""
    first, second = _wishes(one), _wishes(other)
    return "; ".join(f"{wish} {first[wish]} -> {second[wish]}" for wish in first if first[wish] != second[wish])


def _wishes(outcome: Outcome) -> dict[str, str]:
    loading, tree = outcome.policy.loading, outcome.tree
    context = None if tree is None else context_of(tree, outcome.policy.workload)
    return {
        "model": "-" if tree is None else tree.name or "-",
        "quantization": next(iter(loading.quantization), "none"),
        "context": "-" if context is None else f"{context:,}",
    }


def _refused(outcomes: Sequence[Outcome]) -> str:
    last = outcomes[-1].refusal
    return f"{last.code}: {last.message}" if last else ""


def _by_component(
    first: Sequence[Outcome], second: Sequence[Outcome]
) -> dict[str | None, tuple[Outcome | None, Outcome | None]]:
    one, other = ({outcome.component: outcome for outcome in outcomes} for outcomes in (first, second))
    return {name: (one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])}


def _device(outcome: Outcome) -> str:
    return outcome.device.to_torch_str() if outcome.device and outcome.plan is None else "a plan"
