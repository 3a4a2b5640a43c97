"""A small number of hostile inputs at every door; and that the rule they are judged by finds what breaks it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="processes are limited as Linux does it")
ROOT = Path(__file__).parents[2]


def test_a_sample_of_hostile_inputs_breaks_nothing():
    command = [sys.executable, "-m", "tests.attack", "--count", "120", "--seed", "100000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("120 inputs, 0 broke the rule\n")


def _write_outside():
    (ROOT / "tests" / "cases" / "nobody").open("w").close()


def _import_from_the_folder():
    Path("evil.py").write_text("open('PWNED', 'w').close()\n")
    sys.path.insert(0, str(Path.cwd()))
    __import__("evil")


def _raise():
    raise RuntimeError("it breaks")


FAULTS = {
    "a traceback": _raise,
    "exit status: 70": lambda: sys.exit(70),
    "exit status: SIGXCPU": lambda: [None for _ in iter(int, 1)],
    "exit status: it hangs": lambda: time.sleep(600),
    "open": _write_outside,
    "os.rename": lambda: (Path("x").touch(), Path("x").rename(ROOT / "tests" / "cases" / "nobody")),
    "os.mkdir": lambda: Path("/nobody/needs/this").mkdir(),
    "os.system": lambda: os.system("true"),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "code of the input ran": _import_from_the_folder,
    "not shown as text": lambda: print("\x1b[2J"),
    "exit status: 99": lambda: bytearray(4 << 30),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rule_finds_what_breaks_it(fault, tmp_path, monkeypatch):
    from tests.attack import judge

    monkeypatch.setattr("devpolicy._core.cli.main", FAULTS[fault])
    monkeypatch.setattr(judge, "SECONDS", 1)
    monkeypatch.setattr(judge, "_WALL", 20 if fault != "exit status: it hangs" else 1)
    found = judge.try_one("host", 0, tmp_path)
    assert any(one.startswith(fault) for one in found.faults), found.faults
    assert (tmp_path / "host-0").exists()
    (ROOT / "tests" / "cases" / "nobody").unlink(missing_ok=True)


def test_what_breaks_nothing_is_left_alone(tmp_path):
    from tests.attack import judge

    assert judge.try_one("host", 0, tmp_path).faults == []
    assert list(tmp_path.iterdir()) == []
