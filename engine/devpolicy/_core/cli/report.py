"""How errors, warnings and usage errors are printed.

Owns how errors, warnings, wrong usage and our own bugs are written: on standard error as a compiler would print them,
with `--format json` on standard output as `{"schema": 1, "errors": [...]}`.
"""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from devpolicy._core.errors import DevPolicyError, DevPolicyWarning, Diagnostic
from devpolicy._core.text import visible

if TYPE_CHECKING:
    import click

    from devpolicy._core.cli.context import CliContext
    from devpolicy._core.cli.output import Line
    from devpolicy._core.language.policy import Policy

BUG = 70
"""The exit status of an error that is ours (`EX_SOFTWARE` of sysexits.h)."""

_HEAD = re.compile(r"((?:error|warning)(?:\[\w+\])?)(: .*)")
_ARROW = re.compile(r"( *-->)( .*)")
_CARETS = re.compile(r"( *\| *)(\^+.*)")
_UNKNOWN_COMMAND = re.compile(r"no such command `(\w[\w./:-]*)`")
"""Click's message, for a name that a shell takes as it is."""
_REMARK = re.compile(r"( *= )(help|note)(: .*)")


def painted(rendered: str) -> list[Line]:
    """Return rendered findings as styled lines: the code red, carets, help in cyan."""
    lines: list[Line] = []
    level = "error"
    for text in rendered.split("\n"):
        if found := _HEAD.fullmatch(text):
            level = "warning" if text.startswith("warning") else "error"
            lines.append([(found[1], level), (found[2], "strong")])
        elif found := _ARROW.fullmatch(text):
            lines.append([(found[1], "place"), (found[2], "")])
        elif found := _CARETS.fullmatch(text):
            lines.append([(found[1], "place"), (found[2], level)])
        elif found := _REMARK.fullmatch(text):
            lines.append([(found[1], "place"), (found[2], "help"), (found[3], "")])
        else:
            lines.append(text)
    return lines


def findings_of(error: DevPolicyError) -> tuple[Diagnostic, ...]:
    """Return an error's findings; one without a code where it carries only a message."""
    return error.diagnostics or (Diagnostic("", str(error)),)


def rendered(findings: Iterable[Diagnostic]) -> str:
    """Return findings as text, an empty line between them."""
    return "\n\n".join(finding.render().replace(f"{finding.severity}[]", finding.severity, 1) for finding in findings)


def for_machines(finding: Diagnostic) -> dict[str, object]:
    """Return a finding's JSON form; `code` is null where it has none."""
    return {**finding.to_dict(), "code": finding.code or None}


def report(ctx: CliContext, findings: Iterable[Diagnostic], **more: object) -> None:
    """Tell errors. `more` are further keys of the JSON form."""
    findings = list(findings)
    if ctx.out.dropped:
        ctx.err.print(painted(rendered(findings)))  # perhaps it is this that they tell
        return
    if ctx.json:
        ctx.print_json({"schema": 1, "errors": [for_machines(finding) for finding in findings], **more})
        return
    if ctx.format in ("github", "sarif"):
        write_findings(ctx, findings)
        return
    ctx.err.print(painted(rendered(findings)))
    codes = list(dict.fromkeys(finding.code for finding in findings if finding.code))
    if codes and ctx.err.terminal:
        ctx.err.print(["", [("more about it: ", "dim"), (f"devpolicy explain {codes[0]}", "dim")]])


def write_findings(ctx: CliContext, findings: Iterable[Diagnostic]) -> None:
    """Write findings to standard output in the form that GitHub or a reader of SARIF takes."""
    from devpolicy import __version__
    from devpolicy._core.cli.ci_formats import github, sarif

    if ctx.format == "sarif":
        ctx.print_json(sarif(findings, __version__))
    else:
        ctx.out.write(github(findings))


def print_lint(ctx: CliContext, policy: Policy) -> None:
    """Print the settings of a policy that have no effect, on standard error."""
    if policy.warnings:
        ctx.err.print(painted(rendered(policy.warnings)))


def usage_finding(error: click.ClickException) -> Diagnostic:
    """Return a wrong usage in the grammar of our messages."""
    import click

    message = error.format_message().strip().replace("'", "`")
    message = (message[:1].lower() + message[1:]).removesuffix(".")
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        message = f"there is no option `{error.option_name}`"
    hint = f"`{context.command_path} --help` shows what it takes" if context is not None else ""
    if isinstance(error, click.NoSuchOption):
        likely = _likely_option(error)
        hint = f"did you mean `{likely}`?\n{hint}".strip() if likely else hint
    named = _UNKNOWN_COMMAND.fullmatch(message)
    if named is not None and context is not None and "show" in getattr(context.command, "commands", ()):
        hint = f"`{context.command_path} show {named[1]}` shows what has this name\n{hint}"
    if (
        isinstance(error, click.MissingParameter)
        and error.param is not None
        and error.param.name in ("policy", "policies")
    ):
        way = "name a policy's file, or one that ships, such as `prefer-accelerator`; `devpolicy init` writes one"
        hint = f"{way}\n{hint}".strip()
    return Diagnostic("", message, help=hint)


def _likely_option(error: click.NoSuchOption) -> str:
    """Return what was likely meant by an unknown option; empty where nothing was.

    An option of this name in other tools, and a key of the policy, are better guesses than one of similar spelling.
    """
    from devpolicy._core.language.fields import TopTable
    from devpolicy._core.language.workload import Workload
    from devpolicy._core.toml.tables import fields_of

    if error.option_name == "--json":
        return "--format json"
    keys = {one.name: one.name for one in fields_of(TopTable) if one.name not in ("schema", "workload")}
    keys |= {one.name: f"workload.{one.name}" for one in fields_of(Workload)}
    key = keys.get(error.option_name.lstrip("-").replace("-", "_"))
    takes = error.ctx.command.params if error.ctx is not None else ()
    if key is not None and any("--set" in one.opts for one in takes):
        return f"--set {key}=VALUE"
    return error.possibilities[0] if error.possibilities else ""


def report_bug(ctx: CliContext, error: Exception) -> None:
    """Tell an exception that nobody meant to raise, in one line, with its traceback only under `--debug`."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    try:
        message = f"this is a bug in devpolicy: {type(error).__name__}: {error}{where}".replace("\n", " ")
    except Exception:  # noqa: BLE001 - its own text may be broken
        message = f"this is a bug in devpolicy: {type(error).__name__}{where}"
    finding = Diagnostic("", message, help="please report it with the command, the policy and what `--debug` prints")
    if ctx.json:
        report(ctx, [finding])
    else:
        # Without colours: the drawing itself may be at fault.
        ctx.err.print(rendered([finding]))
    if ctx.debug:
        ctx.err.print("".join(traceback.format_exception(error)).removesuffix("\n"))


@contextmanager
def printed_warnings(ctx: CliContext) -> Iterator[None]:
    """Print each `DevPolicyWarning` once on standard error, and keep other libraries' warnings to `--debug`."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = str(message)
        if text in told:
            return
        told.add(text)
        if issubclass(category, DevPolicyWarning):
            ctx.err.print(painted(text if text.startswith("warning") else f"warning: {visible(text)}"))
        else:
            ctx.err.print(f"{category.__name__}: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("default" if ctx.debug else "ignore")
        warnings.simplefilter("always", DevPolicyWarning)
        warnings.showwarning = show
        yield


def flush() -> None:
    """Flush what others wrote (Click's help), so that a closed pipe is not complained of at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            from devpolicy._core.cli.output import Output

            Output(stream).drop()
