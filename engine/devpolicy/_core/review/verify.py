"""Properties of a policy over a family of hosts.

Owns the verdicts. Of a finite family every host is planned, so that a property is proved, or the smallest host that
breaks it is found; of an infinite one hosts are drawn (`devpolicy._core.review.draw`), and nothing is proved.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from devpolicy._core.language.properties import Property
from devpolicy._core.review.coverage import deciders
from devpolicy._core.review.judge import Judgement, judge, worse
from devpolicy._core.review.outcome import has_model
from devpolicy._core.review.shrink import Broken, smallest
from devpolicy._core.review.spread import Progress, spread

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.review.families import Family, Shape

MOST_HOSTS = 50_000
"""Hosts of a finite family that are all planned; of more, some are drawn."""
DEFAULTS = tuple(
    map(Property, ("placed_or_refused", "within_budget", "ties_together", "monotone", "every_rule_reachable"))
)
"""What every policy should promise."""

Status = Literal["proved", "not refuted", "broken"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a property holds over a family, and if not, why and where."""

    property: Property
    model: str | None
    """`None` where only a device is chosen, and for what is asked of all models together."""
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
    """Why the first host is refused, where every host of a finite family is: then little was proved."""


def verify(
    policy: Policy,
    models: Sequence[ModelTree | None],
    family: Family,
    wanted: Sequence[Property] = DEFAULTS,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Plan every host of a finite family for every model, and return a verdict for each property and model.

    A model that is `None` leaves the device choice. Takes some milliseconds for each host and model.
    """
    shapes = family.shapes()
    question = _Question(policy, tuple(models), family, tuple(wanted))
    pairs = [(at, shape) for at in range(len(models)) for shape in shapes]
    judged = spread(_judged, question, pairs, jobs=jobs, progress=progress)
    of_model = [dict(zip(shapes, judged[at * len(shapes) :], strict=False)) for at in range(len(models))]
    verdicts: list[Verdict] = []
    for one in wanted:
        if one.name == "every_rule_reachable":
            verdicts.append(_reachable(question, judged, len(shapes)))
            continue
        for at, tree in enumerate(models):
            finder = _monotone if one.name == "monotone" else partial(_plain, one)
            verdicts.append(_verdict(question, one, tree, of_model[at], finder(question, of_model[at])))
    return verdicts


@dataclass(frozen=True, slots=True)
class _Question:
    policy: Policy
    models: tuple[ModelTree | None, ...]
    family: Family
    wanted: tuple[Property, ...]


_Judged = dict["Shape", Judgement]
_Found = tuple["Host", "Host | None"] | None


def _judged(question: _Question, pair: tuple[int, Shape]) -> Judgement:
    model, shape = pair
    return judge(question.policy, question.models[model], question.family.host(shape), question.wanted)


def _plain(one: Property, question: _Question, judged: _Judged) -> _Found:
    first = next((shape for shape, verdict in judged.items() if one in verdict.wrong), None)
    return None if first is None else (question.family.host(first), None)


def _monotone(question: _Question, judged: _Judged) -> _Found:
    """Compare each host with those of one step more memory: what holds for each step holds for every way up."""
    family = question.family
    for shape, verdict in judged.items():
        for larger in family.more(shape):
            if worse(verdict, judged[larger]):
                return family.host(shape), family.host(larger)
    return None


def _verdict(question: _Question, one: Property, tree: ModelTree | None, judged: _Judged, found: _Found) -> Verdict:
    name = None if tree is None else tree.name
    if found is None:
        return Verdict(one, name, "proved", len(judged), refused=_refused(judged.values()))
    host, larger = found
    broken = smallest(Broken(question.policy, tree, one, host, larger))
    return Verdict(one, name, "broken", len(judged), broken.why(), broken.host, broken.larger)


def _reachable(question: _Question, judged: Sequence[Judgement], hosts: int) -> Verdict:
    wanted = Property("every_rule_reachable")
    fired = {name for verdict in judged for name in verdict.fired}
    able = deciders(question.policy, as_asked=True, overflow=has_model(question.policy, question.models))
    never = ", ".join(f"`{name}`" for name in able if name not in fired)
    if not never:
        return Verdict(wanted, None, "proved", hosts)
    refused = _refused(judged)
    why = f"{never}: decides nothing on any of these hosts" + (f", which are all refused: {refused}" if refused else "")
    return Verdict(wanted, None, "broken", hosts, why, refused=refused)


def _refused(judged: Collection[Judgement]) -> str:
    return next((one.refused for one in judged), "") if all(one.grade is None for one in judged) else ""
