"""The one step that makes sense after a command, for people at a terminal.

Owns which step that is. What is recommended works: it is made of what the command was given and has just read. A pipe
and a file get none, and neither do the commands that name their next step themselves, as a part of what they report.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Unsatisfiable

if TYPE_CHECKING:
    from devpolicy._core.cli.context import CliContext

Given = Mapping[str, Any]
"""The parameters of a command."""
Step = tuple[Sequence[str], str]
"""A command's arguments, and what it does."""


def print_next_step(context: click.Context, status: int) -> None:
    """Print the step after a command that has ended with a status."""
    ctx: CliContext = context.obj
    name = " ".join(context.command_path.split()[1:])
    if not (ctx.for_people and ctx.out.terminal and name in _STEPS):
        return
    with suppress(DevPolicyError):
        step = _STEPS[name](context.params, status)
        if step is not None:
            words, does = step
            ctx.out.print(facts([("next", f"`devpolicy {shlex.join(words)}` {does}")], width=ctx.out.width))


def _of_policy(policy: str) -> Step:
    """Return the step for a policy: its tests, where it has some."""
    from devpolicy._core.review.suites import gather

    if any(suite.tests for suite in gather([policy])):
        return ["test", policy], "runs its tests"
    return ["show", policy], "shows every value with its origin"


def _check(given: Given, status: int) -> Step | None:
    policies = given["policies"]
    return _of_policy(policies[0]) if policies and not status else None


def _show(given: Given, status: int) -> Step | None:
    policy = given.get("policy")
    return None if policy is None else (["check", policy], "checks it")


def _plan(given: Given, status: int) -> Step | None:
    # A plan for one host names its own next step.
    if (
        status
        or not given["fleet"]
        or any(given[other] for other in ("component", "to", "output", "target", "running", "locked", "architecture"))
    ):
        return None
    return [
        "report",
        given["policy"],
        "--fleet",
        given["fleet"],
        *_models(given),
        *_overlay(given),
        "-o",
        "report.html",
    ], "draws it"


def _plan_of(given: Given, status: int) -> Step | None:
    fleet = given.get("fleet")
    if fleet:
        return ["fleet", "show", fleet], "shows its nodes"
    models, host = given.get("model"), given.get("host")
    model = models[0] if isinstance(models, tuple) and len(models) == 1 else models
    if status or not isinstance(model, str) or any(given.get(other) for other in ("pipeline", "to", "target")):
        return None
    on = ["--host", host] if host else []
    part = ["--component", given["component"]] if given.get("component") else []
    loaded_as = ["--architecture", given["architecture"]] if given.get("architecture") else []
    words = ["plan", given["policy"], "--model", model, *on, *part, *loaded_as, *_overlay(given)]
    return words, "shows the whole plan"


def _models(given: Given) -> list[str]:
    return ["--models", ",".join(given["model"])] if given["model"] else []


def _overlay(given: Given) -> list[str]:
    again = [word for text in given.get("overrides", ()) for word in ("--set", text)]
    return [*(["--profile", given["profile"]] if given.get("profile") else []), *again]


def _run(given: Given, status: int) -> Step | None:
    return _plan_of(given, status) if given["printed"] else None


def _fit(given: Given, status: int) -> Step | None:
    models, hosts = given["model"], given["host"]
    if given["fleet"] and not status:
        return ["fleet", "show", given["fleet"]], "shows its nodes"
    if status or not models or given["target"] or any("," in name for name in (*models, *hosts)) or given["component"]:
        return None
    on = ["--hosts", ",".join(hosts)] if hosts else []
    schemes = ["--quantizations", ",".join(given["quantization"])] if given["quantization"] else []
    words = ["report", given["policy"], "--models", ",".join(models), *on, *schemes, *_overlay(given)]
    return [*words, "-o", "report.html"], "draws it"


def _test(given: Given, status: int) -> Step | None:
    policies = list(given["policies"])
    if status:
        return (["check", *policies], "looks for mistakes in the policy") if len(policies) == 1 else None
    if given["covered"]:
        return ["show", policies[0]], "shows every value with its origin"
    chosen = ["--run", given["run"]] if given["run"] else []
    return ["test", *policies, *chosen, *_overlay(given), "--coverage"], "shows what no test needs"


