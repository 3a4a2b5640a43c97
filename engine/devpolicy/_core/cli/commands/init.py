"""`devpolicy init`: a first policy with tests that pass.

Owns the questions, the files that are written, and the next step. The policy and its tests are made by
`devpolicy._core.starter`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.files import write_whole
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import load_host, load_model
from devpolicy._core.cli.named_sets import hosts_like, listed
from devpolicy._core.cli.report import findings_of
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.starter.draft import Wanted, choose_draft
from devpolicy._core.starter.models import Subject, named_model, of_pipeline
from devpolicy._core.starter.own_tests import POLICY, joined, kept, proposed
from devpolicy._core.starter.workflow import PATH, workflow
from devpolicy._core.text import json_text, visible

T = TypeVar("T")

_HERE = "hosts/this-machine.toml"


@click.command(cls=Command, name="init", short_help="Write a first policy, with tests that pass.")
@click.argument("folder", default=".", type=click.Path())
@click.option("--model", metavar="MODEL", shell_complete=complete.models, help="The model, as in `devpolicy plan`.")
@click.option(
    "--host",
    metavar="HOST",
    multiple=True,
    shell_complete=complete.hosts,
    help="A host of the catalogue, a host file, or `-` for this machine, where it must run. Default: this machine.",
)
@click.option("--pipeline", metavar="FILE", type=click.Path(), help="A saved pipeline of Haystack, instead of a model.")
@click.option("--ci", type=click.Choice(["github"]), help="Also write a workflow that checks and tests the policy.")
@common(formats=())
@pass_context
def command(
    ctx: CliContext, folder: str, model: str | None, host: tuple[str, ...], pipeline: str | None, ci: str | None
) -> None:
    """Write a policy for a model and the hosts that it must run on, with tests, into FOLDER.

    On a terminal, it asks for what you leave out. It looks at the model and at this machine, and writes the simplest
    policy under which the model fits on every host. It runs every test before it keeps it. It never overwrites a file.

    \b
    Examples:
      devpolicy init
      devpolicy init --model llama-3.1-8b --host 2x24gb --host mac-16gb
      devpolicy init --pipeline rag.yaml --host 1x24gb --ci github
    """
    if model is not None and pipeline is not None:
        hint = "a pipeline names its models itself"
        raise DevPolicyError([Diagnostic("", "`--model` and `--pipeline` exclude each other", help=hint)])
    root = Path(folder)
    _refuse_if_there(root / POLICY)
    asks = _is_terminal()
    subjects = _subjects(ctx, model, pipeline, asks=asks)
    named, files = _hosts(ctx, host, asks=asks and not host)
    if asks and ci is None and click.confirm("Write a workflow for GitHub Actions?", default=False, err=True):
        ci = "github"
    wanted = [one.wanted for one in subjects]
    files |= {path: text for one in subjects for path, text in one.files.items()}
    with ctx.working("planning and testing"):
        text, tests = _policy(wanted, named, files, root)
    workflow_at = _repository(root) / PATH
    if ci is not None:
        _refuse_if_there(workflow_at)
    written = _write(root, text, files)
    if ci is not None:
        base = workflow_at.parents[2]
        policy = _below(root / POLICY, base) or POLICY
        # A pipeline outside of the repository is not there where the workflow runs.
        _new_file(workflow_at, workflow(policy, None if pipeline is None else _below(Path(pipeline), base)))
        written.append(os.path.relpath(workflow_at))
    pairs = [("written", ", ".join(written)), ("tests", f"{tests}, all pass")]
    beside = {name: str(root / name) for name in files}
    step = _next(str(root / POLICY), model, pipeline, named[0][0], wanted, beside)
    ctx.out.print(facts([*pairs, ("next", step)], width=ctx.out.width))


def _subjects(ctx: CliContext, model: str | None, pipeline: str | None, *, asks: bool) -> list[Subject]:
    if pipeline is not None:
        return of_pipeline(pipeline)
    if model is not None:
        return [named_model(model, load_model(ctx, model))]
    if asks:
        return _asked("Model (a name that `devpolicy model list` shows, a folder, a GGUF file)", "llama-3.1-8b",
                      lambda given: [named_model(given, load_model(ctx, given))])  # fmt: skip
    hint = "write `--model MODEL`, a name that `devpolicy model list` shows, a file or a folder; or `--pipeline FILE`"
    raise DevPolicyError([Diagnostic("", "no model is given, and there is no terminal to ask on", help=hint)])


def _hosts(ctx: CliContext, given: Sequence[str], *, asks: bool) -> tuple[list[tuple[str, Host]], dict[str, str]]:
    """Return hosts with what tests call them, and the file of this machine where it is one of them."""

    def read(names: Sequence[str]) -> tuple[list[tuple[str, Host]], dict[str, str]]:
        found: list[tuple[str, Host]] = []
        files: dict[str, str] = {}
        for name in hosts_like(names):
            host = load_host(ctx, name)
            if name is None or name == "-":
                called, files[_HERE] = _HERE, _captured(host)
            elif Path(name).suffix == ".toml":
                called = f"hosts/{Path(name).name}"
                files[called] = host.to_toml()
            else:
                called = name
            found.append((called, host))
        return found, files

    if not asks:
        return read(listed(given))
    question = "Hosts that it must run on (names that `devpolicy host list` shows, with commas; `-`: this machine)"
    return _asked(question, "-", lambda text: read(listed([text])))


def _captured(host: Host) -> str:
    from dataclasses import replace

    from devpolicy._core.host.probe.identity import Identity, without_identifiers

    found, _ = without_identifiers(host, Identity.here(), set())
    return replace(found, name="this-machine").to_toml()


def _policy(
    wanted: Sequence[Wanted], hosts: Sequence[tuple[str, Host]], files: dict[str, str], root: Path
) -> tuple[str, int]:
    """Return the policy with those of its tests that pass, and how many they are."""
    from tempfile import TemporaryDirectory

    names = [one.name for one in wanted]
    about = f"Where {', '.join(map(visible, names))} {'runs' if len(names) == 1 else 'run'}."
    with TemporaryDirectory(prefix="devpolicy-") as folder:

        def parse(text: str) -> Policy:
            # From a file: the models that it names are beside it.
            for path, content in {**files, POLICY: text}.items():
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8", newline="\n")
            return Policy.load(Path(folder) / POLICY)

        chosen = choose_draft(wanted, [host for _, host in hosts], about, parse)
        blocks = list(proposed(chosen, wanted, hosts, parse(chosen.text)))
    passing = kept(chosen.text, blocks, files)
    return joined(chosen.text, passing), len(passing)


def _write(root: Path, policy: str, files: dict[str, str]) -> list[str]:
    from devpolicy._core.language.schema import policy_schema

    whole = {**files, "policy.schema.json": json_text(policy_schema()), POLICY: policy}
    new = {path: text for path, text in whole.items() if not _same(root / path, text)}
    for path in new:
        _refuse_if_there(root / path)
    for path, text in new.items():
        _new_file(root / path, text)
    return [str(root / path) for path in reversed(new)]


def _same(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, ValueError):
        return False


def _refuse_if_there(path: Path) -> None:
    if os.path.lexists(path):  # unlike `Path.exists` it takes a name of any length
        hint = f"give another folder: `devpolicy init FOLDER`; `devpolicy test {shlex.quote(str(path))}` runs its tests"
        if path.name != POLICY:
            hint = "move it away, or give another folder: `devpolicy init FOLDER`"
        message = f"`{visible(str(path))}` is there already, and is not replaced"
        raise DevPolicyError([Diagnostic("", message, help=hint)])


def _new_file(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as broken:
        from devpolicy._core.errors import reason_of

        raise DevPolicyError(f"cannot make the folder `{path.parent}`: {reason_of(broken)}") from None
    write_whole(str(path), text)


def _repository(root: Path) -> Path:
    """Return the folder of the repository that a folder is in, else the folder itself."""
    here = root.absolute()
    return next((folder for folder in (here, *here.parents) if os.path.lexists(folder / ".git")), here)


def _below(path: Path, base: Path) -> str | None:
    here = path.absolute()
    return here.relative_to(base).as_posix() if here.is_relative_to(base) else None


def _next(
    policy: str,
    model: str | None,
    pipeline: str | None,
    host: str,
    wanted: Sequence[Wanted],
    beside: dict[str, str],
) -> str:
    """Return the step that comes next. `beside` are the paths of the files that were written beside the policy."""
    on = [] if host == _HERE else ["--host", beside.get(host, host)]
    if pipeline is not None:
        step = shlex.join(["devpolicy", "resolve", policy, "--pipeline", pipeline, *on])
        return f"`{step}` shows the device of each component"
    reference = wanted[0].reference or ""
    given = model or beside.get(reference, reference)
    step = shlex.join(["devpolicy", "plan", policy, "--model", given, *on])
    return f"`{step}` shows where each part runs"


def _is_terminal() -> bool:
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _asked(question: str, default: str, read: Callable[[str], T]) -> T:
    """Ask until the answer can be read, and print what is wrong with each other one."""
    while True:
        answer = click.prompt(question, default=default, err=True)
        try:
            return read(answer)
        except DevPolicyError as wrong:
            first = findings_of(wrong)[0]
            for line in (first.message, *first.help.splitlines()):
                click.echo(f"  {visible(line)}", err=True)
