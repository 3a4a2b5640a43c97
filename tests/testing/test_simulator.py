"""Building the simulator: what is refused, with which way out, and that nothing but the command ever builds it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy._core.simulator import building, simulator, versions
from devpolicy._core.simulator.versions import TESTED, Torch
from devpolicy.errors import SimulationDepthError
from devpolicy.testing import simulate_host


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def torch_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def be(version: str, built_for: str | None = None) -> None:
        found = Torch(tmp_path, version, built_for)
        for module in (versions, building):
            monkeypatch.setattr(module, "installed", lambda: found)

    monkeypatch.setattr(versions.sys, "platform", "linux")
    be(f"{TESTED[-1]}.0+cpu")
    return be


def test_a_cuda_build_of_torch_is_refused(torch_here):
    torch_here("2.13.0+cu130", "CUDA 13.0")
    words = re.escape("needs a CPU build of torch, and 2.13.0+cu130 is built for CUDA 13.0")
    with pytest.raises(SimulationDepthError, match=words) as refused:
        simulator()
    assert "download.pytorch.org/whl/cpu" in str(refused.value)


def test_an_untested_torch_is_refused_with_the_list(torch_here):
    torch_here("1.2.3")
    with pytest.raises(SimulationDepthError, match=re.escape("not tested with torch 1.2.3")) as refused:
        simulate_host("2x24gb", depth="tensors")
    assert f"tested are {', '.join(TESTED)}" in str(refused.value)


def test_another_system_is_refused(torch_here, monkeypatch):
    monkeypatch.setattr(versions.sys, "platform", "win32")
    with pytest.raises(SimulationDepthError, match="the simulator is for Linux, and this is `win32`"):
        simulator()


def test_without_torch_there_is_none(torch_here, monkeypatch):
    monkeypatch.setattr(versions, "installed", lambda: None)
    monkeypatch.setattr(building, "installed", lambda: None)
    with pytest.raises(SimulationDepthError, match="torch is not installed here"):
        simulator()


def test_no_test_builds_it(torch_here, empty_cache):
    for depth in ("phantom", "tensors"):
        with pytest.raises(SimulationDepthError, match="is not built for torch") as refused:
            simulate_host("2x24gb", depth=depth)
        assert "run `devpolicy simulator build`, once" in str(refused.value)
    assert not empty_cache.exists()


def test_each_torch_and_each_source_has_a_place_of_its_own(torch_here, monkeypatch, tmp_path):
    first = simulator().library
    torch_here(f"{TESTED[-1]}.1+cpu")
    other_torch = simulator().library
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "module.cpp").write_text("// another\n")
    monkeypatch.setattr(building, "SOURCE", tmp_path / "source")
    assert len({first, other_torch, simulator().library}) == 3


def test_without_a_compiler_the_command_says_so(torch_here, monkeypatch):
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    refused = invoke("simulator", "build")
    assert refused.status == 2
    assert "there is no C++ compiler to build the simulator with" in refused.stderr
    assert "CXX" in refused.stderr
    allowed = invoke("simulator", "build", "--if-possible")
    assert allowed.status == 0
    assert "there is no C++ compiler" in " ".join(allowed.stdout.split())


def test_a_compiler_that_fails_is_quoted(torch_here, monkeypatch, tmp_path, empty_cache):
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\necho 'module.cpp:1: fatal error: Python.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    refused = invoke("simulator", "build")
    assert refused.status == 2
    assert "could not build the simulator" in refused.stderr
    assert "fatal error: Python.h" in refused.stderr
    assert [path for path in empty_cache.rglob("*") if path.is_file()] == []


def test_what_the_compiler_makes_is_there_afterwards(torch_here, monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert json.loads(invoke("simulator", "info", "--format", "json").stdout)["simulator"]["built"] is False
    built = invoke("simulator", "build")
    assert (built.status, "this takes half a minute" in built.stderr) == (0, True)
    assert simulator().library.read_text() == "made\n"
    assert "was there already" in invoke("simulator", "build").stdout
    told = json.loads(invoke("simulator", "info", "--format", "json").stdout)["simulator"]
    assert (told["built"], told["library"]) == (True, str(simulator().library))
