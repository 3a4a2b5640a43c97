"""A key that is misspelt in the reader is found by a type checker: the tables of keys build what is read."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import devpolicy

PACKAGE = Path(devpolicy.__file__).parent
PLANTED = [
    ("top.py", "split=keys.split", "split=keys.splitt"),
    ("layers.py", "share=keys.share", "share=keys.shares"),
    ("memory.py", "headroom=keys.headroom", "headroom=keys.head_room"),
    ("tests.py", "error=keys.expect_error", "error=keys.expected_error"),
    ("fields.py", "split: Split = key(", "split: int = key("),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with a mistake in each of five places."""
    folder = tmp_path_factory.mktemp("copy") / "devpolicy"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "native"))
    for name, right, wrong in PLANTED:
        file = folder / "_core" / "language" / name
        text = file.read_text(encoding="utf-8")
        assert right in text, f"{name} has no `{right}`"
        file.write_text(text.replace(right, wrong), encoding="utf-8")
    return folder


def _needs(checker: str) -> None:
    if find_spec(checker) is None:
        pytest.skip("the type checkers are in `type`")


def _files() -> list[str]:
    return [f"devpolicy/_core/language/{name}" for name, _, _ in PLANTED]


def test_mypy_finds_a_misspelt_key(copy: Path) -> None:
    _needs("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-incremental", *_files()]
    found = subprocess.run(command, cwd=copy.parent, capture_output=True, text=True, check=False)
    for name in _files():
        assert f"{name}:" in found.stdout, f"nothing is said of {name}\n{found.stdout}{found.stderr}"


def test_pyright_finds_a_misspelt_key(copy: Path) -> None:
    _needs("basedpyright")
    command = [sys.executable, "-m", "basedpyright", "--level", "error", *_files()]
    found = subprocess.run(command, cwd=copy.parent, capture_output=True, text=True, check=False)
    for name in _files():
        assert f"{name}:" in found.stdout, f"nothing is said of {name}\n{found.stdout}{found.stderr}"
