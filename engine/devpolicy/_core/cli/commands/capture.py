"""`devpolicy host capture` and `devpolicy model capture`: this machine, or a model, as a file that CI can replay.

Owns what is asked of the user for it. The files are those that `Host.to_toml` and `ModelTree.to_toml` write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.files import refuse_to_replace, write_whole
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import load_host, load_model, model_help
from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.errors import DevPolicyError, Diagnostic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devpolicy._core.host import Host
    from devpolicy._core.host.probe.identity import Identity
    from devpolicy._core.model.tree import ModelTree

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option("-o", "--output", metavar="FILE", help="Write to a file, whole or not at all.")


def _of_a_host(command: F) -> F:
    """Add the options of both commands that write this machine."""
    kinds = "Keep what identifies this machine: uuid, serial, hostname, user."
    command = click.option("--include", metavar="KIND,...", multiple=True, help=kinds)(command)
    named = click.option("--name", metavar="NAME", help="The name of the host. Default: the name of its file.")
    return output_option(named(command))


@click.command(cls=Command, name="capture", short_help="Write this machine as a host file.")
@_of_a_host
@click.option("--measure", is_flag=True, help="Also measure speeds, which takes about a minute.")
@click.option("--force", is_flag=True, help="With --measure: replace an existing file.")
@common(formats=())
@pass_context
def capture_host(
    ctx: CliContext, output: str | None, name: str | None, include: tuple[str, ...], measure: bool, force: bool
) -> None:
    """Write this machine as a host file, for plans and tests anywhere.

    The file has nothing that identifies the machine: no UUIDs, serial numbers, machine name, user name or folders, not
    even inside the messages of a broken driver. Standard error lists what was left out.

    \b
    Examples:
      devpolicy host capture --output build-server.toml
      devpolicy plan policy.toml --model llama-3.1-8b --host build-server.toml
    """
    _capture(ctx, output, name, include, measuring=measure, force=force)


@click.command(
    cls=Command, name="measure", short_help="Measure this machine, and write it as a host file with its speeds."
)
@_of_a_host
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common(formats=())
@pass_context
def measure_host(ctx: CliContext, output: str | None, name: str | None, include: tuple[str, ...], force: bool) -> None:
    """Measure the speed of this machine, and write it as a host file: `host capture` with speeds.

    It takes about a minute; run nothing else meanwhile. It measures RAM, the disk of the current folder, the memory and
    the link of each accelerator, matrix products by dtype, calls of modules, and transfers. Without torch, it measures
    RAM and the disk. Predictions for the file's host use the measured speeds, and say so.

    \b
    Examples:
      devpolicy host measure --output build-server.toml
      devpolicy plan policy.toml --model llama-3.1-8b --host build-server.toml
    """
    _capture(ctx, output, name, include, measuring=True, force=force)


def _capture(
    ctx: CliContext, output: str | None, name: str | None, include: tuple[str, ...], *, measuring: bool, force: bool
) -> None:
    from devpolicy._core.host.probe.identity import Identity, without_identifiers

    if measuring and output is not None and not force:
        refuse_to_replace(output)
    keep = _kinds(include)
    identity = Identity.here()
    host, gone = without_identifiers(load_host(ctx, None), identity, keep)
    host = replace(host, name=_name(name) or _own_name(host, identity, keep))
    if host.name is None:
        gone["hostname"] += 1
    if measuring:
        host = _measured(ctx, host)
    _write(ctx, output, host.to_toml())
    if gone:
        ctx.err.print(_left_out(gone))


def _measured(ctx: CliContext, host: Host) -> Host:
    from devpolicy._core.host.probe.measure import measure

    done = measure(host, folder=".", progress=lambda what: ctx.err.print(f"measuring {what}"))
    for what in done.left_out:
        ctx.err.print(f"not measured: {what}")
    return done.host


def _kinds(include: tuple[str, ...]) -> set[str]:
    from devpolicy._core.host.probe.identity import KINDS
    from devpolicy._core.toml.tables import did_you_mean

    named = [word.strip() for text in include for word in text.split(",")]
    for word in named:
        if word not in KINDS:
            raise DevPolicyError(Diagnostic("", f"`--include` knows no `{word}`", help=did_you_mean(word, KINDS)))
    return set(named)


def _name(name: str | None) -> str | None:
    if name is not None and not name.strip():
        raise DevPolicyError(Diagnostic("", "`--name` is empty", help="leave it out: the file's name is taken then"))
    return name


def _own_name(host: Host, identity: Identity, keep: set[str]) -> str | None:
    return (identity.node or host.name) if "hostname" in keep else None


def _left_out(gone: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in gone.items())
    pronoun = "it" if list(gone.values()) == [1] else "them"
    return f"left out: {kinds}; `--include {','.join(gone)}` keeps {pronoun}"


@click.command(
    cls=Command, name="capture", short_help="Write a model's structure as a model file.", epilog=f"MODEL: {model_help}"
)
@click.argument("model", shell_complete=complete.models)
@output_option
@click.option("--name", metavar="NAME", help="The name of the model. Default: the last part of MODEL.")
@common(formats=())
@pass_context
def capture_model(ctx: CliContext, model: str, output: str | None, name: str | None) -> None:
    """Write a model's structure as a model file: modules, classes, shapes and ties. It has no weights.

    The file gives the same plan as the model, also on machines without the checkpoint and without Transformers.

    \b
    Examples:
      devpolicy model capture ./checkpoint --output my-model.toml
      devpolicy plan policy.toml --model my-model.toml --host 2x24gb
    """
    tree = load_model(ctx, model)
    tree = replace(tree, name=_name(name) or _model_name(tree, model))
    _write(ctx, output, tree.to_toml(), read=model)
    if tree.incomplete_reason is not None:
        note = f"the structure of `{tree.name}` is not known in full: {tree.incomplete_reason}"
        hint = "rules by class and maps for libraries need all of it"
        ctx.err.print(painted(rendered([Diagnostic("", note, help=hint, severity="warning")])))


def _model_name(tree: ModelTree, given: str) -> str:
    """A model of the hub's cache has the hash of its revision for a folder's name, and no one would know it by that."""
    from pathlib import PurePath

    from devpolicy._core.model.catalogue import cached_snapshot

    snapshot = cached_snapshot(given) if "/" in given else None
    called = given if snapshot is not None and snapshot.name == tree.name else tree.name
    # A configuration names itself by the path that it was loaded from; of any path only the end is kept.
    return PurePath(called.replace("\\", "/")).name or tree.name


def _write(ctx: CliContext, output: str | None, text: str, *, read: str | None = None) -> None:
    if output is None:
        ctx.out.write(text)
    else:
        write_whole(output, text, inputs=[read] if read else [])
