"""`python -m devpolicy`: the command line."""

from __future__ import annotations

from devpolicy._core.cli import main

main()
