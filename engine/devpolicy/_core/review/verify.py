"""Properties of a policy over a host space.

Owns the verdicts. In a finite space every host is planned, so that a property is proved or its smallest counterexample
is found; in an infinite one hosts are drawn (`devpolicy._core.review.fuzz`), and nothing is proved.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from devpolicy._core.language.properties import Property
from devpolicy._core.review.coverage import deciders
from devpolicy._core.review.evaluate import Evaluation, evaluate, regression
from devpolicy._core.review.outcome import has_model
from devpolicy._core.review.parallel_map import Progress, parallel_map
from devpolicy._core.review.shrink import Counterexample, smallest
from devpolicy._core.review.watched import WatchedHost

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.review.host_space import DeviceSpec, HostSpace, HostSpec

MOST_HOSTS = 50_000
"""The largest finite space that is planned in full; in larger ones hosts are drawn."""
DEFAULTS = tuple(
    map(Property, ("placed_or_refused", "within_budget", "ties_together", "monotone", "every_rule_reachable"))
)
"""What every policy should promise."""

Status = Literal["proved", "not refuted", "broken"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a property holds over a host space, and if not, why and where."""

    property: Property
    model: str | None
    """`None` if only a device is chosen, and for properties of all models together."""
    status: Status
    hosts: int
    """How many were planned."""
    why: str = ""
    host: Host | None = None
    """The smallest host found that breaks it."""
    larger: Host | None = None
    """For `monotone`, the host with more memory that is worse off."""
    tree: ModelTree | None = None
    """The model that breaks it, where it was drawn."""
    refused: str = ""
    """Why the first host is refused, if every host of a finite space is: then little was proved."""


def verify(
    policy: Policy,
    models: Sequence[ModelTree | None],
    space: HostSpace,
    wanted: Sequence[Property] = DEFAULTS,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Plan every host of a finite space for every model, and return a verdict for each property and model.

    A model that is `None` leaves the device choice. Takes some milliseconds for each host and model.
    """
    host_specs = space.specs()
    question = _Question(policy, tuple(models), space, tuple(wanted))
    racks: dict[tuple[DeviceSpec, ...], list[HostSpec]] = {}
    for host_spec in host_specs:
        racks.setdefault(host_spec.devices, []).append(host_spec)
    groups = [(at, tuple(rack)) for at in range(len(models)) for rack in racks.values()]
    found = parallel_map(_judged, question, groups, jobs=jobs, progress=_in_hosts(progress, len(space.ram)))
    of_model: list[_Judged] = [{} for _ in models]
    for (at, rack), evaluations in zip(groups, found, strict=True):
        of_model[at].update(zip(rack, evaluations, strict=True))
    of_model = [{host_spec: judged[host_spec] for host_spec in host_specs} for judged in of_model]
    judged = [evaluation for one in of_model for evaluation in one.values()]
    verdicts: list[Verdict] = []
    for one in wanted:
        if one.name == "every_rule_reachable":
            verdicts.append(_reachable(question, judged, len(host_specs)))
            continue
        for at, tree in enumerate(models):
            finder = _monotone if one.name == "monotone" else partial(_plain, one)
            verdicts.append(_verdict(question, one, tree, of_model[at], finder(question, of_model[at])))
    return verdicts


@dataclass(frozen=True, slots=True)
class _Question:
    policy: Policy
    models: tuple[ModelTree | None, ...]
    space: HostSpace
    wanted: tuple[Property, ...]


_Judged = dict["HostSpec", Evaluation]
_Found = tuple["Host", "Host | None"] | None


def _in_hosts(progress: Progress | None, each: int) -> Progress | None:
    return None if progress is None else lambda done, of: progress(done * each, of * each)


def _judged(question: _Question, group: tuple[int, Sequence[HostSpec]]) -> list[Evaluation]:
    """Return the evaluations of hosts that differ in RAM: of all of them at once where it was not asked for."""
    model, host_specs = group
    found: list[Evaluation] = []
    for host_spec in host_specs:
        host = WatchedHost(question.space.host(host_spec))
        found.append(evaluate(question.policy, question.models[model], host, question.wanted))
        if not host.ram_was_read and not any(one.unified for one in host.accelerators):
            break
    return found + found[-1:] * (len(host_specs) - len(found))


def _plain(one: Property, question: _Question, judged: _Judged) -> _Found:
    first = next((host_spec for host_spec, verdict in judged.items() if one in verdict.wrong), None)
    return None if first is None else (question.space.host(first), None)


def _monotone(question: _Question, judged: _Judged) -> _Found:
    """Compare each host with its successors: single-step monotonicity implies it for all pairs."""
    space = question.space
    for host_spec, verdict in judged.items():
        for larger in space.successors(host_spec):
            if regression(verdict, judged[larger]):
                return space.host(host_spec), space.host(larger)
    return None


def _verdict(question: _Question, one: Property, tree: ModelTree | None, judged: _Judged, found: _Found) -> Verdict:
    name = None if tree is None else tree.name
    if found is None:
        return Verdict(one, name, "proved", len(judged), refused=_refused(judged.values()))
    host, larger = found
    broken = smallest(Counterexample(question.policy, tree, one, host, larger))
    return Verdict(one, name, "broken", len(judged), broken.why(), broken.host, broken.larger)


def _reachable(question: _Question, judged: Sequence[Evaluation], hosts: int) -> Verdict:
    wanted = Property("every_rule_reachable")
    fired = {name for verdict in judged for name in verdict.fired}
    able = deciders(question.policy, as_asked=True, overflow=has_model(question.policy, question.models))
    never = ", ".join(f"`{name}`" for name in able if name not in fired)
    if not never:
        return Verdict(wanted, None, "proved", hosts)
    refused = _refused(judged)
    why = f"{never}: decides nothing on any of these hosts" + (f", which are all refused: {refused}" if refused else "")
    return Verdict(wanted, None, "broken", hosts, why, refused=refused)


def _refused(judged: Collection[Evaluation]) -> str:
    return next((one.refused for one in judged), "") if all(one.quality is None for one in judged) else ""
