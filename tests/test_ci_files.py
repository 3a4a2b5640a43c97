"""What people use in CI and in editors: the hooks, the action, the workflows, and the page that shows them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import DOCS

yaml = pytest.importorskip("yaml")

ROOT = DOCS.parent
PAGE = (DOCS / "ci.md").read_text(encoding="utf-8")
GOOD = (
    'prefer = "cuda"\n\n[[test]]\nname = "fits"\nhost = "1x24gb"\nmodel = "llama-3.1-8b"\nalways = ["within_budget"]\n'
)
BAD = GOOD.replace("prefer", "prefre")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def action() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return read


def run_action(folder: Path, **given: str) -> list[subprocess.CompletedProcess[str]]:
    """Run the action's own scripts, but for the installation, as a runner does: until one fails."""
    inputs = {name: str(spec["default"]) for name, spec in action()["inputs"].items()} | given
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    runs = []
    for step in action()["runs"]["steps"]:
        script = step.get("run", "")
        left_out = step.get("if") == "inputs.sarif != ''" and not inputs["sarif"]
        if not script.startswith("devpolicy") or left_out or (step["name"] == "Test" and inputs["tests"] == "none"):
            continue
        variables = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], value)
            for name, value in step["env"].items()
        }
        command = [shutil.which("bash") or "bash", "-eo", "pipefail", "-c", script]
        runs.append(
            subprocess.run(
                command,
                cwd=folder,
                env=os.environ | variables | {"PATH": where},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        )
        if runs[-1].returncode:
            break
    return runs


def test_no_input_of_the_action_is_part_of_a_script() -> None:
    scripts = [step["run"] for step in action()["runs"]["steps"] if "run" in step]
    assert [script for script in scripts if "${{" in script] == []


def test_the_action_checks_and_tests(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(GOOD)
    checked, tested = run_action(tmp_path)
    assert (checked.returncode, tested.returncode) == (0, 0)
    (tmp_path / "policy.toml").write_text(GOOD.replace("within_budget", "never_on:cuda"))
    checked, tested = run_action(tmp_path)
    assert (checked.returncode, tested.returncode) == (0, 1)
    assert tested.stdout.startswith("::error file=policy.toml,line=4")
    assert len(run_action(tmp_path, tests="none")) == 1


def test_the_action_annotates_and_writes_sarif(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(BAD)
    written, checked = run_action(tmp_path, policies="*.toml", sarif="found.sarif")
    assert (written.returncode, checked.returncode) == (0, 2)
    assert re.search(r"^::error file=b\.toml,line=1", checked.stdout, re.MULTILINE)
    results = json.loads((tmp_path / "found.sarif").read_text())["runs"][0]["results"]
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "b.toml"


def test_the_page_tells_the_inputs_of_the_action() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE) == list(action()["inputs"])


def test_every_workflow_of_the_page_is_readable() -> None:
    config, *workflows = [yaml.safe_load(block) for block in blocks("yml")]
    hooks = [hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))]
    assert [hook["id"] for hook in config["repos"][0]["hooks"]] == hooks
    for workflow in workflows:
        step = workflow["jobs"]["policies"]["steps"][1]
        assert set(step["with"]) <= set(action()["inputs"])


def test_the_workflows_name_environments_that_exist() -> None:
    environments = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for name in re.findall(r"tox run -e \"?([a-z]+)", file.read_text(encoding="utf-8")):
            assert f"[testenv:{name}" in environments


def test_the_snippets_make_a_policy(tmp_path: Path) -> None:
    """What VS Code writes with every default is a policy that has no error."""
    _, snippets = (json.loads(block) for block in blocks("json"))
    lines = [line for snippet in snippets.values() for line in snippet["body"]]
    text = re.sub(r"\$\{\d+\|(\w+),[^}]*\}", r"\1", "\n".join(lines))
    text = re.sub(r"\$\{\d+:([^}]*)\}", r"\1", text)
    (tmp_path / "policy.toml").write_text(re.sub(r"\$\d", "named", text) + "\n")
    command = [sys.executable, "-m", "devpolicy", "check", "policy.toml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_taplo_finds_the_schema_by_the_pages_file(tmp_path: Path) -> None:
    taplo = shutil.which("taplo") or shutil.which("taplo", path=str(Path(sys.executable).parent))
    if taplo is None:
        pytest.skip("taplo is not installed")
    (tmp_path / ".taplo.toml").write_text(blocks("text")[0])
    (tmp_path / "policy.schema.json").write_bytes((ROOT / "policy" / "policy.schema.json").read_bytes())
    for text, fine in ((GOOD, True), (BAD, False)):
        (tmp_path / "policy.toml").write_text(text)
        run = subprocess.run([taplo, "check"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (run.returncode == 0) is fine, run.stderr


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (BAD, 1)], ids=["good", "bad"])
def test_pre_commit_runs_the_hooks(tmp_path: Path, text: str, code: int) -> None:
    """It clones this checkout and installs it, as it does for users."""
    pytest.importorskip("pre_commit")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    git = ["git", "-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    config = blocks("yml")[0].replace("https://example.com/devpolicy", str(ROOT)).replace("v0.1.0", head.stdout.strip())
    (tmp_path / ".pre-commit-config.yaml").write_text(config)
    (tmp_path / "policy.toml").write_text(text)
    (tmp_path / "other.toml").write_text("not = 'a policy'\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True, timeout=60)
    run = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", "--all-files"],
        cwd=tmp_path,
        env=os.environ | {"PRE_COMMIT_HOME": str(tmp_path.parent / "pre-commit")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert ("Passed" in run.stdout) is (code == 0)
