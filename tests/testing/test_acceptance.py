"""A user's suite, in tests/cases/plugin_suite with a pyproject.toml of its own: it installs the wheel, and passes; and
deliberately wrong device code fails there, with a message that names host and device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")  # the suite's device code is of torch

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "tests" / "cases" / "plugin_suite"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel, without an index."""
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling (the dependency group `test`)")
    pytest.importorskip("pip", reason="an environment without pip installs nothing")
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)], ROOT)
    (wheel,) = built.iterdir()
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(wheel)], ROOT)
    return target


def run(command: list[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The suite away from this checkout, so that no configuration of ours reaches it."""
    return Path(shutil.copytree(SUITE, tmp_path / "suite"))


def pytest_in(suite: Path, installed: Path, *arguments: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=suite,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_is_the_wheel_that_the_suite_uses(suite: Path, installed: Path) -> None:
    code = "import devpolicy; print(devpolicy.__file__)"
    assert run([sys.executable, "-c", code], suite, PYTHONPATH=str(installed)).startswith(str(installed))


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "with two workers"])
def test_a_suite_written_with_the_public_plugin_passes(suite: Path, installed: Path, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("xdist")
    status, output = pytest_in(suite, installed, *workers)
    assert status == 0, output
    assert "failed" not in output


def test_wrong_device_code_fails_with_host_and_device(suite: Path, installed: Path) -> None:
    status, output = pytest_in(suite, installed, "wrong_device_code.py")
    assert status == 1, output
    assert "3 failed, 3 passed" in output
    reports = output.split("\n____")[1:]
    assert len(reports) == 3
    assert "asked of `cuda:1` on the simulated host `1x24gb`" in reports[0]
    assert "asked of `cuda:2` on the simulated host `faulty/ecc-on-query`" in reports[1]
    for report, host, device in zip(
        reports,
        ("1x24gb", "faulty/ecc-on-query", "turing"),
        (
            "cuda:0  NVIDIA GeForce RTX 4090, 24.0 GiB (23.6 GiB free)",
            "cuda:2  NVIDIA A100-SXM4-80GB, 80.0 GiB (0 B free), faulty: CUDA error: uncorrectable ECC error",
            "cuda:0, Tesla T4, has compute capability (7, 5): no bfloat16",
        ),
        strict=True,
    ):
        assert f"[{host}]" in report.splitlines()[0]
        assert f"\n{host}: linux x86_64" in report
        assert device in report
