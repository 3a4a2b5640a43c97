"""The application: its commands, and how every error ends.

Owns the list of commands, imported only when they are used, and the exit statuses.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from typing import Any, Never

import click

import devpolicy
from devpolicy._core.cli.context import CliContext
from devpolicy._core.cli.group import Group
from devpolicy._core.cli.report import BUG, findings_of, flush, printed_warnings, report, report_bug, usage_finding
from devpolicy._core.errors import DevPolicyError, Diagnostic

_COMMANDS = {
    "init": "init",
    "check": "check",
    "show": "show",
    "plan": "plan",
    "fit": "fit",
    "report": "report",
    "dry-run": "dry_run",
    "resolve": "resolve",
    "why": "why",
    "run": "run",
    "test": "test",
    "diff": "diff",
    "verify": "verify",
    "host": "host",
    "fleet": "fleet",
    "model": "model",
    "playground": "playground",
    "targets": "targets",
    "doctor": "doctor",
    "simulator": "simulator",
    "schema": "schema",
    "explain": "explain",
}
"""Commands by the module that holds them, in the order of the help."""


class App(Group):
    """The group of all commands. Every way out of it is an exit status, never a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, the ones that are used first first."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"devpolicy._core.cli.commands.{_COMMANDS[cmd_name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; an unknown one is an error with the likely name."""
        from devpolicy._core.toml.tables import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            known = did_you_mean(args[0], _COMMANDS)
            hint = f"{known}\n`devpolicy --help` lists all"
            raise DevPolicyError([Diagnostic("", f"there is no command `{args[0]}`", help=hint)])
        return super().resolve_command(ctx, args)

    def _main_shell_completion(
        self, ctx_args: MutableMapping[str, Any], prog_name: str, complete_var: str | None = None
    ) -> None:
        """Answer a shell's request for completions; offer none where the request is incomplete or malformed."""
        try:
            super()._main_shell_completion(ctx_args, prog_name, complete_var)
        except (KeyError, ValueError):
            raise SystemExit(1) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Never:
        """Run a command and exit with its status. `standalone_mode` is ignored: there is one way out."""
        ctx = CliContext.guess(sys.argv[1:] if args is None else args)
        extra |= {"windows_expand_args": windows_expand_args, "obj": ctx}
        try:
            status = self._status(ctx, args, prog_name, complete_var, **extra)
        except DevPolicyError as error:
            # The report itself could not be written.
            status = error.exit_status
            ctx.err.print(f"error: {error}")
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, it is ours
            status = BUG
            report_bug(ctx, error)
        flush()
        sys.exit(status)

    def _status(
        self,
        ctx: CliContext,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        **extra: Any,
    ) -> int:
        """Run a command, report its errors, and return its exit status."""
        try:
            with printed_warnings(ctx):
                return super().main(args, prog_name, complete_var, standalone_mode=False, **extra) or 0
        except DevPolicyError as error:
            report(ctx, findings_of(error), **getattr(error, "more", {}))
            return error.exit_status
        except click.ClickException as error:
            report(ctx, [usage_finding(error)])
            return 2
        except (click.Abort, KeyboardInterrupt):
            return 130


_COMPLETION = """\b
Completion of commands, policies, hosts, models, modules and codes, for the
shell that you use:
  bash: eval "$(_DEVPOLICY_COMPLETE=bash_source devpolicy)"  in ~/.bashrc
  zsh:  eval "$(_DEVPOLICY_COMPLETE=zsh_source devpolicy)"   in ~/.zshrc
  fish: _DEVPOLICY_COMPLETE=fish_source devpolicy | source
        in ~/.config/fish/completions/devpolicy.fish

\b
Exit status: 0 fine; 1 findings of check or doctor, failed tests,
a broken property, or not the locked plan; 2 invalid policy or usage;
3 valid, but this host, model and consumer cannot satisfy it.
"""


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(devpolicy.__version__, prog_name="devpolicy")
def app() -> None:
    """Write where a model runs as a TOML policy, and plan it for any host.

    A policy says which devices are preferred and what is kept elsewhere. Models and hosts are named from the
    catalogue, or read from files: no weights are loaded, and no GPU is needed.

    \b
    Examples:
      devpolicy plan offload-lm-head --model llama-3.1-70b --host 4x80gb
      devpolicy check policy/*.toml
      devpolicy host list
    """
