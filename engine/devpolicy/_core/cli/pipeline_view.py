"""A saved pipeline of Haystack under a policy, as the commands show it.

Owns the table and the JSON of `resolve --pipeline`, and the option itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli.table import table
from devpolicy._core.errors import DevPolicyError, Diagnostic

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.targets.haystack_components.survey import Resolved, Survey

pipeline_option = click.option(
    "--pipeline",
    metavar="FILE",
    type=click.Path(),
    help="A saved pipeline of Haystack (YAML). Its classes are not imported.",
)


def check_alone(pipeline: str | None, **others: object) -> None:
    """Raise `DevPolicyError` where `--pipeline` is combined with options that name one component."""
    given = [f"`--{name}`" for name, value in others.items() if value is not None]
    if pipeline is not None and given:
        hint = "a pipeline names its components and their models itself"
        raise DevPolicyError([Diagnostic("", f"`--pipeline` and {given[0]} exclude each other", help=hint)])


def lines(survey: Survey, width: int) -> list[Line]:
    """Return the table of a pipeline's components."""
    rows = [
        [one.name, one.path.rpartition(".")[2], _told(one.device), _entry(one), one.replaced or "-"]
        for one in survey.components
    ]
    if not rows:
        return [[("no component of the pipeline takes a device", "dim")]]
    head = ["component", "class", "device", "decided by", "in place of"]
    return table(head, rows, width=width, styles={2: "device"})


def to_json(survey: Survey) -> dict[str, Any]:
    """Return the survey for machines."""
    return {
        "schema": 1,
        "components": {
            one.name: {
                "class": one.path,
                "device": one.device.to_dict(),
                "entries": list(one.entries),
                "in_place_of": one.replaced,
                "planned": one.decision.plan is not None,
            }
            for one in survey.components
        },
    }


def warnings(survey: Survey) -> list[Diagnostic]:
    """Return all warnings about a pipeline, each once."""
    # Of a misspelt name the survey says more than the component that goes without it (DP508).
    own = [finding for one in survey.components for finding in one.decision.warnings if finding.code != "DP508"]
    return list(dict.fromkeys([*survey.findings, *own]))


def _told(device: ComponentDevice) -> str:
    form = device.to_dict()
    return str(form["device"]) if "device" in form else ", ".join(dict.fromkeys(form["device_map"].values()))


def _entry(one: Resolved) -> str:
    """Return what of the policy applies to a component: its nearest entry, or the top."""
    return f"[component.{_key(one.entries[0])}]" if one.entries else "prefer"


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else f'"{name}"'
