"""No model type does what a hostile configuration of it says: run code, ask, fetch, load a kernel, print.

Each type that Transformers registers is built from its default configuration with every such key at every level of it.
`DEVPOLICY_ATTACK=all` tries all of them, which takes about half an hour; else a sample that covers each way in.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SAMPLE = (
    "align_text_model",  # no task-free class: Transformers would look into `auto_map`
    "bert",
    "depth_anything",  # a backbone by name is looked up in the hub
    "falcon",  # its module loads a kernel as it is imported
    "llava",  # parts that are built by `AutoModel`
    "mixtral",  # an implementation of experts
    "upernet",
)
SECONDS = 7200 if os.environ.get("DEVPOLICY_ATTACK") == "all" else 300


def types():
    if os.environ.get("DEVPOLICY_ATTACK") != "all":
        return SAMPLE
    from transformers import CONFIG_MAPPING

    return sorted(CONFIG_MAPPING)


@pytest.mark.parametrize("stdin", ["closed", "open"])
def test_nothing_that_a_configuration_says_is_done(stdin, tmp_path):
    pytest.importorskip("transformers")
    log, results, home = tmp_path / "log", tmp_path / "results.json", tmp_path / "home"
    home.mkdir()
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")} | {
        "ATTACK_LOG": str(log),
        "ATTACK_RESULTS": str(results),
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE / "packages"),
    }
    command = [sys.executable, str(HERE / "hostile_child.py"), *types()]
    if stdin == "closed":
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    reader, writer = os.pipe()  # nothing is ever written to it: who reads it waits until the test gives up
    try:
        child = subprocess.run(
            command, stdin=reader, capture_output=True, env=environment, cwd=tmp_path, timeout=SECONDS, check=False
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert child.returncode == 0, child.stderr.decode(errors="replace")[-4000:]
    assert child.stdout == b""
    assert not log.exists(), log.read_text()
    assert not list(home.rglob("*.py"))
    built = json.loads(results.read_text())
    assert set(built) == set(types())
    assert {name: outcome for name, (plain, outcome, *_) in built.items() if outcome != plain} == {}
    if os.environ.get("DEVPOLICY_ATTACK") == "all":
        assert sum(not plain.startswith("refused") for plain, *_ in built.values()) > 0.8 * len(built)
