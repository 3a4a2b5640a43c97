"""What the shell completes."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from devpolicy._core.cli.app import app

CASES = [
    ("", "pl", ["plan", "playground"]),
    ("plan", "offload-l", ["offload-lm-head"]),
    ("check", "cpu", ["cpu-only"]),
    ("plan p --host", "1x", ["1x8gb", "1x24gb"]),
    ("plan p --model", "bert", ["bert-base"]),
    ("plan p --model", "reader=bert", ["reader=bert-base"]),
    ("plan p --to", "h", ["hf", "haystack"]),
    ("host show", "faulty/ecc", ["faulty/ecc-on-query"]),
    ("model show", "t5", ["t5-11b", "t5-small"]),
    ("why p --model gpt2", "tr", ["transformer"]),
    ("why p --model gpt2", "transformer.w", ["transformer.wte", "transformer.wpe"]),
    ("why p --model nonsense", "tr", []),
    ("why p", "tr", []),
    ("plan p --set", "workload.ba", ["workload.batch="]),
    ("plan p --set", "spl", ["split="]),
    ("plan p --set", "split=f", ["split=fastest"]),
    (
        "plan p --set",
        "workload.dtype=float",
        ["workload.dtype=float16", "workload.dtype=float32", "workload.dtype=float64"],
    ),
    ("plan p --set", "no.such", []),
    ("plan p --set", "no.such=", []),
    ("plan rag-pipeline --set", "component.ranker.sp", ["component.ranker.split="]),
    ("plan p --what-if", "cuda.", ["cuda.count=", "cuda.free=", "cuda.memory="]),
    ("plan p --what-if", "conte", ["context="]),
    ("verify p -p", "one", ["one_type"]),
    ("verify p --property", "never_on:c", ["never_on:cuda", "never_on:cpu"]),
    ("plan rag-pipeline --component", "r", ["ranker"]),
    ("plan no-such --component", "", []),
    ("plan laptop-and-server --profile", "", ["laptop", "server", "quiet"]),
    ("explain", "dp50", ["DP501", "DP502", "DP503", "DP504", "DP505", "DP506", "DP507", "DP508", "DP509"]),
]


def candidates(line: str, incomplete: str) -> list[str]:
    completer = ShellComplete(app, {}, "devpolicy", "_DEVPOLICY_COMPLETE")
    return [item.value for item in completer.get_completions(line.split(), incomplete)]


@pytest.mark.parametrize(("line", "incomplete", "expected"), CASES)
def test_what_is_offered(line, incomplete, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(candidates(line, incomplete)) == sorted(expected)


def test_files_and_folders_are_offered_beside_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cuda.toml").touch()
    (tmp_path / "cuda.txt").touch()
    (tmp_path / "cudas").mkdir()
    (tmp_path / "cudas" / "a.toml").touch()
    assert candidates("plan", "cu") == ["cuda.toml", "cudas/"]
    assert candidates("plan", "cudas/") == ["cudas/a.toml"]
    assert candidates("plan p --model", "cu") == ["cuda.toml", "cudas"]
    assert candidates("plan", "no/such/") == []


@pytest.mark.parametrize("words", [{}, {"COMP_WORDS": "devpolicy", "COMP_CWORD": "x"}, {"COMP_CWORD": "1"}])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "nothing"])
def test_a_shell_that_asks_wrongly_is_offered_nothing(shell, words):
    asked = {**os.environ, "_DEVPOLICY_COMPLETE": f"{shell}_complete", **words}
    command = [sys.executable, "-m", "devpolicy", "model", "show", "x"]
    done = subprocess.run(command, env=asked, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 2)
    assert done.stdout.strip() == ""
    assert "bug" not in done.stderr
