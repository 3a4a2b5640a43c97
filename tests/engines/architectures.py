"""Further architectures, loaded by llama.cpp: what its log says each device holds is what the ledger says.

Owns tiny files with what `llama` has not: experts that every token uses, latent attention in both of its layouts,
sliding windows, a head that is the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from devpolicy import Accelerator, Host, ModelTree, Policy, plan
from devpolicy.errors import Unsatisfiable

LAYERS, HIDDEN, HEADS, VOCABULARY, EXPERTS = 6, 256, 4, 512, 8
CARDS = ((40_000,) * 3, (12_000, 9_000, 20_000), (24_000, 9_000, 3_000), (14_000,) * 3)
POLICIES = (
    "",
    "split = 'balanced'",
    "workload.batch = 3",
    "workload.context = 3000",
    "workload.kv_dtype = 'float32'",
    "workload.kv_offload = 'cpu'",
    "offload.'blk.*.ffn' = 'cpu'",
    "offload.'blk.*.ffn.shexp' = 'cpu'",
    "offload.'blk.{0..1}' = 'cpu'",
)


class Written:
    """One file while it is written. Matrices are q8_0, vectors float32."""

    def __init__(
        self,
        path: Path,
        architecture: str,
        numbers: Mapping[str, float | list[int]],
        output_norm: str = "output_norm",
    ) -> None:
        import gguf
        import numpy as np

        self.path, self.gguf, self.np = path, gguf, np
        self.made: Any = gguf.GGUFWriter(path, architecture)
        words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        words += [f"▁w{number}" for number in range(VOCABULARY - len(words))]
        self.made.add_tokenizer_model("llama")
        self.made.add_token_list(words)
        self.made.add_token_scores([0.0] * VOCABULARY)
        self.made.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259))
        counts = {"context_length": 4096, "embedding_length": HIDDEN, "block_count": LAYERS, "vocab_size": VOCABULARY}
        counts |= {"attention.head_count": HEADS, "attention.head_count_kv": 2, "feed_forward_length": 512}
        for key, number in {**counts, **numbers, "attention.layer_norm_rms_epsilon": 1e-5}.items():
            add = {float: self.made.add_float32, int: self.made.add_uint32, list: self.made.add_array}[type(number)]
            add(f"{architecture}.{key}", number)
        self.matrices({"token_embd": (VOCABULARY, HIDDEN)})
        self.vectors({output_norm: HIDDEN})

    def matrices(self, shapes: Mapping[str, tuple[int, ...]], block: str = "") -> None:
        kind = self.gguf.GGMLQuantizationType.Q8_0
        for name, shape in shapes.items():
            values = self.gguf.quants.quantize(self.np.full(shape, 0.02, self.np.float32), kind)
            self.made.add_tensor(f"{block}{name}.weight", values, raw_dtype=kind)

    def vectors(self, sizes: Mapping[str, int], block: str = "") -> None:
        for name, size in sizes.items():
            whole = name if name.endswith(".bias") else f"{name}.weight"
            self.made.add_tensor(f"{block}{whole}", self.np.full(size, 0.1, self.np.float32))

    def floats(self, shapes: Mapping[str, tuple[int, ...]], block: str) -> None:
        for name, shape in shapes.items():
            self.made.add_tensor(f"{block}{name}", self.np.full(shape, 0.1, self.np.float32))

    def attention(self, block: str) -> None:
        sizes = {"attn_q": HIDDEN, "attn_k": HIDDEN // 2, "attn_v": HIDDEN // 2, "attn_output": HIDDEN}
        self.matrices({name: (size, HIDDEN) for name, size in sizes.items()}, block)

    def experts(self, block: str, inner: int) -> None:
        self.made.add_tensor(f"{block}ffn_gate_inp.weight", self.np.full((EXPERTS, HIDDEN), 0.1, self.np.float32))
        shape, back = (EXPERTS, inner, HIDDEN), (EXPERTS, HIDDEN, inner)
        self.matrices({"ffn_gate_exps": shape, "ffn_up_exps": shape, "ffn_down_exps": back}, block)

    def dense(self, block: str, inner: int, suffix: str = "") -> None:
        names = {"ffn_gate": (inner, HIDDEN), "ffn_up": (inner, HIDDEN), "ffn_down": (HIDDEN, inner)}
        self.matrices({f"{name}{suffix}": shape for name, shape in names.items()}, block)

    def blocks(self, write: Callable[[int, str], None], norms: tuple[str, ...] = ("attn_norm", "ffn_norm")) -> Path:
        for layer in range(LAYERS):
            self.vectors(dict.fromkeys(norms, HIDDEN), f"blk.{layer}.")
            write(layer, f"blk.{layer}.")
        self.made.write_header_to_file()
        self.made.write_kv_data_to_file()
        self.made.write_tensors_to_file()
        self.made.close()
        return self.path


def _shared_experts(path: Path) -> Path:
    numbers = {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": 256}
    file = Written(path, "qwen2moe", {**numbers, "expert_shared_feed_forward_length": 512})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(_: int, name: str) -> None:
        file.attention(name)
        file.vectors({"attn_q.bias": HIDDEN, "attn_k.bias": HIDDEN // 2, "attn_v.bias": HIDDEN // 2}, name)
        file.experts(name, 256)
        file.vectors({"ffn_gate_inp_shexp": HIDDEN}, name)
        file.dense(name, 512, "_shexp")

    return file.blocks(block)


def _small_experts(path: Path) -> Path:
    numbers = {"expert_count": EXPERTS, "expert_used_count": 4, "expert_feed_forward_length": 128}
    file = Written(path, "qwen3moe", {**numbers, "attention.key_length": 64, "attention.value_length": 64})
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(_: int, name: str) -> None:
        file.attention(name)
        file.vectors({"attn_q_norm": 64, "attn_k_norm": 64}, name)
        file.experts(name, 128)

    return file.blocks(block)


def _sliding(path: Path) -> Path:
    numbers = {"attention.key_length": 64, "attention.value_length": 64, "attention.sliding_window": 256}
    file = Written(path, "gemma3", {**numbers, "rope.freq_base": 1e6})

    def block(_: int, name: str) -> None:
        file.attention(name)
        file.vectors({"attn_q_norm": 64, "attn_k_norm": 64}, name)
        file.vectors({"post_attention_norm": HIDDEN, "post_ffw_norm": HIDDEN}, name)
        file.dense(name, 512)

    return file.blocks(block)


def _latent(path: Path, *, whole: bool) -> Path:
    """With `whole` the projection of keys and values is one matrix, and llama.cpp keeps both in full."""
    rank, rope, plain, value, query = 128, 32, 64, 64, 192
    numbers: dict[str, float] = {"leading_dense_block_count": 1, "expert_count": EXPERTS, "expert_used_count": 2}
    numbers |= {"expert_feed_forward_length": 256, "expert_shared_count": 1, "expert_weights_scale": 1.0}
    numbers |= {"attention.kv_lora_rank": rank, "attention.q_lora_rank": query, "rope.dimension_count": rope}
    numbers |= {"feed_forward_length": 768, "attention.head_count_kv": HEADS if whole else 1}
    if whole:
        numbers |= {"attention.key_length": plain + rope, "attention.value_length": value}
    else:
        numbers |= {"attention.key_length": rank + rope, "attention.value_length": rank}
        numbers |= {"attention.key_length_mla": plain + rope, "attention.value_length_mla": value}
    file = Written(path, "deepseek2", numbers)
    file.matrices({"output": (VOCABULARY, HIDDEN)})

    def block(layer: int, name: str) -> None:
        file.vectors({"attn_q_a_norm": query, "attn_kv_a_norm": rank}, name)
        shapes: dict[str, tuple[int, ...]] = {"attn_q_a": (query, HIDDEN), "attn_kv_a_mqa": (rank + rope, HIDDEN)}
        shapes |= {"attn_q_b": (HEADS * (plain + rope), query), "attn_output": (HIDDEN, HEADS * value)}
        if whole:
            shapes |= {"attn_kv_b": (HEADS * (plain + value), rank)}
        else:
            shapes |= {"attn_k_b": (HEADS, rank, plain), "attn_v_b": (HEADS, value, rank)}
        file.matrices(shapes, name)
        if layer:
            file.experts(name, 256)
            file.dense(name, 256, "_shexp")
        else:
            file.dense(name, 768)

    return file.blocks(block)


FILES: dict[str, Callable[[Path], Path]] = {
    "shared experts": _shared_experts,
    "small experts": _small_experts,
    "sliding windows, a tied head": _sliding,
    "latent attention": lambda path: _latent(path, whole=False),
    "latent attention, kept in full": lambda path: _latent(path, whole=True),
}


def compare(
    binaries: Path,
    folder: Path,
    files: Mapping[str, Callable[[Path], Path]] = FILES,
    cards_of_each: Sequence[tuple[int, ...]] = CARDS,
) -> int:
    """Print how many plans are as the log says, and return how many are not."""
    from tests.engines import llama_cpp

    tried = wrong = 0
    for number, (name, write) in enumerate(files.items()):
        file = write(folder / f"architecture-{number}.gguf")
        tree = ModelTree.load(file)
        for cards in cards_of_each:
            host = Host([Accelerator("cuda", memory=f"{size} KiB") for size in cards], memory="16 GiB")
            for added in POLICIES:
                context = "" if "context" in added else "workload.context = 512\n"
                text = f"overflow = 'cpu'\nmemory.cuda = {{ headroom = 0, basis = 'total' }}\n{context}{added}"
                for first in (
                    "prefer = 'cuda'",
                    *(["prefer = 'cpu'"] if cards == cards_of_each[0] and not added else []),
                ):
                    try:
                        made = plan(Policy.parse(f"{first}\n{text}"), tree, host)
                    except Unsatisfiable:
                        continue
                    tried += 1
                    flags = llama_cpp.flags_of(made)
                    found = llama_cpp.compared(made, llama_cpp.log_of(binaries, file, flags))
                    if found:  # a line of the log may be torn by that of another thread, and not twice
                        found = llama_cpp.compared(made, llama_cpp.log_of(binaries, file, flags))
                    wrong += bool(found)
                    if found:
                        print(f"DIFFERS  {name} {cards} {added!r}", *found, sep="\n         ", flush=True)
    print(f"{tried - wrong} of {tried} plans of other architectures are as the log says", flush=True)
    return wrong
