"""Running tests of policies.

Owns what a test's keys assert of an answer, and the result of a test: what failed, on which host, and what decided it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

from devpolicy._core.errors import Diagnostic, Place
from devpolicy._core.memory.sizing import context_of
from devpolicy._core.review.bind_test import BoundTest, modules_of
from devpolicy._core.review.check import violations
from devpolicy._core.review.fleets import FleetOutcome, fleet_outcome, on_other_nodes
from devpolicy._core.review.outcome import Outcome, is_meant, plan_outcome, plan_outcomes
from devpolicy._core.review.pipelines import decided, misplaced, rules_of

if TYPE_CHECKING:
    from devpolicy._core.fleet.values import Fleet
    from devpolicy._core.host import Host
    from devpolicy._core.language.expectations import Expected
    from devpolicy._core.language.policy import DeviceSelector
    from devpolicy._core.language.tests import GrantedWish
    from devpolicy._core.placement.plan import Placement
    from devpolicy._core.review.hosts import Variant
    from devpolicy._core.targets.haystack_components.names import Saved

CODE = "DP511"


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that a test asserts and that is not so, on one host."""

    host: str
    what: str
    """The actual and the expected value, in one sentence."""
    place: Place | None
    module: str | None = None
    expected: str | None = None
    got: str | None = None
    rule: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What a test gave on one host: its failures, and what decided something there."""

    host: str
    base: str
    """The host before anything of it was varied."""
    failures: tuple[Failure, ...] = ()
    fired: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Result:
    """What a test gave on all of its hosts."""

    suite: str
    name: str
    place: Place | None
    cases: tuple[Case, ...]
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not any(case.failures for case in self.cases)

    @property
    def findings(self) -> list[Diagnostic]:
        """The failures, one for each assertion with its first host and the number of others."""
        groups: dict[tuple[Place | None, str | None], list[Failure]] = {}
        for case in self.cases:
            for failure in case.failures:
                about = failure.module if failure.module is not None else failure.expected
                groups.setdefault((failure.place, about), []).append(failure)
        return [_finding(self.name, group) for group in groups.values()]


def run_case(bound: BoundTest, variant: Variant) -> Case:
    """Run a test on one of its hosts, or on its fleet."""
    if variant.fleet is not None:
        return _run_on_fleet(bound, variant, variant.fleet)
    if bound.pipeline is not None:
        return _pipeline_case(bound, variant, bound.pipeline)
    outcomes = plan_outcomes(bound.policy, bound.tree, variant.host, component=bound.component, profile=bound.profile)
    failures = tuple(_failures(bound, variant, outcomes))
    fired = frozenset(name for outcome in outcomes for name in outcome.fired())
    return Case(str(variant), variant.name, failures, fired)


def _run_on_fleet(bound: BoundTest, variant: Variant, fleet: Fleet) -> Case:
    policy = bound.policy.with_overrides(profile=bound.profile)
    models = {} if bound.tree is None else {bound.component: bound.tree}
    found = fleet_outcome(policy, models, fleet)
    outcomes = found.outcomes
    meant = {name for name, _ in found.of(bound.component)}
    own = [one for one in outcomes if (one.component or "model") in meant] or outcomes[-1:]
    failures = list(_failures_on_fleet(bound, variant, found, own))
    fired = frozenset(name for outcome in outcomes for name in outcome.fired())
    return Case(str(variant), variant.name, tuple(failures), fired)


def _failures_on_fleet(
    bound: BoundTest, variant: Variant, found: FleetOutcome, own: Sequence[Outcome]
) -> Iterator[Failure]:
    test, fleet = bound.test, str(variant)
    refusal = found.refusal
    if test.error is not None:
        yield from _not_refused(bound, fleet, own[0])
    elif refusal is not None and (test.expect or test.granted or test.nodes):
        what = f"it is refused with {refusal.code}: {refusal.message}"
        notes = (*refusal.notes, *refusal.help.splitlines()[:1])
        yield Failure(fleet, what, test.place, expected="a plan", got=refusal.code, notes=notes)
    else:
        for outcome in own:
            for expected in test.expect:
                yield from _misplaced(expected, fleet, outcome)
            for wish in test.granted:
                yield from _granted_otherwise(wish, fleet, outcome)
        what = on_other_nodes(found, bound.component, [word.text for word in test.nodes]) if test.nodes else ""
        if what:
            expected_nodes = ", ".join(word.text for word in test.nodes)
            yield Failure(fleet, what, test.nodes[0].place, expected=expected_nodes, got=what)
    for wanted in test.always:
        for complaint in found.violations(wanted):
            what = f"`{wanted}` does not hold: {complaint}"
            yield Failure(fleet, what, test.place, expected=str(wanted), got=complaint)


def _pipeline_case(bound: BoundTest, variant: Variant, components: Sequence[Saved]) -> Case:
    test, policy, host = bound.test, bound.policy, str(variant)
    if bound.profile is not None:
        policy = replace(policy, overrides=replace(policy.overrides, profile=bound.profile))
    found = decided(policy, components, variant.host)
    if isinstance(found, Diagnostic):
        what = f"it is refused with {found.code}: {found.message}"
        failure = Failure(host, what, test.place, expected=test.error or "devices", got=found.code, notes=found.notes)
        return Case(host, variant.name, () if found.code == test.error else (failure,))
    failures = [
        Failure(
            host,
            f"`{one.name}` is on `{got}`, and `{wanted}` was expected",
            expected.place,
            one.name,
            wanted,
            got,
            notes=(f"decided by `[component.{one.entries[0]}]`" if one.entries else "decided by `prefer`",),
        )
        for expected in test.expect
        for one, wanted, got in misplaced(expected, found.components, variant.host)
    ]
    if test.error is not None:
        what = f"every component gets a device, and {test.error} was expected"
        failures.append(Failure(host, what, test.place, expected=test.error, got="devices"))
    return Case(host, variant.name, tuple(failures), rules_of(found))


def _failures(bound: BoundTest, variant: Variant, outcomes: Sequence[Outcome]) -> Iterator[Failure]:
    test, host, outcome = bound.test, str(variant), outcomes[-1]
    if test.error is not None:
        # Only the last one may be a refusal: behind it nothing is planned.
        yield from _not_refused(bound, host, outcome)
    elif (test.expect or test.granted) and outcome.refusal is not None:
        # Planned again with advice: what would help is the first thing that one asks.
        asked = {"component": outcome.component, "profile": bound.profile}
        advised = plan_outcome(bound.policy, bound.tree, variant.host, **asked, advise=True)
        refusal = advised.refusal or outcome.refusal
        notes = (*refusal.notes, *refusal.help.splitlines()[:1])
        what = f"it is refused with {refusal.code}: {refusal.message}"
        yield Failure(host, what, test.place, expected="a plan", got=refusal.code, notes=notes)
    else:
        for expected in test.expect:
            yield from _misplaced(expected, host, outcome)
        for wish in test.granted:
            yield from _granted_otherwise(wish, host, outcome)
    for wanted, one in product(test.always, outcomes):
        of = f" for `{one.component}`" if len(outcomes) > 1 else ""
        for complaint in violations(wanted, one):
            what = f"`{wanted}` does not hold{of}: {complaint}"
            yield Failure(host, what, test.place, expected=str(wanted), got=complaint)


def _not_refused(bound: BoundTest, host: str, outcome: Outcome) -> Iterator[Failure]:
    wanted, place = bound.test.error, bound.test.place
    if outcome.refusal is None:
        what = f"it is placed, and {wanted} was expected"
        notes = tuple(f"`{term}`: {told}" for term, told in outcome.terms)
        yield Failure(host, what, place, expected=wanted, got="a plan", notes=notes)
    elif outcome.refusal.code != wanted:
        what = f"it is refused with {outcome.refusal.code}, and {wanted} was expected: {outcome.refusal.message}"
        yield Failure(host, what, place, expected=wanted, got=outcome.refusal.code, notes=outcome.refusal.notes)


def _granted_otherwise(expected: GrantedWish, host: str, outcome: Outcome) -> Iterator[Failure]:
    """Yield a failure where another choice of a wish was granted. Without wishes, the policy's own values count."""
    plan, tree = outcome.plan, outcome.tree
    if plan is None or tree is None:
        return
    granted, held = plan.granted, plan.loading.scheme
    scheme = held if granted is None or expected.value == held else granted.quantization or held
    named = {tree.name} if granted is None or granted.model is None else {granted.model, tree.name}
    got: str | int = {
        "model": expected.value if expected.value in named else tree.name,
        "quantization": scheme,
        "context": context_of(tree, outcome.policy.workload),
    }[expected.wish]  # type: ignore[assignment]  # of a model the value is text
    if expected.holds(got):
        return
    shown = f"{got:,} tokens" if isinstance(got, int) else f"`{got}`"
    what = f"the {expected.wish} is {shown}, and `{expected.value}` was expected"
    notes = tuple(str(one) for one in plan.not_granted if one.wish == expected.wish)
    yield Failure(host, what, expected.place, expected=str(expected.value), got=str(got), notes=notes)


