"""The playground without a browser: its answers, its files, its server and its command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import zipfile
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.cli.harness import invoke

import devpolicy
from devpolicy._core.playground.answers import answer
from devpolicy._core.playground.download import download
from devpolicy._core.playground.server import server
from devpolicy._core.playground.site import RUNTIME, archive, page
from devpolicy._core.shipped import shipped_files
from devpolicy.errors import DevPolicyError


def asked(**request: object) -> dict:
    return json.loads(answer(json.dumps(request)))


def planned(policy: str, model: str = "llama-3.1-8b", host: str = "2x24gb") -> dict:
    return asked(ask="plan", policy=policy, model=model, host=host)


def offered(text: str) -> list[str]:
    """Return what is offered at the end of a text, as it would then be written there."""
    lines = text.split("\n")
    found = asked(ask="complete", policy=text, line=len(lines) - 1, column=len(lines[-1]))
    return [lines[-1] + one["insert"] for one in found]


@pytest.mark.parametrize("name", ["offload-lm-head", "split-across-gpus", "cpu-only"])
def test_an_answer_has_the_plan_of_the_engine(name):
    told = planned(shipped_files("policy")[name].read_text("utf-8"))
    assert [one["digest"] for one in told["plans"]] == [devpolicy.plan(name, "llama-3.1-8b", "2x24gb").digest]
    assert told["picture"].startswith("<svg")
    idle = ["DP425"] if name == "offload-lm-head" else []  # a single GPU needs the room while the head runs
    assert [one["code"] for one in told["findings"]] == idle


def test_mistakes_are_answers():
    told = planned('prefer = "gpu"\n')
    assert [(one["code"], one["place"], one["help"]) for one in told["findings"]] == [
        ("DP201", [1, 10, 5], "did you mean `cuda`?")
    ]
    assert planned("= [")["findings"][0]["code"] == "DP101"
    assert planned('prefer = "cuda"\n', "llama-3.1-405b", "1x8gb")["findings"][0]["code"] == "DP301"


def test_every_choice_can_be_planned_or_is_refused():
    choices = asked(ask="choices")
    assert set(choices["policies"]) == set(shipped_files("policy"))
    for host in choices["hosts"]:
        assert planned('prefer = ["cuda", "xpu", "mps", "cpu"]\n', "gpt2", host)["plans"], host


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("spl", "split"),
        ("split = ", 'split = "when-needed"'),
        ('prefer = ["cu', 'prefer = ["cuda'),
        ("[wor", "[workload"),
        ("[workload]\ncont", "context"),
        ("[[rule]]\nma", "match"),
        ('[component.x]\nmodel = "gpt', 'model = "gpt-oss-120b'),
        ("memory.cuda.ca", "memory.cuda.cap"),
    ],
)
def test_what_is_offered_belongs_there(text, first):
    assert offered(text)[:1] == [first]


def test_what_is_offered_is_accepted_as_a_key():
    for line in offered("[workload]\n"):
        with pytest.raises(DevPolicyError) as caught:
            devpolicy.Policy.parse(f'prefer = "cpu"\n[workload]\n{line} = []\n')
        assert "unknown key" not in str(caught.value)


def test_the_archive_runs_without_what_is_installed(tmp_path):
    packed = archive()
    assert packed == archive()
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        file.extractall(tmp_path)
        names = file.namelist()
    assert {name.partition("/")[0] for name in names} == {"devpolicy", "click", "tomli", "packaging"}
    script = "import json, sys; from devpolicy._core.playground.answers import answer; print(answer(sys.argv[1]))"
    request = json.dumps({"ask": "plan", "policy": 'prefer = "cuda"\n', "model": "gpt2", "host": "2x24gb"})
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, request], capture_output=True, text=True, check=True
    )
    policy = devpolicy.Policy.parse('prefer = "cuda"')
    assert json.loads(done.stdout)["plans"][0]["digest"] == devpolicy.plan(policy, "gpt2", "2x24gb").digest


def test_the_page_allows_its_own_files_alone():
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'" in page()
    assets = Path(devpolicy.__file__).parent.joinpath("_core/playground/assets").iterdir()
    texts = [page(), *(path.read_text("utf-8") for path in assets)]
    assert not [text for text in texts if "http:" in text or "https:" in text]


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("127.0.0.1", "/", 200),
        ("localhost:80", "/a.js?x", 200),
        ("127.0.0.1", "/../a.js", 404),
        ("evil.example", "/", 404),
    ],
)
def test_the_server_gives_its_files_to_this_machine(host, path, status):
    found = server({"index.html": b"page", "a.js": b"1"}, 0)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    try:
        connection = HTTPConnection("127.0.0.1", found.server_address[1], timeout=10)
        connection.request("GET", path, headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()
    finally:
        found.shutdown()
        found.server_close()
        thread.join()


def test_what_is_fetched_must_be_what_was_tested(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "other.tgz").write_bytes(b"something else")
    with pytest.raises(DevPolicyError, match="its digest is another"):
        download(lambda done, of: None, (tmp_path / "other.tgz").as_uri())
    with pytest.raises(DevPolicyError, match="npm install pyodide"):
        download(lambda done, of: None, (tmp_path / "missing.tgz").as_uri())
    assert not (tmp_path / "cache").exists()


def test_without_the_runtime_the_command_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = invoke("playground", "--no-open")
    assert run.status == 2
    assert "`--download`" in run.stderr
    assert "holds no Pyodide" in invoke("playground", "--pyodide", str(tmp_path)).stderr


def test_the_site_is_written_whole_and_into_a_new_folder(tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME:
        (runtime / name).write_bytes(b"x")
    arguments = ("playground", "--pyodide", str(runtime), "--output", str(tmp_path / "site"))
    run = invoke(*arguments)
    assert run.status == 0, run.stderr
    assert {"index.html", "packages.zip", "worker.js", "pyodide"} <= {one.name for one in (tmp_path / "site").iterdir()}
    assert "is not replaced" in invoke(*arguments).stderr
