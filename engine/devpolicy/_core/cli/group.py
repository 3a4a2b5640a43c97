"""Commands and groups of them, where they differ from Click's.

Owns what a group answers that is given no command, which changed between Click's versions (the help on standard error,
and status 2), and what a command answers that is given an option twice.
"""

from __future__ import annotations

import warnings
from collections import Counter

import click

from devpolicy._core.errors import DevPolicyWarning


class Command(click.Command):
    """A command. It warns of a second value for an option that takes one: Click drops the first silently."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command's own options and arguments."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter, times in Counter(order).items():
                if times > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
                    name = max(parameter.opts, key=len)
                    message = f"`{name}` takes one value, and is given {times} times: the last one counts"
                    warnings.warn(message, DevPolicyWarning, stacklevel=2)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of commands."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own options; without any argument show the help and exit."""
        if not args and not ctx.resilient_parsing:
            # Asked for nothing: the help is the answer, and still nothing was done.
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)
