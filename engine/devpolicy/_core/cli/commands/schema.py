"""`devpolicy schema`: the JSON schema of a policy.

Owns the command alone: the schema is made by `devpolicy._core.language.schema`.
"""

from __future__ import annotations

import click

from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command


@click.command(cls=Command, name="schema", short_help="Print the JSON schema of a policy, for editors.")
@common(formats=())
@pass_context
def command(ctx: CliContext) -> None:
    """Print the JSON schema of a policy, for editors that complete and check TOML.

    Taplo (in VS Code: Even Better TOML) and Tombi read the file that the policy's first line names.

    \b
    Example:
      devpolicy schema > policy.schema.json
      # then begin policy.toml with:  #:schema ./policy.schema.json
    """
    from devpolicy._core.language.schema import policy_schema

    ctx.print_json(policy_schema())
