"""What comes in where: each door writes hostile files into the current folder and says which command reads them.

Owns the valid inputs that hostile ones are made of, and the arguments.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.attack import mutations as change

ROOT = Path(__file__).parents[2]
HOST = ("--host", "1x24gb")
EVIL = "open('PWNED', 'w').close()\nclass Evil: pass\n"
"""What a checkpoint brings along, and nobody may run."""


class Case(NamedTuple):
    """A command, and what it finds in its environment."""

    arguments: list[str]
    environment: dict[str, str] = {}  # noqa: RUF012 - never changed
    answer: tuple[str, Any] | None = None
    """A question to the Python API in place of a command: its name, and what is asked about."""


@cache
def _texts(*patterns: str) -> tuple[str, ...]:
    return tuple(
        path.read_text(encoding="utf-8", errors="replace")
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    )


def policy(random: Random) -> Case:
    """Policies: read by every command that takes one."""
    given = random.choice(_texts("policy/*.toml", "tests/cases/bad/*.toml"))
    Path("p.toml").write_bytes(change.lines(given, random))
    if random.random() < 0.2:
        Path("base.toml").write_bytes(b'extends = "p.toml"\n' + change.lines(given, random))
    return Case(
        random.choice(
            [
                ["check", "p.toml", "--format", random.choice(["human", "json", "github", "sarif"])],
                ["plan", "p.toml", "--model", "gpt2", *HOST],
                ["plan", "p.toml", *HOST, "--format", "json", "--output", "out.json"],
                ["resolve", "p.toml", *HOST],
                ["show", "p.toml", *HOST],
                ["why", "p.toml", "lm_head", "--model", "gpt2", *HOST],
                ["check", "p.toml", "--model", "bert-base"],
                [
                    "plan",
                    "p.toml",
                    "--model",
                    "gpt2",
                    *HOST,
                    "--set",
                    f"prefer={change.text(random)}".replace("\0", ""),
                ],
            ]
        )
    )


def host(random: Random) -> Case:
    """Host files."""
    given = random.choice(_texts("fixtures/hosts/*.toml", "fixtures/hosts/faulty/*.toml"))
    Path("h.toml").write_bytes(change.lines(given, random))
    plan = ["plan", "split-across-gpus", "--model", "gpt2", "--host", "h.toml"]
    return Case(
        random.choice(
            [["host", "show", "h.toml"], plan, ["diff", "cpu-only", "prefer-accelerator", "--hosts", "h.toml"]]
        )
    )


def tests(random: Random) -> Case:
    """Files of tests, and policies with tests."""
    given = random.choice([one for one in _texts("policy/*.toml") if "[[test]]" in one])
    Path("p.test.toml").write_bytes(change.lines(given, random))
    return Case(
        random.choice(
            [
                ["test", "p.test.toml", "--jobs", "1"],
                ["test", ".", "--jobs", "1", "--format", "junit"],
                ["check", "p.test.toml"],
            ]
        )
    )


def model_file(random: Random) -> Case:
    """Model files."""
    Path("m.toml").write_bytes(change.lines(random.choice(_texts("fixtures/models/[bg]*.toml")), random))
    return Case(
        random.choice(
            [["model", "show", "m.toml"], _plan("m.toml"), ["model", "capture", "m.toml", "--output", "o.toml"]]
        )
    )


CONFIGS: tuple[dict[str, Any], ...] = (
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 64, "n_head": 2,
     "vocab_size": 99},
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 99,
     "torch_dtype": "bfloat16"},
    {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 99},
    {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64,
     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 4,
     "vocab_size": 99},
    {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "num_layers": 2, "d_model": 64, "d_ff": 96,
     "num_heads": 4, "d_kv": 16, "vocab_size": 99},
)  # fmt: skip


def config(random: Random) -> Case:
    """Configurations, which Transformers builds a model of."""
    Path("evil.py").write_text(EVIL)
    hostile = {**random.choice([*CONFIGS, {"model_type": "align_text_model", "_name_or_path": "."}])}
    if random.random() < 0.3:
        hostile["auto_map"] = {"AutoModel": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    Path("config.json").write_bytes(change.as_json(change.tree(hostile, random)))
    return Case(random.choice([["model", "show", "config.json"], _plan("config.json"), _plan(".")]))


def _header(names: int = 3) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for at in range(names):
        header[f"transformer.h.{at}.mlp.c_fc.weight"] = {
            "dtype": "F16",
            "shape": [4, 8],
            "data_offsets": [at * 64, at * 64 + 64],
        }
    return header


def _shard(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def header(random: Random) -> Case:
    """Headers of safetensors files."""
    if random.random() < 0.5:
        Path("config.json").write_bytes(change.as_json(CONFIGS[0]))
    made = change.as_json(change.tree(_header(), random)) if random.random() < 0.6 else json.dumps(_header()).encode()
    length = random.choice([None, None, None, 0, 2**63, 2**64 - 1, len(made) + 10**9, 1])
    whole = _shard(made, bytes(192), length)
    Path("model.safetensors").write_bytes(change.raw(whole, random) if random.random() < 0.4 else whole)
    return Case(random.choice([["model", "show", "."], _plan(".")]))


def index(random: Random) -> Case:
    """Indexes of sharded checkpoints."""
    Path("a.safetensors").write_bytes(_shard(json.dumps(_header()).encode(), bytes(192)))
    names = [name for name in _header() if name != "__metadata__"]
    index = {"metadata": {"total_size": 192}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    Path("model.safetensors.index.json").write_bytes(change.as_json(change.tree(index, random)))
    if random.random() < 0.5:
        Path("config.json").write_bytes(change.as_json(CONFIGS[0]))
    return Case(random.choice([["model", "show", "."], _plan(".")]))


def gguf(random: Random) -> Case:
    """GGUF files, whole or not."""
    key = b"general.architecture"
    whole = (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 5) + b"llama"
    )
    name = b"token_embd.weight"
    whole += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 64, 32, 0, 0) + bytes(100)
    Path("m.gguf").write_bytes(change.raw(whole, random))
    return Case(random.choice([["model", "show", "m.gguf"], ["model", "show", "."], _plan("m.gguf")]))


def folder(random: Random) -> Case:
    """Folders of models whose files are no files, or others than they seem."""
    names = [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
        "adapter_config.json",
    ]
    for name in random.sample(names, random.randint(1, 3)):
        _odd_file(Path(name), random)
    Path("pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    return Case(random.choice([["model", "show", "."], _plan(".")]))


def _odd_file(path: Path, random: Random) -> None:
    kinds: list[Callable[[], object]] = [
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to(
            random.choice(["/dev/zero", "/dev/stdin", "/etc/passwd", "..", "/proc/self/mem", "/dev/null"])
        ),
        lambda: path.write_bytes(b""),
        lambda: (path.touch(), os.truncate(path, 1 << 36)),
        lambda: path.write_bytes(random.randbytes(3_000)),
        lambda: path.write_bytes(change.as_json(random.choice(CONFIGS))),
        lambda: path.write_bytes(b"[" * 200_000),
    ]
    random.choice(kinds)()


@cache
def _lock() -> Any:
    import devpolicy

    return devpolicy.plan("split-across-gpus", "gpt2", "2x24gb").to_dict()


def lock(random: Random) -> Case:
    """Locked plans."""
    if random.random() < 0.1:
        _odd_file(Path("l.json"), random)
    else:
        made = change.as_json(change.tree(_lock(), random))
        Path("l.json").write_bytes(change.raw(made, random) if random.random() < 0.2 else made)
    return Case(["plan", "split-across-gpus", "--model", "gpt2", "--host", "2x24gb", "--locked", "l.json"])


def pipeline(random: Random) -> Case:
    """Devices of a pipeline's YAML: what Haystack hands over after it was read."""
    saved = random.choice(
        [{"type": "single", "device": "cuda:0"}, {"type": "multiple", "device_map": {"a.b": "cuda:0", "": "cpu"}}]
    )
    return Case([], answer=("device", change.tree(saved, random)))


