"""Plans as files that are pictures: `--format svg` and `--format png`.

Owns which options go with a picture; the picture itself is made by `devpolicy._core.views`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devpolicy._core.cli.context import CliContext
from devpolicy._core.errors import DevPolicyError, Diagnostic

if TYPE_CHECKING:
    from devpolicy._core.views.picture import Titled


def check_picture(ctx: CliContext, to: str | None, output: str | None) -> None:
    """Raise `DevPolicyError` where a picture cannot be written as it is asked for."""
    if to is not None:
        hint = f"leave out `--to {to}` for a picture, or `--format {ctx.format}` for what the consumer takes"
        raise DevPolicyError([Diagnostic("", f"`--to` and `--format {ctx.format}` ask for two outputs", help=hint)])
    if ctx.format == "png" and output is None:
        raise DevPolicyError([Diagnostic("", "a PNG is not text", help="add `--output plan.png`")])


def drawn(ctx: CliContext, plans: Sequence[Titled]) -> str | bytes:
    """Return plans as a picture in the format that is asked for."""
    from devpolicy._core.views.colors import LIGHT
    from devpolicy._core.views.picture import picture
    from devpolicy._core.views.png import as_png

    return picture(plans) if ctx.format == "svg" else as_png(picture(plans, theme=LIGHT))
