"""`devpolicy show`: the effective values of a policy, and where each value comes from.

Owns the table, the JSON, and the list of rules with their reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import host_option, load_host, on_host, overlay_options
from devpolicy._core.cli.report import print_lint
from devpolicy._core.cli.table import facts, table
from devpolicy._core.language.effective import effective
from devpolicy._core.language.policy import Policy, ResolvedPolicy
from devpolicy._core.shipped import shipped, shipped_files
from devpolicy._core.toml.writer import write_value

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.errors import Place
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Rule


@click.command(cls=Command, name="show", short_help="Show every value of a policy, and where it comes from.")
@click.argument("policy", required=False, shell_complete=complete.policies)
@host_option
@overlay_options
@common()
@pass_context
def command(
    ctx: CliContext, policy: str | None, host: str | None, profile: str | None, overrides: tuple[str, ...]
) -> None:
    """Show each value of a policy, with the file, line and column that it comes from.

    The values include those of the policies that it extends, of the profiles that apply to the host, and of --set.
    Values that nobody wrote are shown with their defaults. Without POLICY, list the policies that ship with devpolicy.

    \b
    Examples:
      devpolicy show
      devpolicy show offload-lm-head
      devpolicy show policy.toml --host 2x24gb
      devpolicy show policy.toml --profile server --set split=never
    """
    if policy is None:
        if host or profile or overrides:
            raise click.MissingParameter(param_hint="'POLICY'", param_type="argument")
        _list(ctx)
        return
    loaded = Policy.load(policy)
    machine = load_host(ctx, host, loaded)
    shown = on_host(loaded, machine, profile, overrides)
    top = shown.top.for_host(machine)
    if ctx.json:
        ctx.print_json(_for_programs(shown, top, loaded, machine))
    else:
        ctx.out.print(_view(shown, top, loaded, machine, ctx.out.width))
    print_lint(ctx, shown)


def _list(ctx: CliContext) -> None:
    """List the shipped policies, with what each begins with, and where they may be copied from."""
    about = {name: _about(file.read_text(encoding="utf-8")) for name, file in shipped_files("policy").items()}
    folder = str(shipped("policy"))
    if ctx.json:
        found = [{"name": name, "description": text} for name, text in about.items()]
        ctx.print_json({"schema": 1, "policies": found, "folder": folder})
        return
    width = ctx.out.width
    rows = [[name, text] for name, text in about.items()]
    shown = table(["policy", "what it says"], rows, width=width, prose=True, styles={0: "device", 1: "dim"})
    use = '`extends = "NAME"` builds on one, and a copy is yours to change'
    step = "`devpolicy show offload-lm-head` shows every value of one"
    ctx.out.print([*shown, "", *facts([("files", folder), ("use", use), ("next", step)], width=width)])


def _about(text: str) -> str:
    """Return the comment that a shipped policy begins with, behind the line that names its schema."""
    lines = (line.removeprefix("#").strip() for line in text.partition("\n")[2].partition("\n\n")[0].splitlines())
    return " ".join(line for line in lines if line)


def _for_programs(policy: Policy, top: ResolvedPolicy, loaded: Policy, host: Host) -> dict[str, Any]:
    return {
        "schema": 1,
        "policy": loaded.source,
        "host": host.name,
        "profiles": {profile.name: profile.name in top.applied for profile in loaded.profiles},
        "values": [
            {"key": one.key, "value": one.value, "origin": _origin(one.place)} for one in effective(policy)
        ],
        "rules": [
            {"name": rule.name, "applies": rule in top.rules, "origin": _origin(rule.place)}
            for rule in _rules(top)
        ],
    }  # fmt: skip


def _origin(place: Place | None) -> dict[str, object] | None:
    return None if place is None else {"source": place.source, "line": place.line, "column": place.column}


def _rules(top: ResolvedPolicy) -> tuple[Rule, ...]:
    return (*top.rules, *top.left_out)


def _view(policy: Policy, top: ResolvedPolicy, loaded: Policy, host: Host, width: int) -> list[Line]:
    profiles = [f"{one.name} ({'applies' if one.name in top.applied else 'does not apply'})" for one in loaded.profiles]
    lines: list[Line] = facts(
        [
            ("policy", loaded.source),
            ("host", host.name or "this machine"),
            *([("profiles", ", ".join(profiles))] if profiles else []),
        ],
        width=width,
    )
    rows = [
        [one.key, str(one.value) if one.place is None else write_value(one.value), str(one.place or "default")]
        for one in effective(policy)
    ]
    lines += ["", *table(["key", "value", "from"], rows, width=width, styles={1: "device"})]
    if _rules(top):
        rules = [
            [rule.name, _does(rule), "applies" if rule in top.rules else "does not", str(rule.place or "")]
            for rule in _rules(top)
        ]
        lines += ["", *table(["rule", "does", "here", "from"], rules, width=width, styles={1: "device"})]
    lines += [line for rule in top.left_out for line in ("", *_reasons(rule, host))]
    return lines


def _reasons(rule: Rule, host: Host) -> list[str]:
    """Return why a rule does not apply to a host."""
    unmet = rule.when.unmet(host) if rule.when else []
    return [f"{rule.name}: needs {one.needs}, and the host has {one.has}".replace("`", "") for one in unmet]


def _does(rule: Rule) -> str:
    if rule.offload:
        return f"offload {', '.join(map(str, rule.offload))}"
    return f"prefer {', '.join(map(str, rule.prefer))}" if rule.prefer else "together"