_VARIABLES = ("DEVPOLICY_PROFILE", "DEVPOLICY_POLICY", "CUDA_VISIBLE_DEVICES", "COLUMNS", "TERM", "NO_COLOR",
              "HF_HUB_CACHE", "HF_HOME", "LC_ALL", "LANG", "TORCH_DEVICE_BACKEND_AUTOLOAD",
              "ACCELERATE_TORCH_DEVICE", "_DEVPOLICY_COMPLETE", "COMP_WORDS", "MODE")  # fmt: skip


def environment(random: Random) -> Case:
    """Variables of the environment."""
    names = random.sample(_VARIABLES, random.randint(1, 4))
    values = {name: change.text(random).replace("\0", "").replace("\ud800", "\udcff") for name in names}
    Path("p.toml").write_text('prefer = ["cuda", "cpu"]\n[profile.a]\nwhen = { env.MODE = "x" }\nsplit = "never"\n')
    commands = [["plan", "p.toml", "--model", "gpt2", *HOST], ["show", "p.toml", *HOST], ["model", "show", "org/name"]]
    return Case(random.choice(commands), values)


def _plan(model: str) -> list[str]:
    return ["plan", "prefer-accelerator", "--model", model, *HOST]


DOORS: dict[str, Callable[[Random], Case]] = {
    "policy": policy,
    "host": host,
    "tests": tests,
    "model file": model_file,
    "config": config,
    "header": header,
    "index": index,
    "gguf": gguf,
    "folder": folder,
    "lock": lock,
    "pipeline": pipeline,
    "environment": environment,
}
