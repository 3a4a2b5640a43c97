"""Text from files is shown as text, wherever a person sees it."""

import io
import json
import re
import struct
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devpolicy._core.cli.output import Output, as_lines, plain
from devpolicy._core.text import visible, visible_line
from devpolicy.errors import DevPolicyError, Diagnostic, Place
from tests.cli.harness import invoke, together

HOSTILE = "\x1b[2J\x1b]0;pwned\x07\n::error file=x::pwned\r\u202e##[error]\u2028\x9b"
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def is_text(shown: str) -> bool:
    """Whether nothing of what is shown steers a terminal or a CI log."""
    lines = shown.split("\n")
    return not any(
        line.lstrip().startswith("::") or "##[" in line or any(unicodedata.category(sign) in UNSEEN for sign in line)
        for line in lines
    )


@given(st.text())
@example(HOSTILE)
def test_a_line_that_is_shown_holds_nothing_unseen(text):
    assert is_text(visible_line(text))
    assert visible_line(visible_line(text)) == visible_line(text)


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" ")))
def test_what_is_seen_is_left_as_it_is(text):
    assert visible(text) == text


@given(st.lists(st.tuples(st.text(), st.sampled_from(["", "strong"]))))
@example([("#", ""), ("#[error]", "")])
@example([("  ", ""), (":", ""), (":error::x", "")])
def test_a_line_of_spans_is_text_too(spans):
    shown = "\n".join(map(plain, as_lines([spans])))
    assert "\n" not in shown
    assert is_text(shown)


@given(st.text(), st.text(), st.text(), st.text(), st.text())
@example(*[HOSTILE] * 5)
def test_a_finding_shows_text(message, line, label, note, hint):
    finding = Diagnostic("DP104", message, Place(f"{label}.toml", 1, 1, 3, line), label, (note,), hint)
    assert is_text(finding.render())
    assert is_text(str(DevPolicyError(finding)))
    assert is_text(str(DevPolicyError(message)))
    stream = io.StringIO()
    Output(stream).print(finding.render())
    assert stream.getvalue() == f"{finding.render()}\n"


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder with a policy, a host, a test and a checkpoint whose every name is hostile."""
    monkeypatch.chdir(tmp_path)
    name = json.dumps(HOSTILE)
    rules = f"[[rule]]\nname = {name}\nclass = '*Head'\nreason = {name}\noffload = 'cpu'\n"
    (tmp_path / "p.toml").write_text(
        f"prefer = ['cuda', 'cpu']\n{rules}[component.{name}]\nneeds = '1 GiB'\n[profile.{name}]\nsplit = 'never'\n"
    )
    (tmp_path / "bad.toml").write_text(f"prefer = {name}\n{name} = 1\n")
    (tmp_path / "p.test.toml").write_text(
        f"policy = 'p.toml'\n[[test]]\nname = {name}\nhost = '1x24gb'\nmodel = 'gpt2'\nexpect = {{ lm_head = 'mps' }}\n"
    )
    (tmp_path / "h.toml").write_text(
        f"memory = '8 GiB'\nname = {name}\ndescription = {name}\n"
        f"[[accelerator]]\ntype = 'cuda'\nmemory = '8 GiB'\nname = {name}\n[faults]\nxpu = {name}\n"
    )
    folder = tmp_path / "a\x1b[31m\n::error::x\u202e"
    folder.mkdir()
    tensor = {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}
    header = json.dumps(
        {f"{HOSTILE.replace('.', '')}.weight": tensor, "::error::x.weight": tensor | {"data_offsets": [8, 16]}}
    )
    (folder / "config.json").write_text(json.dumps({"model_type": HOSTILE}))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(16))
    return folder.name


COMMANDS = [
    ["check", "p.toml"],
    ["check", "bad.toml"],
    ["check", HOSTILE],
    ["plan", "p.toml", "--host", "h.toml"],
    ["plan", "p.toml", "--host", "h.toml", "--component", HOSTILE],
    ["plan", "prefer-accelerator", "--model", "FOLDER", "--host", "h.toml"],
    ["plan", "prefer-accelerator", "--model", "FOLDER", "--host", "h.toml", "--to", "hf"],
    ["plan", "prefer-accelerator", "--model", HOSTILE],
    ["why", "prefer-accelerator", HOSTILE, "--model", "FOLDER", "--host", "h.toml"],
    ["resolve", "p.toml", "--host", "h.toml"],
    ["show", "p.toml", "--host", "h.toml"],
    ["test", "p.test.toml"],
    ["host", "show", "h.toml"],
    ["model", "show", "FOLDER"],
    ["verify", "p.toml", "--model", "gpt2", "--memory", "8 GiB", "-p", "never_on:cpu"],
    ["diff", "p.toml", "cpu-only", "--hosts", "h.toml", "--models", "gpt2"],
    ["explain", HOSTILE],
    [HOSTILE],
    ["plan", f"--{HOSTILE}"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: ascii(" ".join(arguments))[:40])
def test_every_command_shows_text(hostile, arguments):
    shown, status = together(*(hostile if one == "FOLDER" else one for one in arguments))
    assert shown
    assert is_text(shown), [line for line in shown.split("\n") if not is_text(line)]
    assert status in (0, 1, 2, 3)


def test_a_file_that_is_written_for_people_holds_text(hostile, tmp_path):
    assert invoke("plan", "p.toml", "--host", "h.toml", "--output", "out.txt").status == 0
    assert is_text((tmp_path / "out.txt").read_text())


def test_colours_are_not_taken_for_a_command(hostile):
    shown = invoke("model", "show", hostile, "--color", "always").stdout
    assert is_text(re.sub(r"\x1b\[[0-9;]*m", "", shown))
