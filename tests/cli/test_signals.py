"""How a command ends: by signals, with streams that are closed, and with the file that it writes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy._core.review.parallel_map import parallel_map
from devpolicy.errors import DevPolicyError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and descriptors of POSIX")

COMMAND = [sys.executable, "-m", "devpolicy"]
PLAN = [*COMMAND, "plan", "prefer-accelerator", "--model", "gpt2", "--host", "1x24gb"]
LONG = [
    *COMMAND,
    "verify",
    "split-across-gpus",
    "--model",
    "llama-3.1-405b",
    "--jobs",
    "2",
    "--accelerators",
    "4",
    "--mixed",
]


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are read from /proc")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL", "SIGINT", "SIGHUP"])
def test_no_worker_outlives_the_command(ending):
    ending = signal.Signals[ending]
    reset = [signal.SIGINT, signal.SIGHUP]  # what a shell starts in the background ignores them
    process = subprocess.Popen(
        LONG,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in reset],
    )
    workers = _until(lambda: found if len(found := _children(process.pid)) >= 2 else None)
    assert workers
    process.send_signal(ending)
    if ending == signal.SIGINT:
        # Python ignores the exception that it makes of it while it forks: ask again.
        _until(lambda: process.poll() is not None or process.send_signal(ending), 5)
    # The end of both pipes is there only when nobody holds them any more.
    out, errors = process.communicate(timeout=60)
    assert process.returncode in ({130, -ending} if ending == signal.SIGINT else {-ending})
    assert b"Traceback" not in errors or b"Exception ignored" in errors
    assert b"InvalidStateError" not in errors
    assert out == b""
    assert _until(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))


def _doubled(by, number):
    return by * number


def _killed(by, number):
    os.kill(os.getpid(), by)


def _fails(by, number):
    if number == 0:
        raise DevPolicyError("it cannot be done")
    time.sleep(by)


def test_workers_give_what_one_process_gives():
    assert parallel_map(_doubled, 3, range(20), jobs=2) == [3 * number for number in range(20)]


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(DevPolicyError, match="was ended from outside"):
        parallel_map(_killed, signal.SIGKILL, range(4), jobs=2)


def test_a_worker_that_fails_ends_the_others():
    begun = time.monotonic()
    with pytest.raises(DevPolicyError, match="cannot be done"):
        parallel_map(_fails, 600, range(4), jobs=2)
    assert time.monotonic() - begun < 300


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_no_worker_outlives_the_command_however_it_was_started(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, time\nfrom devpolicy._core.review.parallel_map import parallel_map\n"
        "def work(shared, thing):\n    print('begun', flush=True)\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{method}')\n    parallel_map(work, None, range(4), jobs=2)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate(timeout=60)


# What is written.

SLOW = (
    "import os, sys, time\n"
    "def slow(_):\n    print('now', flush=True)\n    time.sleep(600)\n"
    "os.fsync = slow\n"
    "from devpolicy._core.cli import main\nmain()\n"
)


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_leaves_no_temporary_file(tmp_path, ending):
    ending = signal.Signals[ending]
    old = tmp_path / "x.json"
    old.write_text("old")
    arguments = [*PLAN[3:], "--format", "json", "--output", str(old)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],
    )
    assert process.stdout
    assert process.stdout.readline() == b"now\n"
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(ending)
    process.communicate(timeout=60)
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
    assert old.read_text() == "old"


def test_a_name_of_full_length_can_be_written(tmp_path):
    assert invoke(*PLAN[3:], "--output", str(tmp_path / ("x" * 255))).status == 0


def test_a_file_keeps_its_permissions(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("")
    old.chmod(0o600)
    for one in (old, new):
        assert invoke(*PLAN[3:], "--output", str(one)).status == 0
    mask = os.umask(0)
    os.umask(mask)
    assert (old.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o600, 0o666 & ~mask)


def _shell(script: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script.replace("PLAN", " ".join(PLAN))], capture_output=True, text=True, timeout=300, **more
    )


@pytest.mark.parametrize(
    "script",
    ["PLAN --output /dev/stdout | cat", "PLAN --output >(cat)", "PLAN --output /dev/fd/3 3>&1 | cat", "PLAN | cat"],
)
def test_a_pipe_can_be_written_to(script):
    shown = _shell(f"set -o pipefail; {script}; wait $!" if ">(" in script else f"set -o pipefail; {script}")
    assert "digest" in shown.stdout, shown.stderr
    assert (shown.returncode, shown.stderr) == (0, "")


def test_a_file_that_the_shell_appends_to_is_appended_to(tmp_path):
    file = tmp_path / "log"
    file.write_text("before\n")
    assert _shell(f"PLAN --output /dev/stdout >> {file}").returncode == 0
    assert file.read_text().startswith("before\npolicy")


def test_a_pipe_whose_reader_went_away_is_no_error():
    assert _shell("PLAN --output /dev/stdout | true; echo ${PIPESTATUS[0]}").stdout == "0\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["PLAN", "PLAN --format json", "PLAN --output out", "PLAN --help"])
def test_a_stream_that_is_closed_changes_nothing_of_a_success(closed, arguments, tmp_path):
    done = _shell(f"{arguments} {closed}", cwd=tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    if "--output" in arguments:
        assert "digest" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_stream_that_is_closed_changes_nothing_of_a_failure(closed):
    assert _shell(f"{' '.join(COMMAND)} plan nothing-like-it {closed}").returncode == 2
    assert _shell(f"PLAN --set prefer=xpu {closed}").returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_cannot_be_told_is_no_failure():
    assert _shell("PLAN --set split=never --set 'offload.none=cpu' 2>/dev/full").returncode == 0
    assert _shell("PLAN >/dev/full 2>/dev/full").returncode == 2


# What is read is not overwritten.


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text('prefer = ["cuda", "cpu"]\n')
    (tmp_path / "p.toml").write_text('extends = "base.toml"\n[component.a]\nmodel = "m.toml"\n')
    assert invoke("model", "capture", "gpt2", "--output", "m.toml").status == 0
    (tmp_path / "h.toml").write_text('memory = "64 GiB"\n')
    (tmp_path / "link.toml").symlink_to("p.toml")
    os.link("base.toml", "hard.toml")
    return tmp_path


@pytest.mark.parametrize("name", ["p.toml", "base.toml", "m.toml", "h.toml", "link.toml", "hard.toml", "./x/../p.toml"])
def test_a_plan_overwrites_nothing_that_it_reads(inputs, name):
    (inputs / "x").mkdir()
    before = (inputs / name).read_bytes()
    done = invoke("plan", "p.toml", "--host", "h.toml", "--output", name)
    assert done.status == 2
    assert "is read by this command: it is not overwritten" in done.stderr
    assert (inputs / name).read_bytes() == before


def test_a_lock_that_is_compared_is_not_overwritten(inputs):
    plan = ("plan", "p.toml", "--host", "h.toml", "--output", "lock.json")
    assert invoke(*plan, "--format", "json").status == 0
    assert invoke(*plan, "--locked", "lock.json").status == 2
    assert invoke(*plan, "--format", "json").status == 0


def test_a_model_that_is_captured_is_not_overwritten(inputs):
    assert invoke("model", "capture", "m.toml", "--output", "m.toml").status == 2
    assert invoke("model", "capture", "m.toml", "--output", "other.toml").status == 0
