"""A group of commands that answers with its help when it is given none.

Click's own way changed between its versions; this one holds for all: the help on standard error, and status 2.
"""

from __future__ import annotations

import click


class Group(click.Group):
    """A group of commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own options; without any argument show the help and exit."""
        if not args and not ctx.resilient_parsing:
            # Asked for nothing: the help is the answer, and still nothing was done.
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)
