"""The step that a command recommends at its end, on a terminal: it is one, and it works."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from tests.cli.harness import Result, invoke

from devpolicy._core.cli.app import app
from devpolicy._core.playground.site import RUNTIME

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a terminal of its own needs a POSIX system")

MODEL = ("--model", "llama-3.1-8b", "--host", "2x24gb")
REPORT = ("report", "prefer-accelerator", "--models", "gpt2")
COMMANDS = {
    "init": ("init", "one", "--model", "gpt2", "--host", "1x24*", "--host", "mac-16gb", "--ci", "github"),
    "init of a host file": ("init", "two", "--model", "gpt2", "--host", "small.toml", "--ci", "github"),
    "init of this machine": ("init", "three", "--model", "gpt2", "--host", "-", "--ci", "github"),
    "check": ("check", "offload-lm-head"),
    "check of a policy without tests": ("check", "own.toml"),
    "show": ("show", "offload-lm-head"),
    "show all": ("show",),
    "plan": ("plan", "offload-lm-head", *MODEL),
    "plan of components": ("plan", "rag-pipeline", "--host", "2x24gb"),
    "plan of components for several consumers": ("plan", "mixed.toml", "--host", "2x24gb"),
    "plan of a fleet": ("plan", "rag-pipeline", "--fleet", "4-workstations"),
    "plan of a model on a fleet": ("plan", "prefer-accelerator", "--model", "a=gpt2", "--fleet", "4-workstations"),
    "fit": ("fit", "prefer-accelerator", *MODEL),
    "fit of several": ("fit", "prefer-accelerator", "--model", "gpt2", "--model", "qwen3-*", "--host", "1x24gb"),
    "fit on a fleet": ("fit", "prefer-accelerator", "--model", "gpt2", "--fleet", "4-workstations"),
    "fit with a value of its own": ("fit", "cuda.toml", "--model", "gpt2", "--host", "cpu-only", "--set", "prefer=cpu"),
    "report": (*REPORT, "--hosts", "1x24gb", "-o", "hosts.html"),
    "report of a fleet": (*REPORT, "--fleet", "4-workstations", "-o", "fleet.html"),
    "dry-run": ("dry-run", "prefer-accelerator", "--model", "gpt2", "--host", "1x24gb", "--timeout", "250"),
    "resolve": ("resolve", "offload-lm-head", *MODEL),
    "resolve a component": ("resolve", "rag-pipeline", "--component", "ranker", "--host", "1x24gb"),
    "why": ("why", "offload-lm-head", "lm_head", *MODEL),
    "why on a fleet": ("why", "offload-lm-head", "lm_head", "--model", "llama-3.1-8b", "--fleet", "4-workstations"),
    "run": ("run", "offload-lm-head", *MODEL, "--print", "--", "python", "serve.py"),
    "test": ("test", "cpu-only"),
    "test with coverage": ("test", "cpu-only", "--coverage"),
    "test with a value of its own": ("test", "failing.toml", "--set", "prefer=cpu"),
    "test of some": ("test", "failing.toml", "--run", "right"),
    "failed test": ("test", "failing.toml"),
    "diff": ("diff", "cpu-only", "own.toml", "--model", "gpt2"),
    "verify": ("verify", "cpu-only", "-p", "within_budget", "--model", "gpt2"),
    "host list": ("host", "list"),
    "host show": ("host", "show", "faulty/zero-devices"),
    "host show of one that holds nothing": ("host", "show", "tiny.toml"),
    "host capture": ("host", "capture", "--output", "here.toml"),
    "host measure": ("host", "measure", "--output", "measured.toml"),
    "model list": ("model", "list"),
    "model show": ("model", "show", "gpt2"),
    "model capture": ("model", "capture", "gpt2", "--output", "model.toml"),
    "fleet list": ("fleet", "list"),
    "fleet show": ("fleet", "show", "laptop-and-server"),
    "fleet show of one that holds nothing": ("fleet", "show", "nothing"),
    "fleet as TOML": ("fleet", "show", "laptop-and-server", "--toml"),
    "playground": ("playground", "--pyodide", "pyodide", "--output", "site of mine"),
    "schema": ("schema",),
    "simulator build": ("simulator", "build", "--if-possible"),
    "simulator info": ("simulator", "info"),
    "targets": ("targets",),
    "doctor": ("doctor", "psutil"),
    "explain": ("explain", "DP301"),
}
SILENT = {"resolve a component", "fleet as TOML"}
"""Nothing is known that would work, or what is printed is a file."""
FILES = {
    "own.toml": 'prefer = ["cuda", "cpu"]\n',
    "cuda.toml": 'prefer = "cuda"\n',
    "mixed.toml": 'prefer = "cuda"\n'
    + "".join(f'[component.{name}]\nmodel = "gpt2"\ntarget = "{name}"\n' for name in ("torch", "vllm")),
    "failing.toml": 'prefer = "cuda"\n'
    + "".join(f'[[test]]\nname = "{name}"\nhost = "2x24gb"\nexpect = "{place}"\n' for name, place in
              (("wrong", "cpu"), ("right", "cuda:0"))).replace('"right"\nhost = "2x24gb"', '"right"\nhost = "1x24gb"'),
    "small.toml": 'memory = "16 GiB"\n',
    "tiny.toml": 'memory = "64 MiB"\n',
    "nothing/node.toml": 'memory = "64 MiB"\n',
    **{f"pyodide/{name}": "x" for name in RUNTIME},
}  # fmt: skip
BEFORE = {
    "host measure": "from devpolicy._core.host.probe import measure as m\n"
    "m._FILE = m._COPIED = 1 << 20\nm.find_spec = lambda name: None\n"
}
"""What makes a command short."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("next")
    for name, text in FILES.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text, "utf-8")
    return here


