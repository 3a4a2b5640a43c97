"""The examples, run as they are: copied to a folder of their own, as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The RAG example with its tiny models."""
    for module in ("haystack", "sentence_transformers", "haystack_integrations.components.generators.transformers"):
        pytest.importorskip(module, exc_type=ImportError)
    pytest.importorskip("haystack_integrations.components.rankers.sentence_transformers", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("example") / "haystack-rag"
    shutil.copytree(EXAMPLES / "haystack-rag", folder, ignore=shutil.ignore_patterns("models", "__pycache__"))
    assert run(folder, "tiny_models.py").returncode == 0
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The outer run's settings are not the example's.
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COVERAGE"))}
    environ |= {"HF_HUB_OFFLINE": "1", "HAYSTACK_TELEMETRY_ENABLED": "false", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False)


def test_the_rag_example_passes_its_own_tests_and_answers(rag: Path) -> None:
    done = run(rag, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout + done.stderr
    answered = run(rag, "app.py", "Where is the warehouse?")
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip()


def test_the_rag_example_s_policy_and_pipeline_belong_together(rag: Path) -> None:
    checked = run(rag, "-m", "devpolicy", "check", "policy.toml", "--pipeline", "rag.yaml", "--strict")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run(rag, "-m", "devpolicy", "test", "policy.toml")
    assert tested.returncode == 0, tested.stdout


def test_the_saved_rag_pipeline_is_the_one_that_the_code_builds(rag: Path) -> None:
    """But for the devices: it was saved on a laptop, and they are of this machine."""
    import yaml

    saved = yaml.safe_load((rag / "rag.yaml").read_text(encoding="utf-8"))
    assert run(rag, "pipeline.py").returncode == 0
    built = yaml.safe_load((rag / "rag.yaml").read_text(encoding="utf-8"))
    assert "mps" in str(saved)
    assert _without_devices(saved) == _without_devices(built)


def _without_devices(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_devices(inner) for key, inner in value.items() if key != "device"}
    return [_without_devices(inner) for inner in value] if isinstance(value, list) else value


def test_the_target_example_conforms_and_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    shutil.copytree(EXAMPLES / "target", folder)
    done = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout + done.stderr
    # What installing leaves: the metadata that names the entry point, beside the module.
    info = folder / "devpolicy_stages-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: devpolicy-stages\nVersion: 0.1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[devpolicy.targets]\nstages = stages:STAGES\n", encoding="utf-8")
    asked = ("policy.toml", "--model", "llama-3.1-8b", "--host", "2x24gb", "--to", "stages")
    told = run(folder, "-m", "devpolicy", "plan", *asked)
    assert told.returncode == 0, told.stderr
    assert "'devices': ['cuda:0', 'cuda:1']" in told.stdout
    (folder / "named.toml").write_text(
        'prefer = "cuda"\n[component.x]\ntarget = "stages"\nmodel = "gpt2"\n', encoding="utf-8"
    )
    assert run(folder, "-m", "devpolicy", "check", "named.toml").returncode == 0
    listed = run(folder, "-m", "devpolicy", "targets", "stages")
    assert "an engine of pipeline stages" in listed.stdout
