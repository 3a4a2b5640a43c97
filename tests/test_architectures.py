"""What the table of architectures says is what is seen: tiny models, divided by plans, beside the CPU.

`DEVPOLICY_ARCHITECTURES` chooses how many: `sample` takes every sixteenth class, `all` takes each, which is an hour.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devpolicy._core.model.architectures import architectures, read
from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import SimulationDepthError

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[1]
HOW_MANY = os.environ.get("DEVPOLICY_ARCHITECTURES", "")
FEW = ("llama", "mixtral", "whisper")


def types() -> list[str]:
    from importlib.metadata import version

    table = architectures()
    if table.versions["transformers"] != version("transformers"):
        return list(FEW)
    known = sorted({one.model_type for one in table.classes.values()})
    return known if HOW_MANY == "all" else known[::16] if HOW_MANY == "sample" else list(FEW)


def test_the_table_says_what_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("tools.architectures.table", reason="the tools do not travel with the tests")
    try:
        require_built("tensors")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))
    from tools.architectures.rows import read as read_rows
    from tools.architectures.table import table

    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "tools.architectures", "--rows", str(rows), "--only", *types()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = read(table(read_rows(rows))).classes
    assert len(seen) > len(types()) * 0.9  # several types may share a class
    said = architectures().classes
    assert {name: one.verdict for name, one in seen.items()} == {name: said[name].verdict for name in seen}
    assert {name: one.cache for name, one in seen.items()} == {name: said[name].cache for name in seen}
