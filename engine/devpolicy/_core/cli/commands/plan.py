"""`devpolicy plan`: a policy compiled for a model and a host.

Owns the combinations of options, the output of each format, and the comparison with a locked plan.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete, complete_keys
from devpolicy._core.cli.annotations import Annotation, certificates, compared, lines_of
from devpolicy._core.cli.context import PATIENCE, CliContext, common, pass_context
from devpolicy._core.cli.fleet_plan import fleet_option, show_plan, without
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    check_model,
    component_option,
    files_of,
    host_option,
    load_host,
    load_model,
    model_help,
    named_models,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.output import Output
from devpolicy._core.cli.output_formats import OUTPUT_FORMATS, FormName, TargetName, form_named, written
from devpolicy._core.cli.pictures import check_picture, drawn
from devpolicy._core.cli.report import print_lint
from devpolicy._core.cli.table import facts
from devpolicy._core.cli.what_if import read_changes
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.language.policy import Policy
from devpolicy._core.text import json_text
from devpolicy._core.verbs.joint import JointPlanner, Request

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.plan import Plan
    from devpolicy._core.verbs.joint import Planned

Plans = Mapping[str | None, "Plan"]
Models = Mapping[str | None, str]


@click.command(cls=Command, name="plan", short_help="Show where each module executes and what each device holds.")
@policy_argument
@click.option(
    "--model",
    metavar="[NAME=]MODEL",
    multiple=True,
    shell_complete=complete.models,
    help=f"{model_help} NAME= gives it to that component, instead of the `model` in the policy.",
)
@host_option
@fleet_option
@click.option(
    "--from",
    "running",
    metavar="FILE",
    help="With --fleet: the JSON of the plan that runs now. The new plan moves as few components as it can.",
)
@component_option
@overlay_options
@click.option(
    "--architecture",
    metavar="CLASS",
    help="The class that a checkpoint is loaded as: a model class or an auto class of Transformers.",
)
@click.option(
    "--what-if",
    "what_if",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_keys.changes,
    help="Change host or workload, and compare: cuda.count=3, cuda:0.free=20 GiB, memory=128 GiB, context=8192.",
)
@click.option("--certify", is_flag=True, help="Show how far the plan can be from the least predicted time.")
@click.option("--target", type=TargetName(), help="The consumer to plan for: `devpolicy targets` lists them.")
@click.option(
    "--to",
    type=FormName(("ray", "serve")),
    help=f"Print only what the consumer takes, and plan for it: {', '.join(OUTPUT_FORMATS)}; with --fleet also ray, "
    "serve.",
)
@click.option("--locked", metavar="FILE", help="Fail if the plan is not the one in FILE, and list what moved.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of the terminal, whole or not at all.")
@common(formats=("human", "plain", "json", "svg", "png"))
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    model: tuple[str, ...],
    architecture: str | None,
    host: str | None,
    fleet: str | None,
    running: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    what_if: tuple[str, ...],
    certify: bool,
    target: str | None,
    to: str | None,
    locked: str | None,
    output: str | None,
) -> None:
    """Show where each module executes, where its weights are stored, and what each device holds.

    POLICY is a file, or the name of a shipped policy. No weights are loaded. Modules that differ only in numbers share
    a row, in the notation of a rule's `match`.

    The components of a policy are planned together, in the order of the file. --component shows one of them, planned
    beside those before it.

    \b
    Examples:
      devpolicy plan offload-lm-head --model llama-3.1-70b --host 4x80gb
      devpolicy plan policy.toml --model ./checkpoint
      devpolicy plan policy.toml --model llama-3.1-8b --to hf
      devpolicy plan rag-pipeline --host 1x24gb
      devpolicy plan rag-pipeline --host 1x24gb --format svg --output plan.svg
      devpolicy plan policy.toml --model reader=bert-base --model writer=gpt2
      devpolicy plan rag-pipeline --fleet mixed-50

    \b
    Keep a plan as JSON, and compare with it in CI:
      devpolicy plan policy.toml --model gpt2 --host 2x24gb \\
          --format json --output plan.lock.json
      devpolicy plan policy.toml --model gpt2 --host 2x24gb \\
          --locked plan.lock.json
    """
    if fleet is not None:
        without(fleet, host=host, what_if=what_if, certify=certify)
        show_plan(
            ctx,
            policy,
            fleet,
            model,
            profile=profile,
            overrides=overrides,
            architecture=architecture,
            target=target,
            component=component,
            running=running,
            to=to,
            locked=locked,
            output=output,
        )
        return
    if to in ("ray", "serve"):
        raise DevPolicyError([Diagnostic("", f"`--to {to}` needs `--fleet`", help="one host needs no scheduler")])
    if running is not None:
        raise DevPolicyError([Diagnostic("", "`--from` needs `--fleet`", help="on one host nothing moves")])
    wanted = named_models(model)
    changes = read_changes(what_if)
    written = Policy.load(policy)
    present = load_host(ctx, host, written)
    machine = present if changes is None else changes.host(present)
    loaded = on_host(written, machine, profile, (*overrides, *(changes.overrides if changes else ())))
    check_asked(loaded, wanted, component)
    models = {name: load_model(ctx, text, architecture) for name, text in wanted.items()}
    target = target or (form_named(to).target if to else None)
    with ctx.working("planning", patience=PATIENCE):
        placed = make_plans(loaded, models, machine, component, target)
        plans = _plans(placed)
        annotations = certificates(placed, machine) if certify else []
        if changes is not None:
            before = on_host(written, present, profile, overrides)
            annotations.append(
                compared(changes, plans, lambda: _plans(make_plans(before, models, present, component, target)))
            )
    if locked is not None:
        from devpolicy._core.cli.lock import compare

        compare(locked, plans)
    content: str | bytes | None
    if ctx.format in ("svg", "png"):
        content = _picture(ctx, placed, machine, to, output)
    else:
        content = _for_programs(ctx, plans, to, annotations, machine)
    if output is not None:
        from devpolicy._core.cli.files import write_whole

        spoken = ctx.format == "plain"
        told = content if content is not None else _as_text(placed, loaded, machine, annotations, spoken=spoken)
        write_whole(output, told, inputs=[*files_of(loaded), *wanted.values(), *filter(None, (policy, host, locked))])
    elif content is not None:
        ctx.out.write(str(content))
    else:
        ctx.out.print([*_view(placed, loaded, machine, ctx.out), *lines_of(annotations)])
        ctx.out.print(_next_steps(plans, locked, ctx.out.width))
    print_lint(ctx, loaded)


def check_asked(policy: Policy, models: Models, component: str | None) -> None:
    """Raise `DevPolicyError` if the command names neither a model nor a component."""
    named = [entry.name for entry in policy.components if not entry.is_glob]
    if component is not None:
        check_component(policy, component, models)
        given = [name for name in models if name is not None]
        if given and component not in (*given, *named):
            raise DevPolicyError(f"no `--model` is named `{component}`: given are {', '.join(given)}")
        return
    if None in models and named:
        message = f"the policy has components, and `{models[None]}` is for none of them"
        hint = f"name one: `--model {named[0]}={models[None]}`, or `--component {named[0]}` for it alone"
        raise DevPolicyError([Diagnostic("", message, help=hint)])
    check_model(policy, None, given=bool(models or named))


def make_plans(
    policy: Policy, models: Mapping[str | None, ModelTree], host: Host, component: str | None, target: str | None
) -> dict[str | None, Planned]:
    """Plan one model, or all components together; with `component` that one alone is returned."""
    named = {name: tree for name, tree in models.items() if name is not None}
    joint = JointPlanner(host, models=named)
    if component is not None or None in models:
        model = models.get(None, named.get(component or ""))
        request = Request(policy, component, model, target=target)
        copies = joint.place_copies(request)
        if len(copies) > 1 and all(one.plan.component != component for one in copies):
            return {str(one.plan.component): one for one in copies}
        return {None: next((one for one in copies if one.plan.component == component), next(iter(copies)))}
    return dict(joint.place_all(policy, target=target).items())


def _plans(placed: Mapping[str | None, Planned]) -> Plans:
    return {name: one.plan for name, one in placed.items()}


def _for_programs(
    ctx: CliContext, plans: Plans, to: str | None, annotations: Sequence[Annotation], host: Host
) -> str | None:
    """Return the text for programs, `None` if the plan is shown to a person."""
    if to is not None:
        return written(form_named(to), plans, host, as_json=ctx.json)
    if not ctx.json:
        return None
    forms: dict[str | None, Any] = {name: plan.to_dict() for name, plan in plans.items()}
    value = forms.get(None, forms)
    whole = value if None in forms else {"schema": 1, "components": value}
    for annotation in annotations:
        forms.get(annotation.component, whole)[annotation.key] = annotation.data
    return json_text(whole)


def _picture(
    ctx: CliContext, placed: Mapping[str | None, Planned], host: Host, to: str | None, output: str | None
) -> str | bytes:
    """Return the plans as a picture. Raises `DevPolicyError` where it cannot be written as it is asked for."""
    from devpolicy._core.views.names import device_names
    from devpolicy._core.views.picture import Titled

    check_picture(ctx, to, output)
    where = host.name or "this machine"
    titles = {
        name: f"{name or (one.tree.name if one.tree else None) or 'the model'} on {where}"
        for name, one in placed.items()
    }
    return drawn(ctx, [Titled(titles[name], one.plan, device_names(host)) for name, one in placed.items()])


def _view(placed: Mapping[str | None, Planned], policy: Policy, host: Host, out: Output) -> list[Line]:
    if None in placed:
        from devpolicy._core.cli.plan_view import view

        return view(placed[None].plan, policy, placed[None].tree, host, out)
    from devpolicy._core.cli.joint_view import joint_view

    named = {str(name): one for name, one in placed.items()}
    plans, trees = ({name: getattr(one, what) for name, one in named.items()} for what in ("plan", "tree"))
    return joint_view(plans, policy, trees, host, out)


def _as_text(
    placed: Mapping[str | None, Planned],
    policy: Policy,
    host: Host,
    annotations: Sequence[Annotation],
    *,
    spoken: bool,
) -> str:
    """Return the human form as a file holds it."""
    text = io.StringIO()
    out = Output(text, spoken=spoken)
    out.print([*_view(placed, policy, host, out), *lines_of(annotations)])
    return text.getvalue()


def _next_steps(plans: Plans, locked: str | None, width: int) -> list[Line]:
    lines: list[Line] = [[("locked  ", "strong"), (f"unchanged, as in {locked}", "good")]] if locked else []
    targets = {plan.target for plan in plans.values()}
    forms = [name for name, form in OUTPUT_FORMATS.items() if form.target in targets] if len(targets) == 1 else []
    prints = "the device map" if forms[:1] == ["hf"] else "what it takes"
    step = f"`--to {forms[0]}` prints {prints}" if forms else "`--format json` prints the plan for programs"
    return [*lines, *facts([("next  ", step)], width=width)]
