"""Every script in `benchmarks/` runs to its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "ArgumentParser" in path.read_text(encoding="utf-8"))
NEEDS = {
    "gpu_decode": ("torch", "transformers"),
    "harness": ("torch", "psutil"),
    "placement": ("torch", "transformers", "accelerate"),
    "planning": ("torch", "transformers", "accelerate"),
    "prediction": ("torch", "transformers", "accelerate"),
    "silicon": ("torch", "transformers", "accelerate"),
    "simulation": ("torch", "transformers", "accelerate"),
    "startup": ("torch", "haystack"),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_quick_run_ends(script: Path, tmp_path: Path) -> None:
    for name in NEEDS.get(script.stem, ()):
        pytest.importorskip(name)
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(script), "--quick", "--json", str(figures)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert figures.exists() or "nothing is measured" in done.stdout