def _diff(given: Given, status: int) -> Step | None:
    return ["show", given["second"]], "shows every value of the second"


def _host_show(given: Given, status: int) -> Step | None:
    from devpolicy import plan

    try:
        plan("prefer-accelerator", "gpt2", given["host"])
    except Unsatisfiable:
        return ["host", "list"], "shows hosts that hold more"
    return ["fit", "prefer-accelerator", "--model", "gpt2", "--host", given["host"]], "tries a small model on it"


def _fleet_show(given: Given, status: int) -> Step | None:
    if given["as_toml"] or given["for_ray"]:
        return None
    from devpolicy.fleet import plan_fleet

    try:
        plan_fleet("prefer-accelerator", "gpt2", given["fleet"])
    except Unsatisfiable:
        return ["fleet", "list"], "shows fleets that hold more"
    return ["fit", "prefer-accelerator", "--model", "gpt2", "--fleet", given["fleet"]], "tries a small model on it"


def _schema(given: Given, status: int) -> Step | None:
    folder = "first"
    if os.path.lexists(folder):
        return None
    words = ["init", folder, "--model", "llama-3.1-8b", "--host", "2x24gb"]
    return words, "writes a policy that uses it"


def _simulator_build(given: Given, status: int) -> Step | None:
    from devpolicy._core.simulator import simulator, unfit

    if unfit() is not None or not simulator().built:
        return ["simulator", "info"], "shows what is missing"
    return _simulated()


def _simulator_info(given: Given, status: int) -> Step | None:
    from devpolicy._core.simulator import simulator, unfit
    from devpolicy._core.simulator.building import find_compiler

    if unfit() is not None or not (simulator().built or find_compiler()):
        return ["host", "list"], "shows hosts that can be simulated without it"
    return _simulated() if simulator().built else (["simulator", "build"], "builds it, in half a minute")


def _simulated() -> Step:
    """Return the step that uses the simulator."""
    if all(map(find_spec, ("transformers", "accelerate"))):
        return ["dry-run", "prefer-accelerator", "--model", "gpt2", "--host", "1x24gb"], "runs a small model on it"
    return ["dry-run", "--help"], "says what a dry run needs"


def _model_show(given: Given, status: int) -> Step | None:
    return ["model", "capture", given["model"]], "writes it as a model file"


def _capture(given: Given, status: int) -> Step | None:
    output = given["output"]
    return (["host", "show", output], "shows the file") if output else None


def _capture_model(given: Given, status: int) -> Step | None:
    output = given["output"]
    return (["model", "show", output], "shows the file") if output else None


def _always(*words: str, does: str) -> Callable[[Given, int], Step]:
    return lambda given, status: (words, does)


_STEPS: Mapping[str, Callable[[Given, int], Step | None]] = {
    "check": _check,
    "show": _show,
    "plan": _plan,
    "run": _run,
    "fit": _fit,
    "resolve": _plan_of,
    "why": _plan_of,
    "dry-run": _plan_of,
    "test": _test,
    "verify": lambda given, status: None if status else _of_policy(given["policy"]),
    "diff": _diff,
    "host list": _always("host", "show", "2x24gb", does="shows one of them"),
    "host show": _host_show,
    "host capture": _capture,
    "host measure": _capture,
    "fleet list": _always("fleet", "show", "4-workstations", does="shows one of them"),
    "fleet show": _fleet_show,
    "model list": _always("model", "show", "llama-3.1-8b", does="shows one of them"),
    "model show": _model_show,
    "model capture": _capture_model,
    "targets": _always(
        "plan", "prefer-accelerator", "--model", "gpt2", "--host", "2x24gb", "--to", "hf", does="prints one form"
    ),
    "doctor": _always("host", "list", does="lists hosts to plan for"),
    "simulator build": _simulator_build,
    "schema": _schema,
    "simulator info": _simulator_info,
    "explain": _always("check", "--help", does="says how policies are checked"),
}
