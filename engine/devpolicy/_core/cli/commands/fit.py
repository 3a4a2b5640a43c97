"""`devpolicy fit`: can it run here, and how.

Owns the sentence, the table and the JSON of each verdict. The verdicts are those of `devpolicy._core.planning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import PATIENCE, CliContext, common, pass_context
from devpolicy._core.cli.fleet_fit import Machine, by_labels, kinds
from devpolicy._core.cli.fleet_plan import fleet_option, without
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import (
    check_component,
    check_model,
    component_option,
    load_host,
    load_model,
    on_host,
    overlay_options,
    policy_argument,
)
from devpolicy._core.cli.named_sets import hosts_like, models_like, own_models
from devpolicy._core.cli.output_formats import TargetName
from devpolicy._core.cli.table import facts, table
from devpolicy._core.errors import Diagnostic
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.language.policy import Policy, ResolvedPolicy
from devpolicy._core.loading.quantizations import NONE, QUANTIZATIONS
from devpolicy._core.planning.fit import BATCHES, Fit, fit, stored_as
from devpolicy._core.sizes import format_size
from devpolicy._core.views.names import device_range, host_line

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line
    from devpolicy._core.host import Host
    from devpolicy._core.model.tree import ModelTree

_REFUSED = 3
_SMALL = "nf4"
"""The scheme that is tried where a model does not fit in full: four bits, made while it is loaded."""


def _batches(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        return BATCHES
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts) or len(parts) > len(BATCHES) * 2:
        raise click.BadParameter("it is a list of at most six numbers, such as `1,4,16`")
    return tuple(dict.fromkeys(map(int, parts)))


@click.command(cls=Command, name="fit", short_help="Answer whether models fit on hosts, and with how much context.")
@policy_argument
@click.option(
    "--model",
    metavar="MODEL",
    multiple=True,
    shell_complete=complete.models,
    help="A model as in `devpolicy plan`, also a glob of the catalogue. Default: those of the component.",
)
@click.option(
    "--host",
    metavar="HOST",
    multiple=True,
    shell_complete=complete.hosts,
    help="A host of the catalogue, also a glob, a host file, or `-` for this machine. Default: this machine.",
)
@fleet_option
@click.option(
    "--quantization",
    metavar="SCHEME",
    multiple=True,
    type=click.Choice(QUANTIZATIONS),
    help="A quantization scheme. Default: those of the policy, else none, and nf4 if that does not fit.",
)
@click.option("--batch", metavar="N,N", callback=_batches, help="Batch sizes, at most six. Default: 1,4,16.")
@component_option
@overlay_options
@click.option("--target", type=TargetName(), help="The consumer to plan for. Default: hf.")
@common()
@pass_context
def command(
    ctx: CliContext,
    policy: str,
    model: tuple[str, ...],
    host: tuple[str, ...],
    fleet: str | None,
    quantization: tuple[str, ...],
    batch: tuple[int, ...],
    component: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    target: str | None,
) -> int:
    """Answer whether a model fits on a host, on which devices, and with how much context.

    Each model is tried in each quantization scheme on each host, alone. The verdict is that of a plan with the context
    that the policy asks for. The longest context is searched for each batch size, in steps of 256 tokens.

    \b
    Examples:
      devpolicy fit prefer-accelerator --model llama-3.3-70b --host 2x24gb
      devpolicy fit policy.toml --model 'qwen3-*' --host 1x24gb --host 4x80gb
      devpolicy fit policy.toml --component generator --batch 1,8
      devpolicy fit prefer-accelerator --model qwen3-32b --fleet mixed-50

    Exit status: 0 something fits; 2 invalid policy or usage; 3 nothing fits.
    """
    written = Policy.load(policy)
    check_component(written, component)
    check_model(written, component, given=bool(model))
    without(fleet, host=host)
    nodes = None if fleet is None else Fleet.load(fleet)
    own = [] if nodes is not None else [Machine(load_host(ctx, name, written)) for name in hosts_like(host)]
    trees = [load_model(ctx, name) for name in models_like(model)]
    found: list[tuple[Machine, list[Fit]]] = []
    with ctx.working("planning", patience=PATIENCE):
        for machine in own if nodes is None else kinds(nodes):
            loaded = on_host(written, machine.host, profile, overrides)
            resolved = loaded.for_component(component)
            asked = _Asked(resolved, quantization or resolved.loading.quantization, target, batch)
            models = trees or own_models(loaded, component)
            for one in [machine] if nodes is None else by_labels(machine, nodes, resolved):
                found.append((one, [made for tree in models for made in asked.fits(tree, one)]))
    fits = [one for _, some in found for one in some]
    if ctx.json:
        told = [
            {**_as_json(one), **({"nodes": machine.nodes} if machine.nodes else {})}
            for machine, some in found
            for one in some
        ]
        faults = {} if nodes is None else {"faults": dict(nodes.faults)}
        ctx.print_json({"schema": 1, "component": component, "fits": told, **faults})
    elif len({(one.model, one.host) for one in fits}) == 1:
        ctx.out.print("; ".join([_in_a_line(_once(fits)), *_not_applied(fits)]))
    else:
        ctx.out.print(
            [line for machine, some in found for line in _section(machine, _once(some), batch, ctx.out.width)]
        )
        ctx.out.print(_not_applied(fits))
        ctx.out.print([f"{node} cannot be used: {reason}" for node, reason in (nodes.faults if nodes else {}).items()])
    return 0 if any(one.plan is not None for one in fits) else _REFUSED


class _Asked(NamedTuple):
    """What is asked of each model on a host."""

    policy: ResolvedPolicy
    schemes: Sequence[str]
    """Empty where neither the command nor the policy names any."""
    target: str | None
    batches: Sequence[int]

    def fits(self, tree: ModelTree, machine: Machine) -> Iterator[Fit]:
        """Yield the verdict in each scheme."""
        for scheme in self.schemes or (NONE,):
            if machine.lacks:
                name = machine.host.name or ""
                refused = Diagnostic("DP309", machine.reason)
                yield Fit(tree.name or "", scheme, name, refused=refused, stored=stored_as(tree))
                continue
            made = self._fit(tree, machine.host, scheme)
            yield made
            if not self.schemes and made.plan is None and _may_be_small(tree):
                yield self._fit(tree, machine.host, _SMALL)  # whoever asks wants to know what would do

    def _fit(self, tree: ModelTree, host: Host, scheme: str) -> Fit:
        return fit(self.policy, tree, host, quantization=scheme, target=self.target, batches=self.batches)


def _may_be_small(tree: ModelTree) -> bool:
    """Whether a model can be quantised while it is loaded: one that is stored in full."""
    return tree.format == "safetensors" and tree.quantization is None


def _in_a_line(found: Sequence[Fit]) -> str:
    """Return the answer on one model and one host: the first scheme that fits, and why those before it do not."""
    first = found[0]
    where = f"{first.model} on {first.host or 'this machine'}"
    fitting = next((one for one in found if one.plan is not None), None)
    refused = found if fitting is None else found[: found.index(fitting)]
    scheme = "" if len(found) == 1 and first.held == NONE else "{}: "
    reasons = "; ".join(scheme.format(one.held) + _reason(one) for one in refused)
    if fitting is None:
        return f"{where}: no; {reasons}"
    kept = "".join(f", {format_size(size)} kept on {place}" for place, size in fitting.kept.items())
    as_scheme = "" if fitting.held == NONE else f" as {fitting.held}"
    if fitting.held != (fitting.stored or fitting.held):
        as_scheme = f", {fitting.held} from {fitting.stored},"
    contexts = ", ".join(f"{_tokens(tokens)} at batch {batch}" for batch, tokens in fitting.contexts)
    told = f"{where}: yes{as_scheme} on {device_range(fitting.devices)}{kept}, {format_size(fitting.left)} left"
    told += f"; longest context {contexts}" if contexts else ""
    return told + (f"; not {reasons}" if reasons else "")


def _once(found: Sequence[Fit]) -> list[Fit]:
    """Return the verdicts, and of a model that is quantised already one for each host: it is that of every scheme."""
    told: set[tuple[str, str]] = set()
    once: list[Fit] = []
    for one in found:
        if one.stored is None or (one.model, one.host) not in told:
            once.append(one)
            told.add((one.model, one.host))
    return once


def _not_applied(found: Sequence[Fit]) -> list[str]:
    """Return a note for each model that a requested scheme does not change."""
    asked: dict[tuple[str, str], dict[str, None]] = {}
    for one in found:
        if one.stored is not None and one.quantization not in (NONE, one.stored):
            asked.setdefault((one.model, one.stored), {})[f"`{one.quantization}`"] = None
    told: list[str] = []
    for (model, stored), schemes in asked.items():
        verb = "do" if len(schemes) > 1 else "does"
        told.append(f"{model} is quantised already (`{stored}`): {' and '.join(schemes)} {verb} not apply")
    return told


def _reason(one: Fit) -> str:
    if one.refused is None:
        return ""
    notes = [note for note in one.refused.notes if ": the host has no `" not in note]
    return "; ".join(notes or one.refused.notes) or one.refused.message


def _section(machine: Machine, found: Sequence[Fit], batches: Sequence[int], width: int) -> list[Line]:
    if machine.lacks:
        return [*facts([("host", f"{machine.host.name}: {machine.reason}")], width=width), ""]
    head = ["model", "as", "on", "left", *(f"batch {batch}" for batch in batches)]
    rows = [
        [
            one.model,
            one.held,
            device_range(one.devices) + ("+" + "+".join(one.kept) if one.kept else "") if one.plan else "no",
            format_size(one.left) if one.plan else "-",
            *(_tokens(dict(one.contexts).get(batch)) for batch in batches),
        ]
        for one in found
    ]
    right = range(3, len(head))
    return [*facts([("host", host_line(machine.host))], width=width), *table(head, rows, width=width, right=right), ""]


def _tokens(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def _as_json(one: Fit) -> dict[str, Any]:
    return {
        "model": one.model,
        "quantization": one.quantization,
        "stored": one.stored,
        "host": one.host,
        "fits": one.plan is not None,
        "devices": one.devices,
        "left": one.left,
        "kept": one.kept,
        "contexts": {str(batch): tokens for batch, tokens in one.contexts},
        "code": None if one.refused is None else one.refused.code,
        "reason": _reason(one),
    }
