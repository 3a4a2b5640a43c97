"""`devpolicy test`: what is printed for people, programs and CI, and the exit statuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.cli.harness import invoke

GOOD = '[[test]]\nname = "good"\nhosts = ["2x24gb", "cpu-only"]\nalways = "placed_or_refused"\n'
BAD = '[[test]]\nname = "bad & <odd>\\u0007"\nhost = "2x24gb"\nexpect = "cuda:1"\n'
HEAD = 'prefer = ["cuda", "mps"]\n\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(HEAD + GOOD)
    (tmp_path / "bad.toml").write_text(HEAD + GOOD + BAD)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_exit_status_tells_failed_from_not_run() -> None:
    assert invoke("test", "good.toml").status == 0
    failed = invoke("test", ".")
    assert (failed.status, failed.stderr) == (1, "")
    assert failed.stdout.endswith("3 tests, 1 failed\n")
    assert invoke("test", "cpu-only-x").status == 2


@pytest.mark.usefixtures("folder")
def test_no_tests_are_no_success(folder: Path) -> None:
    (folder / "empty").mkdir()
    for arguments, said in [
        (("empty",), "there is no `[[test]]` in `empty`"),
        (("good.toml", "--run", "god"), "no test is named like `god`\n  = help: did you mean `good`?"),
    ]:
        result = invoke("test", *arguments)
        assert (result.status, result.stdout) == (2, "")
        assert said in result.stderr


@pytest.mark.usefixtures("folder")
def test_a_wrong_name_in_a_test_is_told_with_its_place(folder: Path) -> None:
    (folder / "bad.toml").write_text(HEAD + GOOD.replace("cpu-only", "cpu-olny"))
    result = invoke("test", ".")
    assert result.status == 2
    assert "error[DP202]: no host is named `cpu-olny`\n --> bad.toml:5:20\n" in result.stderr
    assert "did you mean `cpu-only`?" in result.stderr


@pytest.mark.usefixtures("folder")
def test_json_tells_everything_and_is_the_same_each_time() -> None:
    first, second = (invoke("test", ".", "--format", "json", "--coverage") for _ in range(2))
    assert first == second
    value = json.loads(first.stdout)
    assert value["summary"] == {"tests": 3, "passed": 2, "failed": 1, "hosts": 2}
    bad = value["files"][0]["tests"][1]
    assert bad["failures"][0] == {
        "host": "2x24gb",
        "module": None,
        "expected": "cuda:1",
        "got": "cuda:0",
        "decided_by": "prefer",
        "message": "the device is `cuda:0`, and `cuda:1` was expected",
        "notes": ["`cuda`: fits"],
    }
    assert bad["findings"][0]["code"] == "DP511"
    assert value["coverage"][1] == {
        "policy": "good.toml",
        "hosts": ["2x24gb", "cpu-only"],
        "fired": {"prefer cuda": ["2x24gb"], "prefer mps": []},
        "never": ["prefer mps"],
    }


@pytest.mark.usefixtures("folder")
def test_junit_is_xml_whatever_a_test_is_called() -> None:
    result = invoke("test", ".", "--format", "junit")
    root = ET.fromstring(result.stdout)
    assert result.status == 1
    suites = {suite.get("name"): suite for suite in root}
    assert {name: (suite.get("tests"), suite.get("failures")) for name, suite in suites.items()} == {
        "bad.toml": ("2", "1"),
        "good.toml": ("1", "0"),
    }
    case = suites["bad.toml"][1]
    assert (case.get("name"), case.get("file"), case.get("line")) == ("bad & <odd>\ufffd", "bad.toml", "8")
    (failure,) = case
    assert failure.get("type") == "DP511"
    assert "`cuda:1` was expected" in (failure.text or "")


@pytest.mark.usefixtures("folder")
def test_github_annotates_the_line_of_what_failed() -> None:
    result = invoke("test", "bad.toml", "--format", "github")
    assert result.status == 1
    assert result.stdout.startswith("::error file=bad.toml,line=10,col=10,endColumn=18,title=DP511::`bad & <odd>")
    assert result.stdout.count("\n") == 1
    assert "%0A`cuda`: fits" in result.stdout


@pytest.mark.usefixtures("folder")
def test_the_number_of_processes_changes_nothing() -> None:
    assert invoke("test", ".", "-j", "2") == invoke("test", ".", "-j", "1")


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_named_in_several_ways_is_tested_once(folder: Path) -> None:
    told = invoke("test", "good.toml", "./good.toml", str(folder / "good.toml"), "--format", "json").stdout
    assert [file["file"] for file in json.loads(told)["files"]] == ["good.toml"]
