"""The command line.

Owns arguments, exit statuses and what a person or a script is shown; every decision is the engine's. Click parses,
Rich is imported only to colour a terminal. Nothing here is imported by the rest of the package.

Exit statuses: 0 fine; 1 findings of `check`, or a plan that is not the locked one; 2 an invalid policy or usage;
3 a valid policy that this host, model and consumer cannot satisfy; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `devpolicy` with these arguments, by default the process's, and exit."""
    try:
        from devpolicy._core.cli.signals import open_streams, watch_signals

        open_streams()
        watch_signals()
        from devpolicy._core.cli.app import app

        app(arguments, prog_name="devpolicy")
    except KeyboardInterrupt:
        # While Click was still being imported; afterwards the application answers for it.
        raise SystemExit(130) from None
