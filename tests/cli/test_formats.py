"""Findings as GitHub's annotations and as SARIF 2.1.0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.cli.harness import invoke

from devpolicy._core.cli.ci_formats import github, sarif
from devpolicy.errors import Diagnostic, Place

TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}},
    "additionalProperties": False,
}
COUNT = {"type": "integer", "minimum": 1}


def thing(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


# What the standard says of the parts that are used: sections 3.13 (log), 3.14 (run), 3.19 (tool), 3.49 (rule),
# 3.20 (invocation), 3.58 (notification), 3.27 (result), 3.28 (location), 3.29 (physical location), 3.30 (region).
# Stricter than its schema: a result has a rule, as section 3.27.5 asks, and one location, as GitHub does.
REGION = thing(["startLine"], startLine=COUNT, startColumn=COUNT, endColumn=COUNT)
ARTIFACT = thing([], uri={"type": "string", "format": "uri-reference", "pattern": r"^[^ \\]+$"})
LOCATION = thing([], physicalLocation=thing(["artifactLocation"], artifactLocation=ARTIFACT, region=REGION))
FINDING: dict[str, Any] = {
    "level": {"enum": ["none", "note", "warning", "error"]},
    "message": TEXT,
    "locations": {"type": "array", "items": LOCATION, "minItems": 1},
}
RESULT = thing(
    ["ruleId", "message", "locations"],
    ruleId={"type": "string"},
    ruleIndex={"type": "integer", "minimum": 0},
    **FINDING,
)
NOTIFICATION = thing(["message"], descriptor=thing(["id"], id={"type": "string"}), **FINDING)
INVOCATION = thing(
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    toolConfigurationNotifications={"type": "array", "items": NOTIFICATION},
)
RULE = thing(
    ["id", "shortDescription", "fullDescription", "help"],
    id={"type": "string"},
    shortDescription=TEXT,
    fullDescription=TEXT,
    help=TEXT,
)
DRIVER = thing(["name"], name={"type": "string"}, version={"type": "string"}, rules={"type": "array", "items": RULE})
RUN = thing(
    ["tool"],
    tool=thing(["driver"], driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    invocations={"type": "array", "items": INVOCATION},
    results={"type": "array", "items": RESULT},
)
LOG = {**thing(["version", "runs"], version={"const": "2.1.0"}, runs={"type": "array", "items": RUN})}
LOG["properties"]["$schema"] = {"type": "string", "format": "uri"}

BAD = 'prefre = ["cuda"]\nsplit = "nver"\noverflow = ["cpu", "cpu"]\n'


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("a policy.toml").write_text(BAD)
    return "a policy.toml"


def test_sarif_is_what_the_standard_says(policy: str) -> None:
    result = invoke("check", policy, "cpu-only", "no-such-policy", "--format", "sarif")
    log = json.loads(result.stdout)
    jsonschema.Draft7Validator(LOG).validate(log)
    (run,) = log["runs"]
    assert result.status == 2
    rules = run["tool"]["driver"]["rules"]
    for found in run["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("DP103", "error"),
        ("DP104", "error"),
        ("DP503", "warning"),
    ]
    first = run["results"][0]
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20policy.toml"},
        "region": {"startLine": 1, "startColumn": 1, "endColumn": 7},
    }
    assert "help: did you mean `prefer`?" in first["message"]["text"]


def test_sarif_tells_what_has_no_place_beside_the_results(policy: str) -> None:
    for arguments, told in [
        (("check", policy, "no-such-policy"), [({"id": "DP202"}, "there is no policy `no-such-policy`")]),
        (("check", policy, "--no-such-option"), [(None, "there is no option `--no-such-option`")]),
        (("check", policy, "--model", "gtp2"), [({"id": "DP202"}, "there is no model, file or folder `gtp2`")]),
        (("check", "cpu-only"), []),
    ]:
        log = json.loads(invoke(*arguments, "--format", "sarif").stdout)
        jsonschema.Draft7Validator(LOG).validate(log)
        (invocation,) = log["runs"][0]["invocations"]
        notifications = invocation["toolConfigurationNotifications"]
        found = [(one.get("descriptor"), one["message"]["text"].splitlines()[0]) for one in notifications]
        assert found == told
        assert invocation["executionSuccessful"] == (not told)


@pytest.mark.parametrize(
    "case", sorted((Path(__file__).parents[1] / "cases" / "bad").glob("*.toml")), ids=lambda p: p.stem
)
def test_sarif_of_every_finding_is_what_the_standard_says(case: Path) -> None:
    log = json.loads(invoke("check", str(case), "--format", "sarif").stdout)
    jsonschema.Draft7Validator(LOG).validate(log)
    for found in log["runs"][0]["results"]:
        region = found["locations"][0]["physicalLocation"]["region"]
        assert region["endColumn"] > region["startColumn"]


def test_sarif_of_a_policy_without_fault_has_no_results() -> None:
    log = json.loads(invoke("check", "cpu-only", "--format", "sarif").stdout)
    jsonschema.Draft7Validator(LOG).validate(log)
    assert log["runs"][0]["results"] == []


def test_an_absolute_path_is_a_uri() -> None:
    place = Place(str(Path("/a folder/p.toml").absolute()), 1, 1, 1, "x")
    (found,) = sarif([Diagnostic("DP103", "m", place)], "1")["runs"][0]["results"]
    uri = found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.startswith("file:///")
    assert uri.endswith("/a%20folder/p.toml")


def test_github_is_told_with_the_place(policy: str) -> None:
    lines = invoke("check", policy, "--format", "github").stdout.splitlines()
    assert lines[0] == (
        "::error file=a policy.toml,line=1,col=1,endColumn=7,title=DP103::unknown key `prefre` in the policy"
        "%0Ahelp: did you mean `prefer`?"
    )
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::error", "::warning"]


def test_what_would_end_a_command_of_githubs_is_escaped() -> None:
    place = Place("a,b:c%.toml", 1, 1, 1, "x")
    (line,) = github([Diagnostic("DP103", "50%\r\nnext", place, notes=("::error::no",))]).splitlines()
    assert line.startswith("::error file=a%2Cb%3Ac%25.toml,line=1,col=1,endColumn=2,title=DP103::")
    assert line.endswith("::50%25%0D%0Anext%0A::error::no")


@pytest.mark.parametrize("form", ["github", "sarif"])
def test_the_exit_status_does_not_depend_on_the_format(form: str, tmp_path: Path) -> None:
    warned = tmp_path / "p.toml"
    warned.write_text('prefer = ["cuda", "cuda:1"]\n')
    for arguments, status in [((), 0), (("--strict",), 1)]:
        assert invoke("check", str(warned), "--format", form, *arguments).status == status


def test_errors_before_anything_is_checked_are_in_the_format_too(policy: str) -> None:
    log = json.loads(invoke("check", policy, "--model", "gtp2", "--format", "sarif").stdout)
    jsonschema.Draft7Validator(LOG).validate(log)
    assert invoke("check", policy, "--model", "gtp2", "--format", "github").stdout.startswith("::error title=DP202::")


def test_check_reads_the_tests_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = '[[test]]\nname = "t"\nhost = "2x24g"\nexpect = "cuda:0"\n'
    Path("p.toml").write_text(f'prefer = "cuda"\n{test}')
    Path("p.test.toml").write_text(f'policy = "p.toml"\n{test}')
    result = invoke("check", "p.toml", "p.test.toml")
    assert result.status == 2
    assert "--> p.toml:4:8" in result.stdout
    assert "--> p.test.toml:4:8" in result.stdout
    assert result.stdout.count("did you mean `2x24gb`?") == 2
