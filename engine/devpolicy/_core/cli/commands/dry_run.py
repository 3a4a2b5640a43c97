"""`devpolicy dry-run`: a plan, tried by the real library on the simulated host.

Owns the output, and the findings for what differs from the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    component_option,
    host_option,
    load_host,
    load_model,
    named_models,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.report import print_lint, write_findings
from devpolicy._core.dry_run.result import LONGEST, TIMEOUT
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import Policy

if TYPE_CHECKING:
    from devpolicy._core.dry_run import DryRun, RunError
    from devpolicy._core.host import Host
    from devpolicy._core.verbs.joint import Planned

DOES_NOT_RUN, OVER = "DP520", "DP521"


@click.command(cls=Command, name="dry-run", short_help="Load and run the real model code on a simulated host.")
@policy_argument
@click.option(
    "--model",
    metavar="[NAME=]MODEL",
    multiple=True,
    help="A model of the catalogue, a model file, a checkpoint folder, a hub id in the local cache, or hf://ORG/NAME. "
    "NAME= gives it to that component.",
)
@host_option
@component_option
@overlay_options
@click.option("--architecture", metavar="CLASS", help="The class that a checkpoint is loaded as.")
@click.option(
    "--prompt",
    type=click.IntRange(1),
    metavar="N",
    help="Tokens of the prompt. Default: those of the policy's workload.",
)
@click.option("--new-tokens", type=click.IntRange(0), metavar="N", help="Tokens to generate. Default: 4.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, LONGEST),
    default=TIMEOUT,
    metavar="SECONDS",
    help=f"The time limit for each model. Default: {TIMEOUT}.",
)
@common(formats=("human", "plain", "json", "github"))
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    model: tuple[str, ...],
    host: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    architecture: str | None,
    prompt: int | None,
    new_tokens: int | None,
    timeout: float,
) -> int:
    """Load a model with its plan and run it at true size: prompt, cache and generated tokens.

    The real library loads the model with the plan's own arguments onto simulated devices, which hold no data, and the
    model's real code runs. The command reports every operator whose tensors are on different devices, with the module
    and the line of code. It shows the peak memory of each device beside the ledger. No weights are read, and no GPU is
    needed.

    This needs the simulator (`devpolicy simulator build`), Transformers and accelerate.

    \b
    Examples:
      devpolicy dry-run split-across-gpus --model llama-3.1-70b --host 4x80gb
      devpolicy dry-run p.toml --model ./checkpoint --prompt 8000 --new-tokens 16

    Exit status: 0 it runs within its ledger; 1 a device held more than its ledger; 2 invalid policy or usage; 3 it is
    refused or does not run.
    """
    from devpolicy._core.cli.commands.plan import check_asked, make_plans
    from devpolicy._core.cli.dry_run_view import view

    wanted = named_models(model)
    written = Policy.load(policy)
    machine = load_host(ctx, host, written)
    loaded = on_host(written, machine, profile, overrides)
    check_asked(loaded, wanted, component)
    check_component(loaded, component, wanted)
    trees = {name: load_model(ctx, text, architecture) for name, text in wanted.items()}
    placed = make_plans(loaded, trees, machine, component, None)
    found = {name: _tried(ctx, one, machine, prompt, new_tokens, timeout) for name, one in placed.items()}
    if ctx.json:
        named = {name: run.to_dict() for name, run in found.items()}
        ctx.print_json(named.get(None) or {"schema": 1, "components": named})
    elif ctx.format == "github":
        write_findings(ctx, [finding for run in found.values() for finding in findings(run, loaded)])
    else:
        for at, (name, run) in enumerate(found.items()):
            lines = view(run, name, findings(run, loaded), ctx.out.width)
            ctx.out.print(["", *lines] if at else lines)
    print_lint(ctx, loaded)
    if not all(run.runs for run in found.values()):
        return 3
    return 1 if any(run.over for run in found.values()) else 0


def _tried(
    ctx: CliContext, one: Planned, host: Host, prompt: int | None, new_tokens: int | None, timeout: float
) -> DryRun:
    from devpolicy._core.dry_run.verb import dry_run

    name = one.tree.name if one.tree is not None else str(one.plan.component)
    with ctx.progress(f"running the code of {name}") as progress:
        return dry_run(
            one.plan,
            one.tree,
            host,
            prompt=prompt,
            new_tokens=new_tokens,
            timeout=timeout,
            progress=progress,
        )


def findings(run: DryRun, policy: Policy) -> list[Diagnostic]:
    """Return what contradicts the plan, as findings of the policy."""
    place = policy.top.prefer_place
    found = [_finding(error, policy) for error in run.errors]
    sentences = list(run.complaints())[len(run.errors) :]
    help_ = "set it aside: `memory.cuda.reserve.activations`, or a smaller `[workload] context` or `batch`"
    return [*found, *(Diagnostic(OVER, sentence, place, help=help_) for sentence in sentences)]


def _finding(error: RunError, policy: Policy) -> Diagnostic:
    where = "" if error.module is None else f"`{error.module or 'the model itself'}` ({error.module_class}): "
    notes = [f"while the model is {'loaded' if error.phase == 'load' else f'run ({error.phase})'}"]
    notes += [f"at {error.line}"] if error.line else []
    notes += [f"`{child}` executes on `{device}`" for child, device in error.children]
    help_ = ""
    if error.children:
        listed = ", ".join(f'"{child}"' for child, _ in error.children)
        help_ = f"keep on one device what meets there: a rule with `match = [{listed}]` and `together = true`"
    return Diagnostic(DOES_NOT_RUN, where + error.message, policy.top.prefer_place, "does not run", tuple(notes), help_)
