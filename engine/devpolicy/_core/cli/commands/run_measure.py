"""`devpolicy run --measure`: a program of llama.cpp loads what was planned, and its log is compared with the plan.

Owns the table of differences, the lines for the policy, and the exit status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.cli.context import PATIENCE, CliContext
from devpolicy._core.cli.table import table
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.targets.environment import environment, llama_cpp_names
from devpolicy._core.verbs.joint import JointPlanner, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.targets.llama_cpp_log import Held

_TERMS = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations"}


def measure_command(ctx: CliContext, request: Request, host: Host, command: Sequence[str], timeout: float) -> int:
    """Load the model by a command, show what it holds beside the plan, and return 1 where that is not as planned."""
    from devpolicy._core.targets.llama_cpp_log import differences, measure, reserves

    with ctx.working("planning", patience=PATIENCE):
        plan = _plan(request, host)
        variables = environment(plan, host)
    names = {name: device for device, name in llama_cpp_names(plan, host).items()}
    with ctx.working("loading the model"):
        held = measure(command, variables, names, timeout)
    wrong, lines = differences(plan, held), reserves(plan, held, command[0])
    if ctx.json:
        ctx.print_json({"schema": 1, "command": list(command), **_as_json(plan, held, wrong), "policy": lines})
    else:
        ctx.out.print(_view(plan, held, ctx.out.width))
        ctx.out.print(["", *([f"not as planned: {one}" for one in wrong] or ["as planned"]), ""])
        ctx.out.print(lines.removesuffix("\n").split("\n"))
    return 1 if wrong else 0


def _plan(request: Request, host: Host) -> Plan:
    if request.has_size:
        plan = JointPlanner(host).place(request).plan
        if plan.target == "llama.cpp":
            return plan
    message = "`--measure` reads the log of llama.cpp, and this is no plan for it"
    raise DevPolicyError([Diagnostic("", message, help="plan a GGUF file: `--model FILE.gguf`")])


def _rows(plan: Plan, held: Mapping[str, Held]) -> dict[str, list[tuple[int, int]]]:
    devices = dict.fromkeys([*plan.ledger, *held])
    return {
        device: [(getattr(plan.ledger.get(device), term, 0), getattr(held.get(device), term, 0)) for term in _TERMS]
        for device in devices
    }


def _as_json(plan: Plan, held: Mapping[str, Held], wrong: Sequence[str]) -> dict[str, Any]:
    devices = {
        device: {term: {"planned": ours, "logged": theirs} for term, (ours, theirs) in zip(_TERMS, sizes, strict=True)}
        for device, sizes in _rows(plan, held).items()
    }
    return {"as_planned": not wrong, "differences": list(wrong), "devices": devices}


def _view(plan: Plan, held: Mapping[str, Held], width: int) -> list[Line]:
    head = ["in MiB", *(text for term in _TERMS.values() for text in (term, "logged"))]
    rows = [
        [device, *(f"{size / (1 << 20):,.2f}" for pair in sizes for size in pair)]
        for device, sizes in _rows(plan, held).items()
    ]
    return table(head, rows, width=width, right=tuple(range(1, len(head))), styles={0: "device"})
