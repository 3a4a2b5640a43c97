"""The step that a command recommends at its end, on a terminal: it is one, and it works."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys

import pytest
from tests.cli.harness import invoke

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a terminal of its own needs a POSIX system")

MODEL = ("--model", "llama-3.1-8b", "--host", "2x24gb")
COMMANDS = {
    "check": ("check", "offload-lm-head"),
    "check of a policy without tests": ("check", "own.toml"),
    "show": ("show", "offload-lm-head"),
    "fit": ("fit", "prefer-accelerator", *MODEL),
    "fit of several": ("fit", "prefer-accelerator", "--model", "gpt2", "--model", "qwen3-*", "--host", "1x24gb"),
    "resolve": ("resolve", "offload-lm-head", *MODEL),
    "resolve a component": ("resolve", "rag-pipeline", "--component", "ranker", "--host", "1x24gb"),
    "why": ("why", "offload-lm-head", "lm_head", *MODEL),
    "test": ("test", "cpu-only"),
    "test with coverage": ("test", "cpu-only", "--coverage"),
    "failed test": ("test", "failing.toml"),
    "diff": ("diff", "cpu-only", "own.toml", "--model", "gpt2"),
    "verify": ("verify", "cpu-only", "-p", "within_budget", "--model", "gpt2"),
    "host list": ("host", "list"),
    "host show": ("host", "show", "faulty/zero-devices"),
    "host capture": ("host", "capture", "--output", "here.toml"),
    "model list": ("model", "list"),
    "model show": ("model", "show", "gpt2"),
    "model capture": ("model", "capture", "gpt2", "--output", "model.toml"),
    "fleet list": ("fleet", "list"),
    "fleet show": ("fleet", "show", "laptop-and-server"),
    "fleet as TOML": ("fleet", "show", "laptop-and-server", "--toml"),
    "plan of a fleet": ("plan", "rag-pipeline", "--fleet", "4-workstations"),
    "plan of a model on a fleet": ("plan", "prefer-accelerator", "--model", "a=gpt2", "--fleet", "4-workstations"),
    "fit on a fleet": ("fit", "prefer-accelerator", "--model", "gpt2", "--fleet", "4-workstations"),
    "why on a fleet": ("why", "offload-lm-head", "lm_head", "--model", "llama-3.1-8b", "--fleet", "4-workstations"),
    "run": ("run", "offload-lm-head", *MODEL, "--print", "--", "python", "serve.py"),
    "schema": ("schema",),
    "simulator info": ("simulator", "info"),
    "targets": ("targets",),
    "explain": ("explain", "DP301"),
}
SILENT = {"resolve a component", "fleet as TOML"}
"""Nothing is known that would work, or what is printed is a file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("next")
    (here / "own.toml").write_text('prefer = ["cuda", "cpu"]\n', "utf-8")
    test = '[[test]]\nname = "x"\nhost = "2x24gb"\nexpect = "cpu"\n'
    (here / "failing.toml").write_text(f'prefer = "cuda"\n{test}', "utf-8")
    return here


def on_terminal(*arguments: str) -> str:
    """Return what a command shows on a terminal."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["NO_COLOR"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "devpolicy", *arguments])
    seen = b""
    try:
        while part := os.read(terminal, 1 << 16):
            seen += part
    except OSError:
        pass  # the other end is closed
    os.waitpid(pid, 0)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_recommended_works(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    shown = on_terminal(*COMMANDS[name])
    steps = re.findall(r"^next +`devpolicy (.*?)`", re.sub(r"\n {6,}", " ", shown), re.MULTILINE)
    assert len(steps) == (name not in SILENT), shown
    for step in steps:
        run = invoke(*shlex.split(step))
        assert run.status == 0, (step, run)


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
