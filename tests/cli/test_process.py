"""The command line as a process: what only a real one shows."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.harness import shell

ROOT = Path(__file__).parents[2]
PLAN = ("plan", "policy/offload-lm-head.toml", "--model", "llama-3.1-70b", "--host", "4x80gb")
COMMAND = [sys.executable, "-m", "devpolicy"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and terminals of POSIX")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (PLAN, 0),
        (("check", "policy/offload-lm-head.toml", "--model", "bert-base", "--strict"), 1),
        (("check", "tests/cases/bad/all-at-once.toml"), 2),
        ((*PLAN[:-1], "macbook-m3-36gb"), 3),
        (("--version",), 0),
        (("--help",), 0),
    ],
)
def test_the_exit_status_reaches_the_shell(arguments, status):
    result = shell(*arguments)
    assert result.status == status
    assert "Traceback" not in result.stderr


def test_the_installed_command_is_the_same():
    script = Path(sys.executable).with_name("devpolicy")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = subprocess.run([script, "explain", "DP301"], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == shell("explain", "DP301").stdout


def test_a_plan_is_the_same_in_every_process():
    assert shell(*PLAN, "--format", "json", PYTHONHASHSEED="1") == shell(*PLAN, "--format", "json", PYTHONHASHSEED="2")


def test_nothing_heavy_is_imported_for_a_plan():
    code = "import sys\ntry: import devpolicy.__main__\nfinally: print(*sorted(sys.modules), file=sys.stderr)\n"
    done = subprocess.run([sys.executable, "-c", code, *PLAN], capture_output=True, text=True, timeout=300, check=True)
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "rich",
        "hypothesis",
        "psutil",
        "safetensors",
        "devpolicy._core.host.probe",
    }
    assert heavy & set(done.stderr.split()) == set()
    assert "llama-3.1-70b" in done.stdout


def test_an_output_that_knows_only_ascii_gets_a_picture_in_ascii():
    result = shell(*PLAN, PYTHONIOENCODING="ascii")
    assert result.status == 0
    assert "|################################kas-    |" in result.stdout


def test_a_name_that_the_output_cannot_hold_is_escaped(tmp_path):
    policy = tmp_path / "caf\u00e9.toml"
    policy.write_text('prefer = "gp\u00fc"\n', encoding="utf-8")
    result = shell("check", str(policy), PYTHONIOENCODING="ascii")
    assert result.status == 2
    assert "gp\\xfc" in result.stdout


@posix
def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(60) == 0


@posix
def test_an_interrupt_leaves_no_traceback():
    waits = "lambda *_, **__: (print('reading', flush=True), time.sleep(300))"
    code = f"import sys, time, devpolicy; devpolicy.Policy.load = {waits}; import devpolicy.__main__"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "check", "policy.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell starts in the background ignores interrupts, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"reading\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, out, errors.strip()) == (130, b"", b"")


@posix
@pytest.mark.parametrize(
    "arguments", [("host", "list"), ("host", "list", "--format", "json"), ("check", "cpu-only", "--format", "sarif")]
)
def test_a_full_disk_is_told(arguments):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot write the output: ")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Run a command with a terminal of 80 columns for both outputs, and return what it shows."""
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "COLORTERM")}
    environ = {**inherited, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environ)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65536):
            shown += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(controller)
    process.wait(60)
    return shown.decode().replace("\r\n", "\n")


@posix
def test_a_terminal_gets_colours_and_the_same_text():
    import re

    shown = on_a_terminal(*PLAN)
    assert "\x1b[32m\u2588" in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == shell(*PLAN).stdout


@posix
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_can_refuse_colours(environment):
    assert "\x1b" not in on_a_terminal("host", "list", **environment)


@posix
def test_errors_on_a_terminal_are_red_with_help_in_cyan():
    shown = on_a_terminal(*PLAN[:-1], "macbook-m3-36gb")
    assert "\x1b[1;31merror[DP301]\x1b[0m" in shown
    assert "\x1b[36mhelp\x1b[0m" in shown
    assert "devpolicy explain DP301" in shown


@posix
def test_reading_a_checkpoint_is_shown_on_a_terminal_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt").mkdir()
    assert "reading ./ckpt" in on_a_terminal("model", "show", "./ckpt")
    assert "reading ./ckpt" not in shell("model", "show", "./ckpt").stderr


def test_colours_can_be_asked_for_and_refused():
    assert "\x1b[" in shell("explain", "DP301", "--color", "always", NO_COLOR="1").stdout
    assert "\x1b[" not in shell("explain", "DP301", "--color=never").stdout


def test_a_model_of_transformers_is_planned_from_its_config(tmp_path):
    pytest.importorskip("transformers")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 64, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = str(tmp_path / "config.json")
    result = shell("plan", "cpu-only", "--model", model, "--host", "cpu-only", "--to", "hf", "--format", "json")
    assert result.stderr == ""
    expected = {"device_map": {"": "cpu"}, "dtype": "float32", "attn_implementation": "sdpa"}
    assert json.loads(result.stdout) == expected
