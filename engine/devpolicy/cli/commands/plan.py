"""`devpolicy plan`: a policy compiled for a model and a host."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import click

from devpolicy import api
from devpolicy.cli import complete
from devpolicy.cli.forms import FORMS, literal
from devpolicy.cli.inputs import (
    component_option,
    for_host,
    host_option,
    load_host,
    load_model,
    named_models,
    overlay_options,
    policy_argument,
)
from devpolicy.cli.report import tell_lint
from devpolicy.cli.screen import Screen, plain
from devpolicy.cli.session import Session, common, pass_session, to_json
from devpolicy.errors import DevPolicyError
from devpolicy.language.policy import Policy
from devpolicy.placement.targets import TARGETS

if TYPE_CHECKING:
    from devpolicy.cli.screen import Line
    from devpolicy.host import Host
    from devpolicy.model import ModelTree
    from devpolicy.placement.plan import Plan

Plans = dict[str | None, "Plan"]


@click.command(name="plan", short_help="Show where each part of a model runs and is kept.")
@policy_argument
@click.option(
    "--model",
    metavar="[NAME=]MODEL",
    multiple=True,
    required=True,
    shell_complete=complete.models,
    help="A model of the catalogue, a model TOML, a checkpoint folder, or a hub id in the local cache. "
    "Several, each with the NAME of its component, are planned together.",
)
@host_option
@component_option
@overlay_options
@click.option("--target", type=click.Choice(list(TARGETS)), help="The consumer to plan for; hf by default.")
@click.option("--to", type=click.Choice(list(FORMS)), help="Print only what the consumer takes, and plan for it.")
@click.option("--locked", metavar="FILE", help="Fail where the plan is not the one in FILE, and say what moved.")
@click.option("--output", metavar="FILE", help="Write to FILE, whole or not at all, instead of the terminal.")
@common()
@pass_session
def command(
    session: Session,
    policy: str,
    model: tuple[str, ...],
    host: str | None,
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    target: str | None,
    to: str | None,
    locked: str | None,
    output: str | None,
) -> None:
    """Show where each part of a model runs and is kept, and what each device then holds.

    POLICY is a file, or the name of a shipped policy. No weights are loaded. Modules that differ only in numbers
    are one row, in the notation of a rule's `match`.

    \b
    Examples:
      devpolicy plan offload-lm-head --model llama-3.1-70b --host 4x80gb
      devpolicy plan policy.toml --model ./checkpoint
      devpolicy plan policy.toml --model llama-3.1-8b --to hf
      devpolicy plan policy.toml --model reader=bert-base --model writer=gpt2

    \b
    A plan is locked by its JSON, and compared in CI:
      devpolicy plan policy.toml --model gpt2 --host 2x24gb \\
          --format json --output plan.lock.json
      devpolicy plan policy.toml --model gpt2 --host 2x24gb \\
          --locked plan.lock.json
    """
    wanted = named_models(model)
    if component is not None and None not in wanted and component not in wanted:
        raise DevPolicyError(f"no `--model` is named `{component}`: given are {', '.join(map(str, wanted))}")
    loaded = Policy.load(policy)
    machine = load_host(session, host, loaded)
    loaded = for_host(loaded, machine, profile, overrides)
    trees = {name: load_model(session, text) for name, text in wanted.items()}
    plans = _make(loaded, trees, machine, component, target or (FORMS[to].target if to else None))
    if locked is not None:
        from devpolicy.cli.lock import compare

        compare(locked, plans)
    text = _for_programs(session, plans, to)
    if output is not None:
        from devpolicy.cli.files import write_whole

        write_whole(output, text if text is not None else _as_text(plans, loaded, trees, machine))
    elif text is not None:
        session.out.write(text)
    else:
        session.out.print(_views(plans, loaded, trees, machine, session.out))
        session.out.print(_next_steps(locked))
    tell_lint(session, loaded)


def _make(
    policy: Policy, trees: dict[str | None, ModelTree], host: Host, component: str | None, target: str | None
) -> Plans:
    """Plan one model, or all named ones together; with `component` only that one is returned."""
    if None in trees:
        return {None: api.plan(policy, trees[None], host, component=component, target=target)}
    made = api.plan_all(policy, {str(name): tree for name, tree in trees.items()}, host, target=target)
    return {None: made[component]} if component is not None else dict(made.items())


def _for_programs(session: Session, plans: Plans, to: str | None) -> str | None:
    """Return what is printed as data, `None` where a person is shown the plan."""
    if to is None and not session.json:
        return None
    forms: dict[str | None, Any] = {
        name: FORMS[to].of_plan(plan) if to is not None else plan.to_dict() for name, plan in plans.items()
    }
    value = forms.get(None, forms)
    if to is not None and not session.json:
        return literal(value) + "\n"
    return to_json(value if None in forms or to is not None else {"schema": 1, "components": value})


def _views(plans: Plans, policy: Policy, trees: dict[str | None, ModelTree], host: Host, screen: Screen) -> list[Line]:
    from devpolicy.cli.plan_view import view

    lines: list[Line] = []
    for name, plan in plans.items():
        tree = trees[name] if name in trees else trees[plan.component]
        lines += [*(["", ""] if lines else []), *view(plan, policy, tree, host, screen)]
    return lines


def _as_text(plans: Plans, policy: Policy, trees: dict[str | None, ModelTree], host: Host) -> str:
    """Return the human form as a file holds it."""
    screen = Screen(io.StringIO())
    return "".join(f"{plain(line)}\n" for line in _views(plans, policy, trees, host, screen))


def _next_steps(locked: str | None) -> list[Line]:
    lines: list[Line] = [[("locked  ", "strong"), (f"unchanged, as in {locked}", "good")]] if locked else []
    return [*lines, [("next    ", "strong"), ("`--to hf` prints the device map, `devpolicy why` the reasons", "dim")]]
