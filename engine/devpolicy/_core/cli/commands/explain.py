"""`devpolicy explain`: what a code means.

Owns the output. The texts are in `devpolicy._core.codes`.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.table import table
from devpolicy._core.codes import CODES
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.toml.tables import suggest

if TYPE_CHECKING:
    from devpolicy._core.cli.output import Line


@click.command(cls=Command, name="explain")
@click.argument("code", required=False, shell_complete=complete.codes)
@common()
@pass_context
def command(ctx: CliContext, code: str | None) -> None:
    """Show what an error or a warning means, and what to do. Without CODE, list all codes.

    \b
    Example:
      devpolicy explain DP301
    """
    if code is None:
        if ctx.json:
            ctx.print_json({"schema": 1, "codes": {name: told.title for name, told in CODES.items()}})
        else:
            rows = [[name, told.title] for name, told in CODES.items()]
            ctx.out.print(table(["code", "title"], rows, width=ctx.out.width, styles={0: "error"}))
        return
    name = code.strip().upper()
    if name not in CODES:
        close = suggest(name, CODES)
        hint = f"did you mean `{close}`?" if close else "`devpolicy explain` lists them"
        raise DevPolicyError(Diagnostic("DP202", f"there is no code `{code}`", help=hint))
    told = CODES[name]
    if ctx.json:
        ctx.print_json({"schema": 1, "code": name, "title": told.title, "explanation": told.explanation})
        return
    text = textwrap.wrap(told.explanation, ctx.out.width, break_on_hyphens=False)
    lines: list[Line] = [[(name, "error"), (f": {told.title}", "strong")], "", *text]
    ctx.out.print(lines)
