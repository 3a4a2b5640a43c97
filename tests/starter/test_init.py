"""`devpolicy init`: what is written is tested, and what it recommends next works."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.cli.harness import ROOT, invoke

from devpolicy._core.starter.own_tests import kept

PIPELINE = ROOT / "examples" / "haystack-rag" / "rag.yaml"


def recommended(stdout: str) -> list[str]:
    """Return the arguments of the command that an output recommends."""
    text = " ".join(stdout.partition("next ")[2].split())
    return shlex.split(re.findall("`devpolicy (.*?)`", text)[0])


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in found}


@pytest.mark.parametrize(
    ("model", "hosts"),
    [
        ("gpt2", ["cpu-only"]),
        ("gpt2", ["-"]),
        ("llama-3.1-8b", ["2x24gb", "mac-24gb"]),
        ("llama-3.1-8b", ["1x8gb"]),
        ("llama-3.1-70b", ["4x80gb"]),
        ("llama-3.1-70b", ["2x24gb"]),
        ("gpt-oss-20b", ["1x24gb"]),
        ("bge-m3", ["faulty/broken-driver"]),
        ("whisper-small", ["arc-a770"]),
    ],
)
def test_what_is_written_passes_and_the_next_step_works(model, hosts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = invoke("init", "--model", model, *(word for name in hosts for word in ("--host", name)))
    assert (run.status, run.stderr) == (0, "")
    assert files(tmp_path)["policy.toml"].startswith("#:schema ./policy.schema.json\n")
    tested = invoke("test", "policy.toml")
    assert tested.status == 0, tested
    assert f"{len(hosts) + 1} test" in tested.stdout or f"{len(hosts) + 2} test" in tested.stdout
    checked = invoke("check", "policy.toml", "--strict")
    assert checked.status == 0, checked
    step = invoke(*recommended(run.stdout))
    assert step.status == 0, step


def test_the_next_step_works_from_outside_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = invoke("init", "my policies", "--model", "gpt2", "--host", "faulty/zero-devices")
    assert invoke(*recommended(run.stdout)).status == 0, run.stdout


def test_a_model_of_ones_own_is_not_taken_for_its_namesake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "fixtures/models/all-minilm-l6.toml").read_text("utf-8")
    (tmp_path / "gpt2.toml").write_text(text.replace('"all-minilm-l6"', '"gpt2"', 1), encoding="utf-8")
    run = invoke("init", "--model", "gpt2.toml", "--host", "2x24gb")
    assert run.status == 0, run.stderr
    assert 'model  = "models/gpt2.toml"' in files(tmp_path)["policy.toml"]


@pytest.mark.parametrize("folder", ["x" * 300, "file/inside"])
def test_a_folder_that_cannot_be_made_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    run = invoke("init", folder, "--model", "gpt2", "--host", "2x24gb")
    assert (run.status, "cannot make the folder" in run.stderr) == (2, True), run.stderr


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("policy.toml", "policy.schema.json", ".github/workflows/devpolicy.yml"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine\n", "utf-8")
        run = invoke("init", str(folder), "--model", "gpt2", "--host", "cpu-only", "--ci", "github")
        assert (run.status, run.stdout) == (2, "")
        assert "is not replaced" in run.stderr
        assert files(folder) == {name: "mine\n"}


def test_a_schema_that_is_there_already_is_no_hindrance(tmp_path):
    (tmp_path / "policy.schema.json").write_text(invoke("schema").stdout, "utf-8")
    assert invoke("init", str(tmp_path), "--model", "gpt2", "--host", "cpu-only").status == 0


def test_a_model_that_fits_nowhere_is_refused_with_its_reason(tmp_path):
    run = invoke("init", str(tmp_path), "--model", "llama-3.1-405b", "--host", "1x8gb")
    assert run.status == 3
    assert "on 1x8gb; in full, in four bits, and with a part of it in RAM were tried" in run.stderr
    assert "-->" not in run.stderr  # the draft is no file of the user's
    assert files(tmp_path) == {}


def test_without_a_terminal_a_model_must_be_given(tmp_path):
    run = invoke("init", str(tmp_path))
    assert run.status == 2
    assert "write `--model MODEL`" in run.stderr


def test_a_model_outside_of_the_catalogue_brings_its_structure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    captured = invoke("model", "show", "gpt2").status, (ROOT / "fixtures/models/gpt2.toml").read_text("utf-8")
    Path("own model.toml").write_text(captured[1].replace('name = "gpt2"', 'name = "own"'), "utf-8")
    run = invoke("init", "sub", "--model", "own model.toml", "--host", "cpu-only")
    assert run.status == 0, run
    assert "models/own-model.toml" in files(tmp_path / "sub")
    assert invoke("test", "sub/policy.toml").status == 0
    assert invoke(*recommended(run.stdout)).status == 0


def test_a_pipeline_becomes_components(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    text = PIPELINE.read_text("utf-8").replace("model: models/embedder", "model: BAAI/bge-m3")
    (tmp_path / "rag.yaml").write_text(text, "utf-8")
    run = invoke("init", "policies", "--pipeline", "rag.yaml", "--host", "1x24gb", "--ci", "github")
    assert (run.status, run.stderr) == (0, "")
    written = files(tmp_path)
    assert 'model = "bge-m3"  # BAAI/bge-m3' in written["policies/policy.toml"]
    assert "--pipeline rag.yaml" in written[".github/workflows/devpolicy.yml"]
    assert invoke(*recommended(run.stdout)).status == 0
    for line in re.findall(r"- run: (devpolicy .*)", written[".github/workflows/devpolicy.yml"]):
        assert invoke(*shlex.split(line)[1:]).status == 0, line


def test_a_pipeline_runs_on_every_host_that_it_is_for(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    path = "haystack_integrations.components"
    entries = {
        "embedder": f"{path}.embedders.fastembed.FastembedTextEmbedder",
        "entities": f"{path}.extractors.spacy.SpacyNamedEntityExtractor",
        "ranker": f"{path}.rankers.sentence_transformers.SentenceTransformersSimilarityRanker",
    }
    lines = [f"  {name}: {{type: {cls}, init_parameters: {{device: null}}}}" for name, cls in entries.items()]
    (tmp_path / "rag.yaml").write_text("\n".join(["components:", *lines, "connections: []", ""]), "utf-8")
    hosts = ("2x24gb", "macbook-m3-36gb")
    assert invoke("init", "--pipeline", "rag.yaml", *(word for host in hosts for word in ("--host", host))).status == 0
    for host in hosts:
        run = invoke("resolve", "policy.toml", "--pipeline", "rag.yaml", "--host", host)
        assert run.status == 0, run.stderr
    # What the class cannot use is not claimed by a test of the policy.
    assert "embedder runs on mps" not in Path("policy.toml").read_text("utf-8")
    assert "ranker runs on mps" in Path("policy.toml").read_text("utf-8")


def test_a_test_that_fails_is_not_kept():
    good = '[[test]]\nname = "good"\nhost = "1x24gb"\nexpect = "cuda:0"\n'
    bad = good.replace("good", "bad").replace("cuda:0", "cuda:7")
    assert kept('prefer = "cuda"\n', [bad, good], {}) == [good]


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of its own needs a POSIX system")
def test_a_terminal_is_asked(tmp_path):
    import pty

    answers = iter([(b"Model", b"gpt3\n"), (b"Model", b"gpt2\n"), (b"Hosts", b"cpu-only\n"), (b"GitHub", b"y\n")])
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "devpolicy", "init", str(tmp_path)])
    seen, waiting = b"", next(answers)
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
        if waiting and waiting[0] in seen.rpartition(b"\n")[2] and seen.rstrip().endswith(b":"):
            os.write(terminal, waiting[1])
            seen += b"\n"
            waiting = next(answers, None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen.decode()
    assert "did you mean `gpt2`?\r\n  `devpolicy model list`" in seen.decode(), "the help has its own lines"
    assert {"policy.toml", ".github/workflows/devpolicy.yml"} <= set(files(tmp_path))