def _misplaced(expected: Expected, host: str, outcome: Outcome) -> Iterator[Failure]:
    if outcome.plan is None or outcome.tree is None:
        chosen = outcome.device.to_torch_str() if outcome.device else ""
        if chosen and expected.device and not is_meant(chosen, expected.device, outcome.host):
            what = f"the device is `{chosen}`, and `{expected.device}` was expected"
            notes = tuple(f"`{term}`: {told}" for term, told in outcome.terms)
            yield Failure(host, what, expected.place, None, str(expected.device), chosen, "prefer", notes)
        return
    below = outcome.plan.placements.below
    units = {path: unit for module in modules_of(expected, outcome.tree) for path, unit in below(module).items()}
    if not units:
        what = f"`{expected.module}` holds no tensors, so it is not placed"
        yield Failure(host, what, expected.place, str(expected.module))
        return
    for wanted, of, said in _asked(expected):
        wrong = [path for path, unit in units.items() if not _is_so(wanted, of(unit), outcome.host)]
        if wrong:
            yield _failure(expected, host, units[wrong[0]], wrong, str(wanted), of(units[wrong[0]]), said)
            return


def _asked(expected: Expected) -> Iterator[tuple[DeviceSelector | str, Callable[[Placement], str], str]]:
    """Yield what is expected, what it is compared with, and the words for it."""
    if expected.device is not None:
        yield expected.device, lambda unit: str(unit.device), "on"
    if expected.runs_on is not None:
        yield expected.runs_on, lambda unit: str(unit.runs_on), "executing on"
    if expected.rule is not None:
        yield expected.rule, lambda unit: unit.rule, "decided by"


def _is_so(wanted: DeviceSelector | str, got: str, host: Host) -> bool:
    return got == wanted if isinstance(wanted, str) else is_meant(got, wanted, host)


def _failure(
    expected: Expected, host: str, unit: Placement, wrong: Sequence[str], wanted: str, got: str, said: str
) -> Failure:
    first = wrong[0] or "the whole model"
    named = f"`{first}` and {len(wrong) - 1} more are" if len(wrong) > 1 else f"`{first}` is"
    what = f"{named} {said} `{got}`, and `{wanted}` was expected"
    notes = (f"decided by `{unit.rule}`: {unit.reason}",)
    return Failure(host, what, expected.place, wrong[0], wanted, got, unit.rule, notes)


_MOST_HOSTS = 6


def _finding(test: str, failures: Sequence[Failure]) -> Diagnostic:
    first, *more = failures
    notes = first.notes
    if more:
        named = "; ".join(failure.host for failure in more[:_MOST_HOSTS])
        others = f" and {len(more) - _MOST_HOSTS} more" if len(more) > _MOST_HOSTS else ""
        notes = (*notes, f"fails too on {named}{others}")
    return Diagnostic(CODE, f"`{test}` fails on {first.host}: {first.what}", first.place, notes=notes)
