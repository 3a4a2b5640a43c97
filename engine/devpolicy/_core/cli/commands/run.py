"""`devpolicy run`: a command with the devices that a policy plans for it, and no others.

Owns how the variables are printed, and how the command replaces this process.
"""

from __future__ import annotations

import os
import sys
from typing import Never

import click

from devpolicy._core.cli.commands.run_measure import measure_command
from devpolicy._core.cli.context import PATIENCE, CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    component_option,
    host_option,
    load_host,
    load_model,
    model_option,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.output_formats import TargetName, in_shell
from devpolicy._core.device import Device
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.targets.environment import environment, shell, visible_devices
from devpolicy._core.verbs.joint import JointPlanner, Request


@click.command(cls=Command, name="run", short_help="Run a command on its planned devices and no others.")
@policy_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@model_option(required=False)
@host_option
@component_option
@overlay_options
@click.option("--target", type=TargetName(), help="The engine that COMMAND is. Default: that of the policy.")
@click.option("--print", "printed", is_flag=True, help="Print the variables and the command; run nothing.")
@click.option(
    "--measure",
    "measured",
    is_flag=True,
    help="Run a program of llama.cpp until it has loaded the model; compare its log.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="With --measure: how long loading may take.",
)
@common()
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    command: tuple[str, ...],
    model: str | None,
    host: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    target: str | None,
    printed: bool,
    measured: bool,
    timeout: float,
) -> int:
    """Replace this process by COMMAND, which sees the planned devices and no others.

    It sets CUDA_VISIBLE_DEVICES and the equivalent variables of other vendors, by UUID where it is known. It also sets
    the variables that an engine such as llama-server or Ollama reads. If the plan is refused, nothing starts. For a
    policy with several servers, --component names the one to start; its plan leaves room for those before it.

    With --measure the command is a program of llama.cpp, such as llama-server. It is ended when it has loaded the
    model, and its log is compared with the plan. The compute buffers of the log are printed as lines for the policy,
    which replace the plan's estimate.

    \b
    Examples:
      devpolicy run policy.toml --model llama-3.1-8b -- python serve.py
      devpolicy run servers.toml --component chat -- llama-server -m chat.gguf
      devpolicy run servers.toml --component chat --print -- ollama serve
      devpolicy run p.toml --model m.gguf --measure -- llama-server -m m.gguf

    Exit status: that of COMMAND; with --measure 0 as planned, 1 not; 2 invalid policy or usage, 3 refused.
    """
    loaded = Policy.load(policy)
    machine = load_host(ctx, host, loaded)
    loaded = on_host(loaded, machine, profile, overrides)
    _check(loaded, component)
    tree = None if model is None else load_model(ctx, model)
    request = Request(loaded, component, tree, target=target)
    if measured:
        if printed:
            raise DevPolicyError(
                [Diagnostic("", "`--print` runs nothing that could be measured", help="leave one out")]
            )
        return measure_command(ctx, request, machine, command, timeout)
    with ctx.working("planning", patience=PATIENCE):
        variables = _variables(request, machine)
    if printed or ctx.json:
        if ctx.json:
            ctx.print_json({"schema": 1, "env": variables, "command": list(command)})
        else:
            import shlex

            ctx.out.write(f"{in_shell(shell, variables)}{shlex.join(command)}\n")
        return 0
    return _replace(command, variables)


def _check(policy: Policy, component: str | None) -> None:
    """Raise `DevPolicyError` where a policy has several components and none is named, or no such one."""
    check_component(policy, component)
    named = [entry.name for entry in policy.components if not entry.is_glob]
    if component is None and named:
        message = f"the policy has components, and a command is one of them: {', '.join(f'`{name}`' for name in named)}"
        raise DevPolicyError([Diagnostic("", message, help=f"name it: `--component {named[0]}`")])


def _variables(request: Request, host: Host) -> dict[str, str]:
    """Return what the command's environment gets. Raises `Unsatisfiable` where nothing in `prefer` fits."""
    if request.has_size:
        return environment(JointPlanner(host).place(request).plan, host)
    from devpolicy._core.placement.choice import choose

    device = choose(request.resolved, host, target=request.target).device.to_dict()["device"]
    chosen = Device.from_str(device)
    return visible_devices([] if chosen.type.value == "cpu" else [chosen], host)


def _replace(command: tuple[str, ...], variables: dict[str, str]) -> Never:
    """Become the command. Raises `DevPolicyError` where there is no such program."""
    whole = {**os.environ, **variables}
    try:
        if sys.platform == "win32":  # there, another process would go on while this one ends
            import subprocess

            raise SystemExit(subprocess.call(command, env=whole))
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvpe(command[0], command, whole)
    except (OSError, ValueError) as broken:
        reason = broken.strerror if isinstance(broken, OSError) and broken.strerror else str(broken)
        message = f"`{command[0]}` cannot be run: {reason.lower()}"
        raise DevPolicyError([Diagnostic("", message, help="check its name, and that it is on PATH")]) from None
