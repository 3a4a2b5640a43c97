"""The rows that a sweep has written, a line of JSON for each type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(file: Path) -> list[dict[str, Any]]:
    """Return the last row of each type."""
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({row["type"]: row for row in found}.values())
