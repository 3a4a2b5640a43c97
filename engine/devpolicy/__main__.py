"""`python -m devpolicy`: the command line."""

from __future__ import annotations

from devpolicy.cli import main

main()
