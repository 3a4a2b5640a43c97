"""What the benchmarks share: the table, the JSON file, and the versions that the figures belong to."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("devpolicy", "torch", "transformers", "accelerate", "haystack-ai")


def environment() -> dict[str, str]:
    """Return the versions of everything measured. Of the machine only what makes ratios comparable."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, the first to the left and figures to the right."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    for row in (titles, ["-" * width for width in widths], *rows):
        first, *figures = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *figures]))


def write_json(file: str | None, figures: dict[str, Any]) -> None:
    """Write the figures to `file`, if one is named."""
    if file is not None:
        Path(file).write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
