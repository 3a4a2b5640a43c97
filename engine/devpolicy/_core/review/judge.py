"""One host judged: what a policy makes of it, by every property that is asked.

Owns the summary of an answer that is kept for a family of hosts, and which of two answers is the worse one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.language.properties import OF_A_PLAN, Property
from devpolicy._core.review.holds import complaints
from devpolicy._core.review.outcome import Outcome, answers
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree


@dataclass(frozen=True, slots=True)
class Grade:
    """How good an answer is by the policy's own objective: an early term, little kept elsewhere, few devices."""

    term: int
    """The place in `prefer` of the term that serves."""
    away: tuple[int, ...]
    """Bytes that `overflow` keeps on the disk and on the CPU, the last place first; 0 where it is no place."""
    devices: int
    """How many devices are used, where `split` asks for few, else 0."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is kept of one answer: what is wrong with it, its grade (`None`: refused), and what decided something."""

    wrong: dict[Property, str]
    grade: tuple[Grade, ...] | None
    """Of each component that is planned, in their order."""
    refused: str
    fired: frozenset[str]


def judge(policy: Policy, tree: ModelTree | None, host: Host, wanted: Sequence[Property]) -> Judgement:
    """Return the judgement of one host: of a policy with components, of all that it has."""
    outcomes = answers(policy, tree, host)
    wrong: dict[Property, str] = {}
    for one in wanted:
        texts = _complaints(one, outcomes) if one.name in OF_A_PLAN else iter(())
        text = next(texts, "")
        if text:
            wrong[one] = text
    last = outcomes[-1].refusal
    refused = f"{last.code}: {last.message}" if last else ""
    grades = [grade(outcome) for outcome in outcomes]
    placed = tuple(one for one in grades if one is not None)
    fired = frozenset(name for outcome in outcomes for name in outcome.fired())
    return Judgement(wrong, placed if len(placed) == len(grades) else None, refused, fired)


def _complaints(one: Property, outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        of = f"of `{outcome.component}`: " if len(outcomes) > 1 else ""
        yield from (of + text for text in complaints(one, outcome))


def grade(outcome: Outcome) -> Grade | None:
    """Return how good an answer is, `None` for a refusal."""
    if outcome.refusal is not None:
        return None
    term = len(outcome.terms) - 1
    if outcome.plan is None:
        return Grade(term, (), 0)
    units = outcome.plan.placements.values()
    spilled = [unit for unit in units if unit.rule == "overflow"]
    places = [place.type for place in reversed(outcome.policy.overflow)]
    if len(places) < 2:  # another profile may name another one: what is compared stands at the same places
        places = ["disk", "cpu"]
    away = tuple(sum(unit.bytes for unit in spilled if unit.device.type.value == place) for place in places)
    few = outcome.policy.split == "when-needed"
    return Grade(term, away, len({unit.runs_on for unit in units}) if few else 0)


def worse(before: Judgement, after: Judgement) -> str:
    """Return how an answer with more memory is worse than the one before, empty where it is not."""
    if before.grade is None or before.grade == after.grade:
        return ""
    if after.grade is None:
        return f"with more memory it is refused: {after.refused}"
    pairs = zip(before.grade, after.grade, strict=True)
    # Of components, those that are planned first choose first.
    was, now = next(pair for pair in pairs if pair[0] != pair[1])
    if now.term != was.term:
        later = "with more memory a later term of `prefer` serves"
        return f"{later}: the {_nth(now.term)} instead of the {_nth(was.term)}" if now.term > was.term else ""
    if now.away != was.away:
        sizes = f"{format_size(sum(now.away))} instead of {format_size(sum(was.away))}"
        return f"with more memory `overflow` keeps more, or at a later place: {sizes}" if now.away > was.away else ""
    return f"with more memory {now.devices} devices are used instead of {was.devices}" * (now.devices > was.devices)


def _nth(place: int) -> str:
    return ("first", "second", "third")[place] if place < 3 else f"{place + 1}th"
