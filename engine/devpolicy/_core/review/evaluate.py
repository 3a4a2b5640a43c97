"""The evaluation of a policy on one host, by every requested property.

Owns the summary of an outcome that is kept for each host of a space, and which of two outcomes is worse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devpolicy._core.language.properties import OF_A_PLAN, Property
from devpolicy._core.language.wishes import WISHES, Wish
from devpolicy._core.review.check import violations
from devpolicy._core.review.outcome import Outcome, plan_outcomes
from devpolicy._core.sizes import format_size

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of an outcome by the policy's own objective: an early term, little kept elsewhere, few devices."""

    term: int
    """The position in `prefer` of the selected term."""
    away: tuple[int, ...]
    """Bytes that `overflow` keeps on the disk and on the CPU, the last one first; 0 if `overflow` does not name it."""
    given: tuple[tuple[Wish, int], ...]
    """How far each wish has given way, the one that is to give way last first; empty where none may."""
    devices: int
    """How many devices are used, where `split` asks for few and all of it fits them, else 0."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Violations by property, quality (`None`: refused), and the names of what decided something."""

    wrong: dict[Property, str]
    quality: tuple[Quality, ...] | None
    """Of each component that is planned, in their order."""
    refused: str
    fired: frozenset[str]


def evaluate(policy: Policy, tree: ModelTree | None, host: Host, wanted: Sequence[Property]) -> Evaluation:
    """Return the evaluation of one host, over all components of a policy that has some."""
    outcomes = plan_outcomes(policy, tree, host)
    wrong: dict[Property, str] = {}
    for one in wanted:
        texts = _violations(one, outcomes) if one.name in OF_A_PLAN else iter(())
        text = next(texts, "")
        if text:
            wrong[one] = text
    last = outcomes[-1].refusal
    refused = f"{last.code}: {last.message}" if last else ""
    grades = [quality(outcome) for outcome in outcomes]
    placed = tuple(one for one in grades if one is not None)
    fired = frozenset(name for outcome in outcomes for name in outcome.fired())
    return Evaluation(wrong, placed if len(placed) == len(grades) else None, refused, fired)


def _violations(one: Property, outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        of = f"of `{outcome.component}`: " if len(outcomes) > 1 else ""
        yield from (of + text for text in violations(one, outcome))


def quality(outcome: Outcome) -> Quality | None:
    """Return the quality of an outcome, `None` for a refusal."""
    if outcome.refusal is not None:
        return None
    term = len(outcome.terms) - 1
    if outcome.plan is None:
        return Quality(term, (), (), 0)
    units = outcome.plan.placements.values()
    spilling = {"overflow", *(rule.name for rule in outcome.policy.rules if rule.overflow)}
    spilled = [unit for unit in units if unit.rule in spilling]
    places = [place.type for place in reversed(outcome.policy.overflow)]
    if len(places) < 2:  # pad to [disk, cpu], so that qualities of different profiles compare
        places = ["disk", "cpu"]
    away = tuple(sum(unit.bytes for unit in spilled if unit.device.type.value == place) for place in places)
    # Beside an overflow any placement that fits is as good.
    few = outcome.policy.split == "when-needed" and not any(away)
    return Quality(term, away, _given(outcome), len(outcome.plan.placements.devices) if few else 0)


def _given(outcome: Outcome) -> tuple[tuple[Wish, int], ...]:
    """Return how far the wishes of lists and ranges have given way, of the context the tokens that are missing."""
    plan = outcome.plan
    if plan is None or plan.granted is None:
        return ()
    refused = Counter(one.wish for one in plan.not_granted)
    levels: dict[Wish, int] = {
        "model": refused["model"],
        "quantization": refused["quantization"],
        "context": -(plan.granted.context or 0),
    }
    order = outcome.relax or WISHES
    return tuple((wish, levels[wish]) for wish in reversed(order) if wish in levels)


def regression(before: Evaluation, after: Evaluation) -> str:
    """Return how the outcome with more memory is worse than the one with less, empty if it is not."""
    if before.quality is None or before.quality == after.quality:
        return ""
    if after.quality is None:
        return f"with more memory it is refused: {after.refused}"
    pairs = zip(before.quality, after.quality, strict=True)
    # Of components, those that are planned first choose first.
    was, now = next(pair for pair in pairs if pair[0] != pair[1])
    if now.term != was.term:
        later = "with more memory a later term of `prefer` fits"
        return f"{later}: the {_nth(now.term)} instead of the {_nth(was.term)}" if now.term > was.term else ""
    if now.given != was.given:
        wish, (before_, after_) = next(
            (one, (old, new)) for (one, old), (_, new) in zip(was.given, now.given, strict=True) if old != new
        )
        return f"with more memory `{wish}` gives way further" if after_ > before_ else ""
    if now.away != was.away:
        sizes = f"{format_size(sum(now.away))} instead of {format_size(sum(was.away))}"
        return f"with more memory `overflow` keeps more, or at a later place: {sizes}" if now.away > was.away else ""
    return f"with more memory {now.devices} devices are used instead of {was.devices}" * (now.devices > was.devices)


def _nth(place: int) -> str:
    return ("first", "second", "third")[place] if place < 3 else f"{place + 1}th"
