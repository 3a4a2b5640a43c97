"""What llama.cpp does with its flags, restated from its documentation and source: the oracle of the target's tests.

It is given what is in a file and what a command line says, and answers which bytes each device holds. It knows neither
policies nor plans.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

INPUT = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")


@dataclass(frozen=True)
class Held:
    weights: Counter[str]
    kv_cache: Counter[str]


def options(flags: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    flags = [flag for flag in flags if flag != "--no-kv-offload"]  # the only one without a value
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        found.setdefault(name, []).append(value)
    return found


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def held(flags: Sequence[str], tensors: Mapping[str, int], kv_cache: Mapping[int, int], layers: int) -> Held:
    """Return the bytes on each device, `CPU` among them: `kv_cache` are those of each layer."""
    said = options(flags)
    devices = [one for one in said["--device"][0].split(",") if one != "none"]
    count = int(said["--gpu-layers"][0])
    # Without a split llama.cpp divides by free memory, which says nothing where no layer is on a device.
    split = [float(one) for one in said.get("--tensor-split", [",".join("1" for _ in devices) or "1"])[0].split(",")]
    assert "--tensor-split" in said or len(devices) < 2 or not count
    assert len(split) == max(1, len(devices))
    total = sum(split)
    ends = [_float32(end / total) for end in accumulate(split)]
    first, active = max(layers + 1 - count, 0), min(count, layers + 1) if devices else 0

    def device_of(layer: int) -> str:
        if layer < first or layer - first >= active:
            return "CPU"
        return devices[bisect_right(ends, _float32((layer - first) / active))]

    overrides = [one.rsplit("=", 1) for one in said.get("--override-tensor", [])]
    assert not any("," in pattern or "=" in pattern for pattern, _ in overrides)
    weights: Counter[str] = Counter()
    names = dict(tensors)
    if "output.weight" not in names:
        names["output.weight"] = names["token_embd.weight"]  # a copy, under the embedding's name
    at: dict[str, str] = {}
    for name in names:
        searched = "token_embd.weight" if name == "output.weight" and name not in tensors else name
        found = next((place for pattern, place in overrides if re.search(pattern, searched)), None)
        layer = re.match(r"blk\.(\d+)\.", name)
        own = device_of(int(layer[1])) if layer else "CPU" if name.split(".")[0] in INPUT else device_of(layers)
        at[name] = found or own
        assert at[name] == "CPU" or at[name] in devices, "a buffer of a device that is not named"
    for name, size in names.items():
        shared = name == "output.weight" and name not in tensors and at[name] == at["token_embd.weight"]
        weights[at[name]] += 0 if shared else size
    caches: Counter[str] = Counter()
    for layer_number, size in kv_cache.items():
        caches["CPU" if "--no-kv-offload" in flags else device_of(layer_number)] += size
    return Held(+weights, +caches)
