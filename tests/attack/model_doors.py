"""Doors of models: configurations, headers, indexes, GGUF files, folders, and the hub.

Owns the valid models that hostile ones are made of.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests import hub_server
from tests.attack import configs
from tests.attack import mutations as change
from tests.attack.case import Case, planned
from tests.test_models_gguf import LLAMA, dense
from tests.test_models_gguf import gguf as write_gguf

EVIL = "open('PWNED', 'w').close()\nclass Evil: pass\n"
"""What a checkpoint brings along, and nobody may run."""


def config(random: Random) -> Case:
    """Configurations, which Transformers builds a model of."""
    Path("evil.py").write_text(EVIL)
    Path("config.json").write_bytes(change.as_json(configs.hostile(random)))
    return Case(random.choice([["model", "show", "config.json"], planned("config.json"), planned(".")]))


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
        Path("config.json").write_bytes(change.as_json(configs.CONFIGS[0]))
    made = change.as_json(change.tree(_header(), random)) if random.random() < 0.6 else json.dumps(_header()).encode()
    length = random.choice([None, None, None, 0, 2**63, 2**64 - 1, len(made) + 10**9, 1])
    whole = _shard(made, bytes(192), length)
    Path("model.safetensors").write_bytes(change.raw(whole, random) if random.random() < 0.4 else whole)
    return Case(random.choice([["model", "show", "."], planned(".")]))


def index(random: Random) -> Case:
    """Indexes of sharded checkpoints."""
    Path("a.safetensors").write_bytes(_shard(json.dumps(_header()).encode(), bytes(192)))
    names = [name for name in _header() if name != "__metadata__"]
    index = {"metadata": {"total_size": 192}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    Path("model.safetensors.index.json").write_bytes(change.as_json(change.tree(index, random)))
    if random.random() < 0.5:
        Path("config.json").write_bytes(change.as_json(configs.CONFIGS[0]))
    return Case(random.choice([["model", "show", "."], planned(".")]))


def gguf(random: Random) -> Case:
    """GGUF files, whole or not, split or not."""
    name = random.choice(["m.gguf", "m.gguf", "m-00001-of-00002.gguf", "m-99999-of-99999.gguf"])
    _gguf(Path(name), random)
    if random.random() < 0.2:
        _gguf(Path("m-00002-of-00002.gguf"), random)
    return Case(random.choice([["model", "show", name], ["model", "show", "."], planned(name)]))


def _gguf(path: Path, random: Random) -> None:
    metadata = {**LLAMA, "tokenizer.ggml.scores": [0.5]}
    tensors = dense(layers=random.choice([1, 3]), experts=random.choice([0, 4]))
    for _ in range(random.choice([0, 1, 1, 3])):
        metadata[random.choice([*metadata, change.text(random)])] = random.choice(
            [0, 1, 2**31, 2**32 - 1, 0.5, float("nan"), True, change.text(random), ["a"] * 3, [1] * 2_000, [0.5]]
        )
    for _ in range(random.choice([0, 0, 1, 3])):
        shape = random.choice([(), (0,), (256,), (2**62, 256), (2**31, 2**31, 256), (1, 1, 1, 256)])
        tensors[random.choice([*tensors, change.text(random)])] = random.choice(["float32", "q4_k", "int8"]), shape
    try:
        write_gguf(path, tensors, {_bytes(key): value for key, value in metadata.items()})
    except (OSError, struct.error, UnicodeError, OverflowError):  # what a file cannot hold
        path.write_bytes(b"GGUF" + random.randbytes(200))
    if path.stat().st_size < 1 << 20 and random.random() < 0.6:
        path.write_bytes(change.raw(path.read_bytes(), random))


def onnx(random: Random) -> Case:
    """ONNX files: one protobuf message, whose weights may be in other files."""
    name, length = random.choice(["weight", change.text(random)]).encode("utf-8", "replace"), random.choice([1, 2**62])
    tensor = _field(8, name) + _varint(2, random.choice([1, 10, 99])) + b"".join(
        _varint(1, random.choice([4, 768, 2**31, 2**63 - 1])) for _ in range(random.choice([0, 1, 2, 40]))
    )  # fmt: skip
    if random.random() < 0.5:
        where = random.choice(["data.bin", "../../etc/passwd", "/etc/passwd", "", change.text(random)])
        pairs = {"location": where, "offset": str(random.choice([0, -1, 2**70])), "length": str(length)}
        for key, value in pairs.items():
            tensor += _field(13, _field(1, key.encode()) + _field(2, value.encode("utf-8", "replace")))
        tensor += _varint(14, 1)
    else:
        tensor += _field(9, bytes(random.choice([0, 64])))
    graph = _field(5, tensor) * random.choice([1, 3, 2_000])
    for _ in range(random.choice([0, 0, 3, 300])):
        graph = _field(1, _field(5, _field(6, graph)))  # a graph in an attribute of a node
    whole = _varint(1, 9) + _field(7, graph)
    Path("m.onnx").write_bytes(change.raw(whole, random) if random.random() < 0.5 else whole)
    Path("data.bin").write_bytes(bytes(64))
    return Case(random.choice([["model", "show", "m.onnx"], ["model", "show", "."], planned("m.onnx")]))


def _varint(number: int, value: int) -> bytes:
    return _plain(number << 3) + _plain(value)


def _field(number: int, value: bytes) -> bytes:
    return _plain(number << 3 | 2) + _plain(len(value)) + value


def _plain(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _bytes(key: str) -> Any:
    return key.encode("utf-8", "surrogatepass")


def hub(random: Random) -> Case:
    """Models of a hub: a server that says and sends anything."""
    Path("served").mkdir()
    served = Path("served").absolute()
    os.chdir(served)
    random.choice([config, header, index, gguf, onnx])(random)
    if random.random() < 0.5:
        Path("config.json").write_bytes(change.as_json(configs.CONFIGS[0]))
    os.chdir(served.parent)
    running = hub_server.local_hub()
    server = running.__enter__()  # it ends with the process
    server.repositories["org/name"] = served
    for file in random.sample(sorted(served.iterdir()), 1):
        if random.random() < 0.3:
            server.sizes[file.name] = random.choice([0, 1, -1, 7, 1 << 20, 1 << 62, 1 << 80])
    server.ignores_ranges = random.random() < 0.2
    server.loops = random.random() < 0.05
    server.status = random.choice([200, 204, 304, 400, 403, 429, 500, 503]) if random.random() < 0.1 else None
    if random.random() < 0.2:
        server.change = lambda body: change.raw(body, Random(0))
    _turn_to(server.endpoint)
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    name = random.choice(["hf://org/name", "hf://org/name", "hf://org/name@v1", "hf://org/name/m.gguf"])
    if random.random() < 0.1:
        name = "hf://" + change.text(random).replace("\0", "")
    return Case(random.choice([["model", "show", name], planned(name)]), environment, server=server.endpoint)


def _turn_to(endpoint: str) -> None:
    """Turn the client to a server: it read its variables when it was imported."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = endpoint, False
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + template


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
        odd_file(Path(name), random)
    Path("pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    return Case(random.choice([["model", "show", "."], planned(".")]))


def odd_file(path: Path, random: Random) -> None:
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
        lambda: path.write_bytes(change.as_json(random.choice(configs.CONFIGS))),
        lambda: path.write_bytes(b"[" * 200_000),
    ]
    random.choice(kinds)()
