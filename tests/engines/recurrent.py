"""Architectures with a state in place of keys and values, or beside them: tiny files that llama.cpp loads.

Owns Mamba of both kinds, alone and between attention, short convolutions, and RWKV.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.engines.architectures import EXPERTS, HEADS, HIDDEN, LAYERS, VOCABULARY, Written

STATE, KERNEL, RANK, INNER, GROUPS = 16, 4, 8, 2 * HIDDEN, 2
_SIZES = {"ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": RANK}
CARDS = ((90_000,) * 3, (36_000, 34_000, 40_000))
_ATTENDS = (1, 4)
"""The layers with attention, of those models in which others have a state."""


def _first_kind(file: Written, block: str, *, norms: bool) -> None:
    shapes = {"ssm_in": (2 * INNER, HIDDEN), "ssm_x": (RANK + 2 * STATE, INNER), "ssm_out": (HIDDEN, INNER)}
    file.matrices(shapes, block)
    file.floats({"ssm_conv1d.weight": (INNER, KERNEL), "ssm_dt.weight": (INNER, RANK), "ssm_a": (INNER, STATE)}, block)
    file.vectors({"ssm_conv1d.bias": INNER, "ssm_dt.bias": INNER}, block)
    file.floats({"ssm_d": (INNER,)}, block)
    if norms:
        file.vectors({"ssm_dt_norm": RANK, "ssm_b_norm": STATE, "ssm_c_norm": STATE}, block)


def _second_kind(file: Written, block: str) -> None:
    mixed = INNER + 2 * GROUPS * STATE
    file.matrices({"ssm_in": (INNER + mixed + RANK, HIDDEN), "ssm_out": (HIDDEN, INNER)}, block)
    shapes = {"ssm_conv1d.weight": (mixed, KERNEL), "ssm_a": (RANK, 1), "ssm_d": (RANK, 1)}
    file.floats({**shapes, "ssm_norm.weight": (GROUPS, INNER // GROUPS)}, block)
    file.vectors({"ssm_conv1d.bias": mixed, "ssm_dt.bias": RANK}, block)


def _heads(attends: tuple[int, ...]) -> dict[str, list[int]]:
    return {"attention.head_count_kv": [2 if layer in attends else 0 for layer in range(LAYERS)]}


def mamba(path: Path) -> Path:
    file = Written(path, "mamba", _SIZES)

    def block(_: int, name: str) -> None:
        _first_kind(file, name, norms=False)

    return file.blocks(block, norms=("attn_norm",))


def mamba2(path: Path) -> Path:
    file = Written(path, "mamba2", {**_SIZES, "ssm.group_count": GROUPS})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(_: int, name: str) -> None:
        _second_kind(file, name)

    return file.blocks(block, norms=("attn_norm",))


def jamba(path: Path) -> Path:
    file = Written(path, "jamba", {**_SIZES, **_heads(_ATTENDS), "expert_count": EXPERTS, "expert_used_count": 2})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(layer: int, name: str) -> None:
        if layer in _ATTENDS:
            file.attention(name)
        else:
            _first_kind(file, name, norms=True)
        if layer % 2:
            file.experts(name, 512)
        else:
            file.dense(name, 512)

    return file.blocks(block)


def falcon_h1(path: Path) -> Path:
    numbers = {"ssm.group_count": GROUPS, "attention.key_length": 64, "attention.value_length": 64}
    file = Written(path, "falcon-h1", {**_SIZES, **numbers})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(_: int, name: str) -> None:
        file.attention(name)
        _second_kind(file, name)
        file.floats({"ffn_norm": (HIDDEN,)}, name)  # by this name, and no other
        file.dense(name, 512)

    return file.blocks(block, norms=("attn_norm",))


def granite(path: Path) -> Path:
    numbers = {"ssm.group_count": GROUPS, "expert_count": EXPERTS, "expert_used_count": 2}
    numbers |= {"expert_shared_feed_forward_length": 256, "rope.dimension_count": HIDDEN // HEADS}
    file = Written(path, "granitehybrid", {**_SIZES, **numbers, **_heads(_ATTENDS)})

    def block(layer: int, name: str) -> None:
        if layer in _ATTENDS:
            file.attention(name)
        else:
            _second_kind(file, name)
        file.experts(name, 512)
        file.dense(name, 256, "_shexp")

    return file.blocks(block)


def nemotron_h(path: Path) -> Path:
    """Each layer is one thing alone: a state, attention, or a feed forward."""
    fed = {"feed_forward_length": [512 if layer % 3 == 2 else 0 for layer in range(LAYERS)]}
    numbers = {"ssm.group_count": GROUPS, "attention.layer_norm_epsilon": 1e-5}
    file = Written(path, "nemotron_h", {**_SIZES, **numbers, **_heads(_ATTENDS), **fed})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(layer: int, name: str) -> None:
        if layer in _ATTENDS:
            file.attention(name)
        elif layer % 3 == 2:
            file.matrices({"ffn_up": (512, HIDDEN), "ffn_down": (HIDDEN, 512)}, name)
        else:
            _second_kind(file, name)

    return file.blocks(block, norms=("attn_norm",))


def lfm2(path: Path) -> Path:
    """Short convolutions between attention."""
    file = Written(path, "lfm2", {"shortconv.l_cache": 3, **_heads(_ATTENDS)}, output_norm="token_embd_norm")

    def block(layer: int, name: str) -> None:
        if layer in _ATTENDS:
            file.attention(name)
            file.vectors({"attn_q_norm": HIDDEN // HEADS, "attn_k_norm": HIDDEN // HEADS}, name)
        else:
            file.matrices({"shortconv.in_proj": (3 * HIDDEN, HIDDEN), "shortconv.out_proj": (HIDDEN, HIDDEN)}, name)
            file.floats({"shortconv.conv.weight": (HIDDEN, 3)}, name)
        file.dense(name, 512)

    return file.blocks(block)


def rwkv7(path: Path) -> Path:
    low, wide = 32, 64
    numbers: dict[str, float | list[int]] = {"wkv.head_size": wide, "attention.layer_norm_epsilon": 1e-5}
    numbers |= {f"attention.{name}_lora_rank": low for name in ("decay", "iclr", "value_residual_mix", "gate")}
    file = Written(path, "rwkv7", numbers)
    file.matrices({"output": (VOCABULARY, HIDDEN)})
    file.vectors({"output_norm.bias": HIDDEN, "token_embd_norm": HIDDEN, "token_embd_norm.bias": HIDDEN})

    def block(_: int, name: str) -> None:
        file.vectors({"attn_norm.bias": HIDDEN, "attn_norm_2": HIDDEN, "attn_norm_2.bias": HIDDEN}, name)
        for part in "wav":
            file.vectors({f"time_mix_{part}0": HIDDEN}, name)
        for part in "wavg":
            file.floats({f"time_mix_{part}1.weight": (low, HIDDEN), f"time_mix_{part}2.weight": (HIDDEN, low)}, name)
        file.floats({"time_mix_lerp_fused.weight": (6, 1, 1, HIDDEN)}, name)
        file.vectors({f"time_mix_{part}": HIDDEN for part in ("k_k", "k_a", "r_k", "ln", "ln.bias")}, name)
        square = ("time_mix_key", "time_mix_value", "time_mix_receptance", "time_mix_output")
        file.matrices(dict.fromkeys(square, (HIDDEN, HIDDEN)), name)
        file.floats({"channel_mix_lerp_k.weight": (1, 1, HIDDEN)}, name)
        file.matrices({"channel_mix_key": (512, HIDDEN), "channel_mix_value": (HIDDEN, 512)}, name)

    return file.blocks(block, norms=("attn_norm",))


FILES: dict[str, Callable[[Path], Path]] = {
    "Mamba": mamba,
    "Mamba 2": mamba2,
    "Jamba": jamba,
    "Falcon H1": falcon_h1,
    "Granite 4": granite,
    "Nemotron H": nemotron_h,
    "LFM2": lfm2,
    "RWKV 7": rwkv7,
}
