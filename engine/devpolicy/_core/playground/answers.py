"""The page's requests to the core, and their answers.

Owns the requests and their answers as JSON. Every error of a policy is an answer: the page never sees an exception.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from devpolicy._core.cost.prediction import as_ms
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.language.policy import Policy
from devpolicy._core.model.catalogue import load, model_catalogue
from devpolicy._core.placement.plan import Plan
from devpolicy._core.playground.completion import complete
from devpolicy._core.shipped import shipped_files
from devpolicy._core.sizes import format_size
from devpolicy._core.text import visible
from devpolicy._core.verbs.joint import JointPlanner, Request
from devpolicy._core.views.names import device_names, device_range, host_line
from devpolicy._core.views.picture import VARIABLES, Titled, picture, sentence

_SOURCE = "policy.toml"
_WIDTH = 560
_BROKEN = ("faulty/",)


def answer(request: str) -> str:
    """Return the answer to a request, both as JSON: `choices`, `plan` or `complete` with what each needs."""
    asked: Mapping[str, Any] = json.loads(request)
    if asked["ask"] == "choices":
        return json.dumps(_choices())
    if asked["ask"] == "complete":
        return json.dumps(complete(asked["policy"], asked["line"], asked["column"]))
    return json.dumps(_planned(asked["policy"], asked["model"], asked["host"], asked.get("width", _WIDTH)))


def _choices() -> dict[str, Any]:
    """Return the models, the hosts and the policies that ship."""
    policies = {name: file.read_text("utf-8") for name, file in shipped_files("policy").items()}
    hosts = {name: host_line(Host.load(name)) for name in catalogue() if not name.startswith(_BROKEN)}
    return {"models": list(model_catalogue()), "hosts": hosts, "policies": policies}


def _planned(text: str, model: str, host: str, width: int) -> dict[str, Any]:
    """Return the plans of a policy with their picture, and the findings."""
    findings: list[Diagnostic] = []
    plans: list[tuple[str, Plan]] = []
    machine = Host.load(host)
    try:
        policy = Policy.parse(text, _SOURCE)
        findings += policy.warnings
        plans = list(_plans(policy, model, machine))
    except DevPolicyError as broken:
        findings += broken.diagnostics or (Diagnostic("", str(broken)),)
    findings += [warning for _, plan in plans for warning in plan.warnings]
    drawn = [Titled(f"{name} on {host}", plan, device_names(machine)) for name, plan in plans]
    return {
        "findings": [_finding(one) for one in dict.fromkeys(findings)],
        "plans": [_told(name, plan) for name, plan in plans],
        "picture": picture(drawn, width=width, theme=VARIABLES) if drawn else "",
    }


def _plans(policy: Policy, model: str, host: Host) -> Sequence[tuple[str, Plan]]:
    """Return the plans of the policy's components; of a policy without any that of the model."""
    joint = JointPlanner(host)
    if any(not one.is_glob for one in policy.components):
        return [(name, placed.plan) for name, placed in joint.place_all(policy).items()]
    placed = joint.place_copies(Request(policy, None, load(model)))
    return [(model, one.plan) for one in placed]


def _told(name: str, plan: Plan) -> dict[str, Any]:
    devices = device_range(map(str, plan.placements.devices))
    away = sum(unit.bytes for unit in plan.placements.values() if unit.device != unit.runs_on)
    facts = [("executes on", devices)]
    facts += [("kept elsewhere", format_size(away))] if away else []
    facts += [("predicted", f"{as_ms(plan.prediction.ns)} for each token, not measured")] if plan.prediction else []
    facts += [("granted", str(plan.granted))] if plan.granted else []
    return {"name": visible(name), "digest": plan.digest, "facts": facts, "sentence": sentence(plan)}


def _finding(found: Diagnostic) -> dict[str, Any]:
    place = found.place
    return {
        "severity": found.severity,
        "code": found.code,
        "message": visible(found.message),
        "notes": [visible(note) for note in found.notes],
        "help": visible(found.help),
        "place": None if place is None or place.source != _SOURCE else [place.line, place.column, place.length],
    }
