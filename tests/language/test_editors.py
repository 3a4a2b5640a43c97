"""What editors say of policies: Taplo (VS Code's "Even Better TOML", Helix, Zed) and Tombi, run as editors run them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devpolicy._core.shipped import shipped, shipped_files

COMMANDS = {"taplo": ("check", "--colors", "never"), "tombi": ("lint", "--offline")}
SHIPPED = shipped_files("policy")
WRONG = {
    "a misspelt key": 'prefre = ["cuda"]\n',
    "a word that a key does not know": 'prefer = "cuda"\nsplit = "nver"\n',
    "a test that asserts nothing": 'prefer = "cuda"\n[[test]]\nname = "t"\nhost = "2x24gb"\n',
    "vary": 'prefer = "cuda"\ntest = [{ name = "t", host = "a", always = "resident", vary = { x = 1 } }]\n',
    "a host without memory": 'prefer = "cuda"\n[host.lab]\ndisk = "1 TiB"\n',
}


def lint(editor: str, policy: Path) -> subprocess.CompletedProcess[str]:
    command = shutil.which(editor) or shutil.which(editor, path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip(f"{editor} is not installed")
    given = [command, *COMMANDS[editor], policy.name]
    return subprocess.run(given, capture_output=True, text=True, check=False, cwd=policy.parent, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the schema beside the policies, as users have it."""
    for name, file in {"policy.schema": shipped("policy") / "policy.schema.json", **SHIPPED}.items():
        suffix = "json" if name == "policy.schema" else "toml"
        (tmp_path / f"{name}.{suffix}").write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("editor", COMMANDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_is_without_fault(editor: str, name: str, folder: Path) -> None:
    run = lint(editor, folder / f"{name}.toml")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("editor", COMMANDS)
@pytest.mark.parametrize("text", WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_is_shown(editor: str, text: str, folder: Path) -> None:
    (folder / "wrong.toml").write_text(f"#:schema ./policy.schema.json\n{text}")
    assert lint(editor, folder / "wrong.toml").returncode != 0
