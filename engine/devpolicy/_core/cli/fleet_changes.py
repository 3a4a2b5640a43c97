"""`devpolicy diff --fleet` and `devpolicy verify --fleet`: what changes when nodes come and go, and what must not.

Owns the output of both. The plans and the properties are the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devpolicy._core.cli.context import PATIENCE, CliContext
from devpolicy._core.cli.fleet_plan import made, models_given
from devpolicy._core.cli.fleet_view import moves_lines
from devpolicy._core.cli.inputs import on_every_host
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.fleet.changes import moves
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.properties import OF_A_FAMILY, Property

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line


def show_diff(
    ctx: CliContext,
    first: str,
    second: str,
    fleet: str,
    models: Sequence[str],
    *,
    other: str | None,
    lost: Sequence[str],
    profile: str | None,
    overrides: Sequence[str],
) -> int:
    """`devpolicy diff --fleet`: from the plan of A on a fleet to the plan of B with the fewest moves."""
    policies = [on_every_host(Policy.load(name), profile, overrides) for name in (first, second)]
    old = Fleet.load(fleet)
    new = (old if other is None else Fleet.load(other)).without(*lost)
    given = models_given(ctx, models)
    before = made(ctx, policies[0], given, old, None)
    after = made(ctx, policies[1], given, new, None, before=before)
    found = moves(before, after)
    if ctx.json:
        ctx.print_json(
            {
                "schema": 1,
                "a": first,
                "b": second,
                "moves": [one.to_dict() for one in found],
                "before": before.digest,
                "after": after.digest,
            }
        )
    else:
        pairs = [("a", f"{first} on {fleet}"), ("b", f"{second} on {other or fleet}")]
        pairs += [("lost", ", ".join(lost))] if lost else []
        ctx.out.print([*facts(pairs, width=ctx.out.width), "", *moves_lines(found)])
    return 1 if found else 0


def verify_fleet(
    ctx: CliContext, policy: str, loaded: Policy, fleet: str, wanted: Sequence[Property], model: Sequence[str]
) -> int:
    """`devpolicy verify --fleet`: properties of the fleet, and of it with a node less or more."""
    from devpolicy._core.review.fleets import fleet_outcome, varied

    of_hosts = next((one for one in wanted if one.name in OF_A_FAMILY), None)
    if of_hosts is not None:
        raise DevPolicyError([Diagnostic("", f"`{of_hosts}` is a property of a family of hosts", help="leave it out")])
    asked = wanted or [Property("placed_or_refused"), Property("within_budget"), Property("survives", nodes=1)]
    nodes, models = Fleet.load(fleet), models_given(ctx, model)
    verdicts: list[tuple[Property, str, int]] = []
    with ctx.working("planning", patience=PATIENCE):
        family = dict(varied(nodes))
        found = {what: fleet_outcome(loaded, models, one) for what, one in family.items()}
        for one in asked:
            tried = {"": found[""]} if one.name == "survives" else found
            broken = ((what, text) for what, outcome in tried.items() for text in outcome.violations(one))
            what, text = next(broken, ("", ""))
            verdicts.append((one, f"{what}: {text}" if what and text else text, len(tried)))
    if ctx.json:
        told = [
            {"property": str(one), "status": "broken" if why else "proved", "why": why or None, "fleets": count}
            for one, why, count in verdicts
        ]
        ctx.print_json({"schema": 1, "policy": policy, "fleet": fleet, "verdicts": told})
    else:
        lines: list[Line] = [*facts([("fleet", f"{fleet}: {len(nodes)} nodes")], width=ctx.out.width), ""]
        for one, why, count in verdicts:
            fleets = f"{count} fleet{'s' * (count != 1)}"
            lines.append(
                [("broken  ", "error"), (f"{one}: {why}", "strong")]
                if why
                else [("holds   ", "good"), (f"{one}: proved over {fleets}", "")]
            )
        ctx.out.print(lines)
    return 1 if any(why for _, why, _ in verdicts) else 0
