"""Tests of what a policy decides for a saved pipeline of Haystack.

Owns how the names in `expect` are matched with components, and what differs. Nothing of the pipeline is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import DevPolicyError, Diagnostic, findings_at
from devpolicy._core.review.outcome import is_meant
from devpolicy._core.toml.tables import did_you_mean

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.expectations import Expected, Word
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.targets.haystack_components.names import Saved
    from devpolicy._core.targets.haystack_components.survey import Resolved, Survey


def read_components(word: Word, folder: Path | None, findings: list[Diagnostic]) -> tuple[Saved, ...]:
    """Return the components of a pipeline by its path from a folder. Collects what is wrong with it."""
    from devpolicy._core.targets.haystack_components.survey import read_pipeline

    try:
        return tuple(read_pipeline(Path(word.text) if folder is None else folder / word.text))
    except DevPolicyError as broken:
        findings += findings_at(broken, word.place, with_lines=False)
        return ()


def check_names(expected: Expected, components: Sequence[Saved], findings: list[Diagnostic]) -> None:
    """Collect DP202 where no component of a pipeline has the name that is expected somewhere."""
    names = [one.name for one in components]
    if expected.module is not None and names and not any(expected.module.matches(name) for name in names):
        message = f"the pipeline has no component `{expected.module.text}`"
        help_ = did_you_mean(expected.module.text, names)
        findings.append(Diagnostic("DP202", message, expected.place, "no such component", help=help_))


def decided(policy: Policy, components: Sequence[Saved], host: Host) -> Survey | Diagnostic:
    """Return what a policy decides for a pipeline on a host, or the reason for which it decides nothing."""
    from devpolicy._core.targets.haystack_components.survey import survey

    try:
        return survey(policy, components, host)
    except DevPolicyError as refused:
        return refused.diagnostics[0]


def misplaced(expected: Expected, components: Sequence[Resolved], host: Host) -> Iterator[tuple[Resolved, str, str]]:
    """Yield each component that is elsewhere than expected, with the device that was meant and its own."""
    for one in components:
        if expected.module is not None and not expected.module.matches(one.name):
            continue
        for wanted, devices in ((expected.device, _stored(one)), (expected.runs_on, _running(one))):
            wrong = next((got for got in devices if wanted is not None and not is_meant(got, wanted, host)), None)
            if wrong is not None:
                yield one, str(wanted), wrong


def _stored(one: Resolved) -> list[str]:
    plan = one.decision.plan
    if plan is not None:
        return list(dict.fromkeys(str(unit.device) for unit in plan.placements.values()))
    form = one.device.to_dict()
    return [str(form["device"])] if "device" in form else list(dict.fromkeys(form["device_map"].values()))


def _running(one: Resolved) -> list[str]:
    plan = one.decision.plan
    return _stored(one) if plan is None else list(dict.fromkeys(str(unit.runs_on) for unit in plan.placements.values()))


def rules_of(survey: Survey) -> frozenset[str]:
    """Return the names of the rules that decided something."""
    plans = [one.decision.plan for one in survey.components if one.decision.plan is not None]
    return frozenset(unit.rule for plan in plans for unit in plan.placements.values()) - {"prefer", "overflow"}
