"""What is written to be pasted into a shell runs nothing of a policy, a host or a model, and steers no terminal."""

import json
import subprocess
import sys

import pytest
from tests.cli.harness import invoke

NAMES = [
    "x\ntouch PWNED\n#",
    "y`touch PWNED`",
    "$(touch PWNED)",
    "a\r\ntouch PWNED",
    "'; touch PWNED; '",
    "\u2028touch",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell is needed")


def quoted(text):
    return json.dumps(text)


@needs_shell
@pytest.mark.parametrize("name", NAMES)
def test_a_component_name_is_a_comment_for_the_shell(name, folder):
    (folder / "p.toml").write_text(f'prefer = ["cuda"]\n[component.{quoted(name)}]\nneeds = "1 GiB"\n')
    written = invoke("plan", "p.toml", "--host", "2x24gb", "--to", "env")
    assert written.status == 0, written.stderr
    assert [line for line in written.stdout.splitlines() if line[:1] not in ("#", "e")] == []
    subprocess.run(["sh", "-c", written.stdout], check=True)
    assert not (folder / "PWNED").exists()


@needs_shell
@pytest.mark.parametrize("uuid", ["GPU-1'; touch PWNED #", "GPU-$(touch PWNED)", "`touch PWNED`"])
def test_a_uuid_is_one_word_for_the_shell(uuid, folder):
    (folder / "h.toml").write_text(f'[[accelerator]]\ntype = "cuda"\nmemory = "24 GiB"\nuuid = {quoted(uuid)}\n')
    (folder / "h.toml").write_text('memory = "64 GiB"\n' + (folder / "h.toml").read_text())
    written = invoke("plan", "prefer-accelerator", "--model", "gpt2", "--host", "h.toml", "--to", "env")
    assert written.status == 0, written.stderr
    done = subprocess.run(
        ["sh", "-c", written.stdout + 'printf "%s" "$CUDA_VISIBLE_DEVICES"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == uuid
    assert not (folder / "PWNED").exists()


@pytest.mark.parametrize("command", [["plan", "--to", "env"], ["run", "--print"]])
def test_an_escape_sequence_is_not_written_for_the_shell(command, folder):
    (folder / "h.toml").write_text(
        'memory = "64 GiB"\n[[accelerator]]\ntype = "cuda"\nmemory = "24 GiB"\nuuid = "GPU-\\u001b[2J"\n'
    )
    arguments = [command[0], "prefer-accelerator", "--model", "gpt2", "--host", "h.toml", *command[1:]]
    written = invoke(*arguments, *(["--", "true"] if command[0] == "run" else []))
    assert (written.status, written.stdout) == (2, "")
    assert "holds characters that are not seen" in written.stderr
    assert "\x1b" not in written.stderr


def test_a_tensor_name_of_a_gguf_file_steers_no_terminal(folder):
    from tests.test_models_gguf import dense, gguf

    gguf(folder / "m.gguf", dense() | {"evil\x1b[2J.weight": ("float32", (64,))})
    (folder / "p.toml").write_text('prefer = "cuda"\noverflow = "cpu"\n[[rule]]\nmatch = "evil*"\nprefer = "cpu"\n')
    written = invoke(
        "plan", "p.toml", "--model", "m.gguf", "--host", "1x24gb", "--target", "llama.cpp", "--to", "llama.cpp"
    )
    assert "\x1b" not in written.stdout + written.stderr
