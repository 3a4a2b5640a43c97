"""What the table of architectures says is what is seen: tiny models, divided by plans, beside the CPU.

`DEVPOLICY_ARCHITECTURES` chooses how many: `sample` takes every sixteenth class, `all` takes each, which is an hour.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devpolicy import ModelTree
from devpolicy._core.model.architectures import architectures, read
from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import SimulationDepthError

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[1]
HOW_MANY = os.environ.get("DEVPOLICY_ARCHITECTURES", "")
FEW = (
    "llama",
    "mixtral",
    "whisper",
    "kimi_k25",
    "ernie4_5_vl_moe",
    "kolibri1",
    "nemotron3_diarization",
    "mamba",
    "cvt",
)
"""The common ones; then parts by rows that loading keeps whole, experts joined twice, a product of a wider dtype,
weights that are computed again while they are loaded, and a stage with a tensor of its own beside its layers.
"""


SMALL = 8 << 10
"""Bytes that loading takes for a moment and the ledger has not: position ids, and norms of a weight that is computed.

No allocator of an accelerator gives as little alone.
"""


def over_the_ledger(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the bytes that devices of a type hold at most beyond the ledger, while its model is loaded."""
    found: dict[str, int] = {}
    for row in rows:
        for way in (row.get("balanced", {}), row.get("mixed", {})):
            over = [size - way["load"].get(name, 0) for name, size in way.get("load_peak", {}).items()]
            if max(over, default=0) > SMALL:
                found[row["type"]] = max(over)
    return found


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
    assert over_the_ledger(read_rows(rows)) == {}
    seen = read(table(read_rows(rows))).classes
    assert len(seen) > len(types()) * 0.9  # several types may share a class
    said = architectures().classes
    assert {name: one.verdict for name, one in seen.items()} == {name: said[name].verdict for name in seen}
    assert {name: one.cache for name, one in seen.items()} == {name: said[name].cache for name in seen}


def test_what_a_part_keeps_of_the_whole_is_written_and_read(tmp_path: Path) -> None:
    measure = pytest.importorskip("tools.architectures.measure", reason="the tools do not travel with the tests")
    measure._built("kimi_k25", measure.class_of("kimi_k25"), str(tmp_path))
    tree = ModelTree.load(str(tmp_path))
    tensors = {f"{module.path}.{one.name}": one for module in tree.modules for one in module.tensors}
    kept = {name: one for name, one in tensors.items() if one.kept}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in kept} == {"v_proj"}
    assert all(one.kept == 2 * one.elements and not one.merged for one in kept.values())
    assert ModelTree.parse(tree.to_toml()) == tree
