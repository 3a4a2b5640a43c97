"""What the wheel holds, and that the house says one thing in one way: the wheel's data is what git tracks."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import tomli

from devpolicy._core.shipped import shipped

ROOT = Path(__file__).parents[1]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = ("policy", "fixtures")
PREFIX = "devpolicy/_data/"


def build(kind: str, source: Path, target: Path) -> Path:
    """Build from `source` with the interpreter's own hatchling: without isolation, so without an index."""
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling (the dependency group `test`)")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def tracked(*folders: str) -> set[str]:
    """Return the files below `folders` that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files are tracked")
    # The checkout may belong to another user, as in a container.
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--", *folders]
    run = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(filter(None, run.stdout.split("\0")))


def test_the_wheels_data_is_what_git_tracks(wheel):
    packed = {name.removeprefix(PREFIX) for name in names(wheel) if name.startswith(PREFIX)}
    assert packed == tracked(*DATA) - {f"{folder}/README.md" for folder in DATA}


def test_the_wheels_code_is_what_git_tracks(wheel):
    packed = {name for name in names(wheel) if not name.startswith(PREFIX) and ".dist-info/" not in name}
    assert packed == {name.removeprefix("engine/") for name in tracked("engine")}


def test_the_wheel_says_that_it_is_typed(wheel):
    assert "devpolicy/py.typed" in names(wheel)


def test_the_top_level_is_what_the_readme_says():
    """A folder that a test wrote into the checkout was once committed with the rest."""
    top = {name.split("/")[0] for name in tracked()}
    folders = {name for name in top if (ROOT / name).is_dir() and not name.startswith(".")}
    assert folders == {"benchmarks", "docs", "engine", "examples", "fixtures", "policy", "tests", "tools"}


@pytest.mark.parametrize("folder", DATA)
def test_there_is_no_python_among_the_data(folder):
    assert [str(path) for path in (ROOT / folder).rglob("*.py*")] == []


@pytest.mark.parametrize("folder", DATA)
def test_the_installed_data_is_the_checkouts(folder):
    here = shipped(folder)
    files = [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".toml", ".json")]
    assert files
    for path in files:
        installed = here.joinpath(*path.relative_to(ROOT / folder).parts)
        assert installed.read_bytes() == path.read_bytes(), f"{path} changed after the package was installed"


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    for step in ("sdist", "source", "wheel"):
        (tmp_path / step).mkdir()
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # before 3.11.4 there is no `filter` argument
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    assert names(build("wheel", source, tmp_path / "wheel")) == names(wheel)


def test_the_metadata_names_the_licence_and_the_extras(wheel):
    found = metadata(wheel)
    assert (found["License-Expression"], found.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names(wheel))
    assert set(found.get_all("Provides-Extra") or ()) == set(PROJECT["project"]["optional-dependencies"])
    assert found["Requires-Python"] == ">=3.11"


def test_the_core_depends_on_five_libraries(wheel):
    needed = [line for line in metadata(wheel).get_all("Requires-Dist") or () if "extra ==" not in line]
    assert {name_of(line) for line in needed} == {"click", "packaging", "psutil", "rich", "tomli"}


def test_the_version_is_written_once_for_each_reader(wheel):
    import devpolicy

    assert devpolicy.__version__ == metadata(wheel)["Version"] == PROJECT["project"]["version"]


def test_the_oldest_environment_installs_the_floors():
    extras = PROJECT["project"]["optional-dependencies"]
    floors = {name_of(line): floor for extra in extras.values() for line in extra if (floor := version(line, ">="))}
    pinned = {name_of(line): pin for line in PROJECT["dependency-groups"]["oldest"] if (pin := version(line, "=="))}
    assert {"accelerate", "transformers"} <= set(pinned)
    assert {name: floors[name] for name in pinned} == pinned


def test_continuous_integration_runs_the_command_of_the_readme():
    *_, command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def version(requirement: str, operator: str) -> str | None:
    found = re.search(rf"{operator}\s*([\d.]+)", requirement)
    return found[1] if found else None