def on_terminal(*arguments: str, before: str = "") -> str:
    """Return what a command shows on a terminal."""
    import pty

    program = f"{before}from devpolicy._core.cli import main\nmain()"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["NO_COLOR"] = "1"
        os.execv(sys.executable, [sys.executable, "-c", program, *arguments])
    seen = b""
    try:
        while part := os.read(terminal, 1 << 16):
            seen += part
    except OSError:
        pass  # the other end is closed
    os.waitpid(pid, 0)
    return seen.decode().replace("\r\n", "\n")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of all commands that are no groups."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from leaves(found, (*path, name))
    else:
        yield " ".join(path)


def tried(step: str, given: tuple[str, ...]) -> None:
    """Take a recommended step, whichever form it is written in."""
    if step.startswith("open "):
        assert (
            Path(step.removeprefix("open ").removesuffix(" in a browser")).read_bytes().startswith(b"<!doctype html>")
        )
        return
    (quoted,) = re.findall("`(.*?)`", step)
    words = shlex.split(quoted)
    if words[0] == "python":
        assert (Path(words[-1]) / "index.html").is_file()
        return
    arguments = words[1:] if words[0] == "devpolicy" else [*given, *words]
    run = done_once(*arguments)
    assert run.status == 0, (arguments, run)


@cache
def done_once(*arguments: str) -> Result:
    """Run a command; several cases recommend the same one."""
    return invoke(*arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_recommended_works(name, folder, monkeypatch):
    given = COMMANDS[name]
    if given[0] == "dry-run":
        pytest.importorskip("transformers")
        from devpolicy._core.simulator import simulator, unfit

        if unfit() is not None or not simulator().built:
            pytest.skip("the simulator is not built")
    monkeypatch.chdir(folder)
    shown = re.sub(r"\n {4,}(?=\S)", " ", on_terminal(*given, before=BEFORE.get(name, "")))
    steps = re.findall(r"^next +(.*)$", shown, re.MULTILINE)
    assert len(steps) == (name not in SILENT), shown
    for step in steps:
        tried(step, given)


def test_every_command_has_a_case():
    begun = {" ".join(words[:length]) for words in COMMANDS.values() for length in (1, 2)}
    assert set(leaves(app)) - begun == set()


def test_a_pipe_gets_no_step():
    assert "next" not in invoke("host", "list").stdout


def test_a_program_gets_no_step(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert "next" not in on_terminal("host", "list", "--format", "json")


LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 128, "head_dim": 16,
}  # fmt: skip
REFUSALS = {
    "no room": ("plan", "large.toml", "--model", "llama-3.1-70b", "--host", "1x24gb"),
    "no such device": ("plan", "large.toml", "--model", "gpt2", "--host", "cpu-only"),
    "a scheme that the host cannot make": ("plan", "fp8.toml", "--model", "llama-3.1-8b", "--host", "4x80gb"),
    "a scheme that converts nothing": ("plan", "fp8.toml", "--model", "gpt2", "--host", "h100"),
    "a scheme that another consumer makes": ("plan", "fp8.toml", *MODEL, "--to", "vllm"),
    "a stored scheme with a part elsewhere": ("plan", "kept.toml", "--model", "stored.json", "--host", "2x24gb"),
    "the same asked why": ("why", "kept.toml", "lm_head", "--model", "stored.json", "--host", "2x24gb"),
    "the same resolved": ("resolve", "kept.toml", "--model", "stored.json", "--host", "2x24gb"),
    "the same compared": ("diff", "kept.toml", "large.toml", "--model", "stored.json", "--host", "2x24gb"),
    "the same tested": ("test", "tested.toml"),
    "a module that is none": ("why", "large.toml", "no", "--model", "plain.json", "--host", "1x24gb"),
    "a module of a file": ("why", "large.toml", "no", "--model", "captured.toml", "--host", "1x24gb"),
    "a quantised dry run": ("dry-run", "nf4.toml", "--model", "gpt2", "--host", "1x24gb"),
    "several that do not fit": (
        "fit",
        "large.toml",
        "--model",
        "deepseek-v3",
        "--model",
        "kimi-k2",
        "--host",
        "1x24gb",
    ),
    "none that fits a fleet": ("plan", "large.toml", "--model", "deepseek-v3", "--fleet", "laptop-and-server"),
}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    here = tmp_path_factory.mktemp("refused")
    kept = 'prefer = "cuda"\noffload = { "model.layers.1" = "cpu" }\n'
    test = '[[test]]\nname = "x"\nmodel = "stored.json"\nhost = "2x24gb"\nexpect = { lm_head = "cuda" }\n'
    scheme = 'prefer = "cuda"\nloading.quantization = "{}"\n'
    for name, text in {
        "large": 'prefer = "cuda"\n', "kept": kept, "tested": kept + test, "fp8": scheme.format("fp8"),
        "nf4": scheme.format("nf4"),
    }.items():  # fmt: skip
        (here / f"{name}.toml").write_text(text, "utf-8")
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (here / "plain.json").write_text(json.dumps(LLAMA), "utf-8")
    (here / "stored.json").write_text(json.dumps({**LLAMA, "quantization_config": nf4}), "utf-8")
    module = '{ path = "one", class = "Linear", tensors = { weight = [8, 8] } }'
    (here / "captured.toml").write_text(f'name = "other"\nmodule = [{{ path = "", class = "Net" }}, {module}]', "utf-8")
    return here


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_recommends_works(name, refusing, monkeypatch):
    monkeypatch.chdir(refusing)
    run = invoke(*REFUSALS[name])
    assert run.status
    assert "unknown key" not in run.stderr
    said = re.sub(r"\n[ |=]{6,}", " ", run.stdout + run.stderr)
    for step in re.findall(r"`devpolicy ([^`]*)`", said):
        again = invoke(*shlex.split(step.replace("MODEL", "plain.json")))
        assert again.status == 0, (step, again)


def test_no_step_follows_a_plan_that_is_refused(refusing, monkeypatch):
    monkeypatch.chdir(refusing)
    assert "next" not in on_terminal(*REFUSALS["no room"])
