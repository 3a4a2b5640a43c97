"""The child process that drivers are asked in: whatever a library does there, the probe has an answer in its time."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from devpolicy import Host
from devpolicy._core import child_process
from devpolicy._core.child_process import MARK, MOST_PRINTED, ChildError, ChildTimeout, ask
from devpolicy._core.host.probe import devices, probe, system, torch_probe
from devpolicy._core.host.probe.torch_child import questions

LIMIT = 2.0
# A call may take its limit and the second in which a process is given the time to die, on a machine that is busy.
AT_MOST = LIMIT + 20

NVML = """
    import os, sys, time
    NVML_ERROR_NOT_SUPPORTED = 3
    class Memory: total, free = 24 << 30, 23 << 30
    def nvmlInit(): {init}
    def nvmlShutdown(): pass
    def nvmlDeviceGetCount(): return {count}
    def nvmlSystemGetDriverVersion(): return "580"
    def nvmlDeviceGetHandleByIndex(index): return index
    def nvmlDeviceGetName(gpu): return b"card"
    def nvmlDeviceGetUUID(gpu): return f"GPU-{{gpu}}"
    def nvmlDeviceGetCudaComputeCapability(gpu): return 8, 9
    def nvmlDeviceGetMemoryInfo(gpu): return Memory
    def nvmlDeviceGetMigMode(gpu): raise RuntimeError
"""


@pytest.fixture
def nvml(tmp_path, monkeypatch):
    """Put an `nvidia-ml-py` of a source into the path, on a machine that has a sign of NVIDIA and no torch."""
    monkeypatch.setattr("devpolicy._core.host.probe.vendors", lambda *_: frozenset({"nvidia"}))
    monkeypatch.setattr(system, "torch_build", lambda: None)
    monkeypatch.syspath_prepend(tmp_path)

    def install(source="", init="pass", count=2):
        text = textwrap.dedent(source) if source else textwrap.dedent(NVML).format(init=init, count=count)
        (tmp_path / "pynvml.py").write_text(text)
        info = tmp_path / "nvidia_ml_py-99.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-ml-py\nVersion: 99\n")

    return install


def test_nvml_is_asked_in_a_process_of_its_own(nvml, tmp_path):
    nvml(init=f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))")
    host = probe()
    assert [(one.name, one.memory >> 30, one.capability) for one in host.accelerators] == [("card", 24, (8, 9))] * 2
    assert host.version("driver") == "580"
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    assert "pynvml" not in sys.modules or not str(sys.modules["pynvml"].__file__).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("raise RuntimeError('no')", "no"),
        ("raise SystemExit('no')", "no"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(:", "invalid syntax"),
        ("import os; os._exit(3)", "status 3"),
        ("import time; time.sleep(60)", "no answer within"),
        ("import sys\nwhile True: sys.stdout.write('x' * 65536)", "it printed more than 1 MiB"),
        ("import sys\nwhile True: sys.stderr.write('x' * 65536)", "it printed more than 1 MiB"),
        (f"print({MARK!r} + '[' * 200_000, flush=True)\nimport os; os._exit(0)", "status 0"),
        (f"print({MARK!r} + '9' * 6000, flush=True)\nimport os; os._exit(0)", "status 0"),
    ],
)
def test_an_import_of_nvml_that_does_anything_at_all_is_a_fault(nvml, source, fault):
    nvml(source)
    start = time.monotonic()
    host = probe(timeout=LIMIT)
    assert time.monotonic() - start < AT_MOST
    assert fault in host.fault("nvml")
    assert not host.accelerators


@pytest.mark.parametrize(
    ("init", "fault"),
    [
        ("raise SystemExit('no')", "no"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("time.sleep(60)", "no answer within"),
        ("os._exit(0)", "status 0"),
        pytest.param(
            "os.kill(os.getpid(), 11)",
            "it crashed with SIGSEGV",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
        ),
    ],
)
def test_a_driver_that_does_anything_at_all_is_a_fault(nvml, init, fault):
    nvml(init=init)
    assert fault in probe(timeout=LIMIT).fault("nvml")


def test_two_hundred_gpus_are_a_host(nvml):
    nvml(count=200)
    host = probe()
    assert len(host.accelerators) == devices.MOST_DEVICES
    assert "200 devices" in host.fault("nvml")
    assert Host.parse(host.to_toml()) == host


def test_a_simulated_host_is_seen_where_nvml_is_asked_in_a_child(nvml, tmp_path):
    # The simulation replaces the probe as a whole, so no child asks this machine's driver.
    from devpolicy.testing import simulate_host

    nvml(init=f"open({str(tmp_path / 'asked')!r}, 'w')")
    with simulate_host("2x24gb"):
        assert Host.probe() == Host.load("2x24gb")
    assert not (tmp_path / "asked").exists()


def python(script):
    return [sys.executable, "-c", textwrap.dedent(script)]


def test_a_child_that_cannot_be_killed_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    start = time.monotonic()
    with pytest.raises(ChildTimeout):
        ask(python("import time; time.sleep(30)"), 0.5)
    assert time.monotonic() - start < 20
    monkeypatch.undo()
    (left,) = child_process._left
    left.kill()
    left.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="starts a shell")
def test_what_a_child_started_is_not_waited_for():
    start = time.monotonic()
    told = ask(["sh", "-c", f"sleep 30 & echo '{MARK}{{\"a\": 1}}'"], 25)
    assert told == {"a": 1}
    assert time.monotonic() - start < 20


def test_what_is_printed_before_an_answer_has_a_limit():
    script = f"print('x' * {MOST_PRINTED - 100}); print('{MARK}{{}}')"
    assert ask(python(script), 30) == {}


@pytest.mark.parametrize("answer", ["", "1", "[]", "null", '"x"', "{", '{"a":' * 20_000])
def test_what_is_no_answer_is_a_reason(answer):
    with pytest.raises(ChildError, match="its process ended with status 0"):
        ask(python(f"print('{MARK}' + {answer!r})"), 30)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_child_whose_parent_is_gone_ends_by_itself(tmp_path):
    (tmp_path / "pynvml.py").write_text("import time; time.sleep(60)")
    command = questions("nvml", 0.5)
    # As the command line is, but for the time that it has beside the limit.
    command[command.index("nvml") - 1] = "0.5"
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stdout == b""


def test_both_sides_mark_an_answer_alike():
    assert torch_probe.MARK == MARK  # the script runs alone, and imports nothing of ours
