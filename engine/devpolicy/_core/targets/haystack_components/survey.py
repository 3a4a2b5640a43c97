"""What a policy decides for each component of a saved pipeline, without making any of them.

Owns reading the pipeline's YAML, and the findings about names. No class that the file names is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.public import public
from devpolicy._core.targets.haystack_components.deciding import Decider, decider, likely, takes_any, undecided
from devpolicy._core.targets.haystack_components.forms import given_device
from devpolicy._core.targets.haystack_components.names import Saved, saved_components
from devpolicy._core.targets.haystack_components.signatures import takes_of_saved
from devpolicy._core.targets.haystack_components.table import PACKAGES, Takes
from devpolicy._core.targets.haystack_components.yaml_file import read_yaml

if TYPE_CHECKING:
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.verbs.decision import Decision


@public("devpolicy.haystack")
@dataclass(frozen=True, slots=True)
class Resolved:
    """One component of a pipeline, and what the policy gives it."""

    name: str
    path: str
    """The path of its class."""
    decision: Decision
    replaced: str | None
    """The device that it had, as text; `None` where that was left to a default."""

    @property
    def device(self) -> ComponentDevice:
        """The device."""
        return self.decision.device

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries of the policy that apply, the nearest first; empty where only the top of the policy does."""
        return self.decision.entries


@public("devpolicy.haystack")
@dataclass(frozen=True, slots=True)
class Survey:
    """All components of a saved pipeline that a policy decides, and what is wrong with the names."""

    components: tuple[Resolved, ...]
    findings: tuple[Diagnostic, ...]


def read_pipeline(path: str | PathLike[str]) -> list[Saved]:
    """Return the components of a saved pipeline, those inside of others too. Raises `DevPolicyError`."""
    data = read_yaml(path)
    if not isinstance(data, Mapping) or not isinstance(data.get("components"), Mapping):
        hint = "give the file that `Pipeline.dump` writes"
        raise DevPolicyError([Diagnostic("DP101", f"`{path}` holds no pipeline: it has no `components`", help=hint)])
    return list(saved_components(data))


@public("devpolicy.haystack")
def survey(
    policy: Policy | str | PathLike[str],
    pipeline: str | PathLike[str] | Sequence[Saved],
    host: Host | str | PathLike[str] | None = None,
) -> Survey:
    """Return what a policy decides for each component of a saved pipeline, in the pipeline's order.

    `pipeline` is the path of its YAML. Nothing of it is imported or run, so a class that has no row in the table of
    components is judged by the `device` that was saved for it. Raises as `devpolicy.resolve` does.
    """
    if not isinstance(pipeline, str | PathLike | list | tuple):
        hint = "give the file that `Pipeline.dump` writes; of a pipeline in memory, `apply` returns the same"
        raise DevPolicyError(
            [
                Diagnostic(
                    "", f"`survey` takes a saved pipeline, not a value of type {type(pipeline).__name__}", help=hint
                )
            ]
        )
    saved = read_pipeline(pipeline) if isinstance(pipeline, str | PathLike) else pipeline
    by = decider(policy, host)
    by.known = [one.name for one in saved]
    resolved = [
        _resolved(by, one, takes)
        for one in saved
        if isinstance(takes := takes_of_saved(one.path, one.params), Takes)
        and (takes.form != "text" or by.names(one.name))
    ]
    return Survey(tuple(resolved), tuple(names_of(by.policy, saved)))


def names_of(policy: Policy, pipeline: Sequence[Saved]) -> list[Diagnostic]:
    """Return warnings for the names of a policy: no component of a pipeline has them, or one that takes no device."""
    names = [one.name for one in pipeline]
    named = {entry.name for entry in policy.components}
    findings = unmatched(policy, names)
    for one in pipeline:
        takes = takes_of_saved(one.path, one.params)
        if (one.name in named and not isinstance(takes, Takes)) or takes_any(takes):
            theirs = one.path.partition(".")[0] in PACKAGES
            what = "takes no device" if theirs else "was saved without a device, and its class is not imported here"
            findings.append(undecided(one.name, one.path, takes, names, what=what))
    return findings


def _resolved(by: Decider, one: Saved, takes: Takes) -> Resolved:
    return Resolved(
        one.name, one.path, by.decision(one.name, one.path, takes, one.params), given_device(takes, one.params)
    )


def unmatched(policy: Policy, names: Sequence[str]) -> list[Diagnostic]:
    """Return a warning (DP510) for each component that the policy names and a pipeline does not have."""
    wanted = [entry for entry in policy.components if not entry.is_glob and entry.name not in names]
    return [
        Diagnostic(
            "DP510",
            f"the pipeline has no component `{entry.name}`",
            entry.place,
            help=likely(entry.name, names),
            severity="warning",
        )
        for entry in wanted
    ]
