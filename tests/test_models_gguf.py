"""Reading GGUF files: bytes of every type, structure, geometry, split files, and files from nowhere."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Policy, plan
from devpolicy._core.model.ggml import BLOCKS, GGML_TYPES
from devpolicy._core.model.gguf_header import read_gguf_header
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree
from devpolicy._core.targets.llama_cpp import to_llama_cpp
from devpolicy.errors import DevPolicyError, ModelError, Unsatisfiable

LLAMA = {
    "general.architecture": "llama", "general.name": "Tiny", "llama.block_count": 3, "llama.context_length": 2048,
    "llama.embedding_length": 256, "llama.feed_forward_length": 512, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "tokenizer.ggml.tokens": [f"t{number}" for number in range(300)],
    "tokenizer.ggml.scores": [0.5] * 20_000,
}  # fmt: skip
NUMBERS = {name: number for number, name in GGML_TYPES.items()}


def text(value):
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def value(given):
    if isinstance(given, bool):
        return 7, struct.pack("<?", given)
    if isinstance(given, int):
        return 4, struct.pack("<I", given)
    if isinstance(given, float):
        return 6, struct.pack("<f", given)
    if isinstance(given, str):
        return 8, text(given)
    kind = value(given[0])[0]
    return 9, struct.pack("<IQ", kind, len(given)) + b"".join(value(one)[1] for one in given)


def size_of(dtype, shape):
    elements = 1
    for dimension in shape:
        elements *= dimension
    count, size = BLOCKS.get(dtype, (8, DTYPE_BITS.get(dtype, 8)))
    return elements * size // count


def gguf(path, tensors, metadata=LLAMA, *, version=3):
    """Write a GGUF file by hand. Its weights are a hole, so a large one costs nothing."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, entry in metadata.items():
        kind, content = value(entry)
        head += text(key) + struct.pack("<I", kind) + content
    at = 0
    for name, (dtype, shape) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], NUMBERS[dtype], at)
        at += -(-size_of(dtype, shape) // 32) * 32
    head += bytes(-len(head) % 32)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + at)
    return path


def dense(layers=3, *, head=True, experts=0):
    tensors = {"token_embd.weight": ("q4_k", (300, 256)), "output_norm.weight": ("float32", (256,))}
    if head:
        tensors["output.weight"] = ("q6_k", (300, 256))
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors |= {
            f"{block}ffn_norm.weight": ("float32", (256,)),
            f"{block}attn_norm.weight": ("float32", (256,)),
            f"{block}attn_q.weight": ("q4_k", (256, 256)),
            f"{block}attn_k.weight": ("q4_k", (128, 256)),
            f"{block}attn_v.weight": ("q6_k", (128, 256)),
            f"{block}attn_output.weight": ("q4_k", (256, 256)),
        }
        if experts:
            tensors[f"{block}ffn_gate_inp.weight"] = ("float32", (experts, 256))
            tensors |= {
                f"{block}ffn_{part}_exps.weight": (
                    "q4_k",
                    (experts, 512, 256) if part != "down" else (experts, 256, 512),
                )
                for part in ("gate", "up", "down")
            }
        else:
            tensors |= {
                f"{block}ffn_{part}.weight": ("q4_k", (512, 256) if part != "down" else (256, 512))
                for part in ("gate", "up", "down")
            }
    return tensors


def test_every_type_of_the_gguf_package_has_its_bytes():
    package = pytest.importorskip("gguf")
    for kind, (elements, size) in package.GGML_QUANT_SIZES.items():
        name = GGML_TYPES[int(kind)]
        assert BLOCKS.get(name, (1, DTYPE_BITS.get(name, 0) // 8)) == (elements, size), kind
    assert set(map(int, package.GGML_QUANT_SIZES)) == set(GGML_TYPES)


@pytest.mark.parametrize("dtype", sorted(NUMBERS))
def test_a_tensor_of_each_type_is_read_with_its_exact_bytes(dtype, tmp_path):
    shape = (3, 512)
    path = gguf(tmp_path / "x.gguf", {"a.weight": (dtype, shape)}, {"general.architecture": "bert"})
    assert ModelTree.load(path).bytes_as() == size_of(dtype, shape)
    package = pytest.importorskip("gguf")
    (tensor,) = package.GGUFReader(path).tensors
    assert (tensor.n_bytes, tensor.tensor_type.name.lower()) == (
        size_of(dtype, shape),
        {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}.get(
            dtype, dtype.replace("int", "i")
        ),
    )


@pytest.mark.parametrize("experts", [0, 4])
def test_a_file_of_the_gguf_package_reads_alike(experts, tmp_path):
    package, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    path = tmp_path / "real.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "b", "ä" * 50])
    writer.add_token_scores([0.0] * 3)
    for name, (dtype, shape) in dense(2, experts=experts).items():
        kind = package.GGMLQuantizationType(NUMBERS[dtype])
        if dtype in BLOCKS:
            size = shape[-1] // BLOCKS[dtype][0] * BLOCKS[dtype][1]
            writer.add_tensor(name, numpy.zeros((*shape[:-1], size), numpy.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(name, numpy.zeros(shape, numpy.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    tree = ModelTree.load(path)
    tensors = package.GGUFReader(path).tensors
    held = {
        f"{module.path}.{tensor.name}": tensor.bytes_as(None) for module in tree.modules for tensor in module.tensors
    }
    flat = {
        ours.replace(".attn.", ".").replace(".ffn.", ".").replace(".exps.", "."): size for ours, size in held.items()
    }
    assert flat == {tensor.name: int(tensor.n_bytes) for tensor in tensors}
    assert tree.context == 512


def test_a_dense_file_has_the_structure_of_a_decoder(tmp_path):
    tree = ModelTree.load(gguf(tmp_path / "tiny-Q4_K_M.gguf", dense()))
    assert (tree.name, tree.format, tree.no_split, tree.incomplete_reason) == ("tiny-Q4_K_M", "gguf", {"Block"}, None)
    block = [(module.path, module.class_name) for module in tree.modules if module.path.startswith("blk.1")]
    assert block == [
        ("blk.1", "Block"), ("blk.1.attn_norm", "Norm"), ("blk.1.attn", "Attention"),
        ("blk.1.attn.attn_q", "Linear"), ("blk.1.attn.attn_k", "Linear"), ("blk.1.attn.attn_v", "Linear"),
        ("blk.1.attn.attn_output", "Linear"), ("blk.1.ffn_norm", "Norm"), ("blk.1.ffn", "MLP"),
        ("blk.1.ffn.ffn_gate", "Linear"), ("blk.1.ffn.ffn_up", "Linear"), ("blk.1.ffn.ffn_down", "Linear"),
    ]  # fmt: skip
    outer = [(module.path, module.class_name) for module in tree.modules if module.path and "." not in module.path]
    assert outer == [("token_embd", "Embedding"), ("blk", "ModuleList"), ("output_norm", "Norm"), ("output", "Head")]
    assert [(cache.module, cache.values, cache.window) for cache in tree.kv_cache] == [
        (f"blk.{layer}.attn", 256, None) for layer in range(3)
    ]
    assert (tree.context, tree.logits_elements, tree.ties) == (2048, 300, ())


def test_without_a_head_the_embedding_is_the_head(tmp_path):
    with_head = ModelTree.load(gguf(tmp_path / "a.gguf", dense()))
    tied = ModelTree.load(gguf(tmp_path / "b.gguf", dense(head=False)))
    assert tied.ties == (("token_embd.weight", "output.weight"),)
    assert with_head.bytes_as() - tied.bytes_as() == size_of("q6_k", (300, 256))


def test_an_encoder_has_neither_head_nor_cache(tmp_path):
    metadata = {key.replace("llama", "bert"): "bert" if given == "llama" else given for key, given in LLAMA.items()}
    tree = ModelTree.load(gguf(tmp_path / "bert.gguf", dense(head=False), metadata))
    assert (tree.kv_cache, tree.ties, tree.logits_elements) == ((), (), 0)


def test_the_experts_of_a_mixture_are_modules(tmp_path):
    mixture = LLAMA | {"llama.expert_count": 8, "llama.expert_used_count": 2}
    tree = ModelTree.load(gguf(tmp_path / "moe.gguf", dense(experts=8), mixture))
    assert [(entry.module, entry.experts_per_token, entry.num_experts) for entry in tree.reads] == [
        (f"blk.{layer}.ffn.exps", 2, 8) for layer in range(3)
    ]
    rules = Policy.parse('prefer = "cuda"\n[[rule]]\nclass = "Experts"\nprefer = "cuda:0"\n')
    assert plan(rules, tree, "1x24gb", target="torch").device.to_torch_str() == "cuda:0"


def test_layers_that_slide_keep_a_window(tmp_path):
    gemma = {key.replace("llama", "gemma3"): "gemma3" if given == "llama" else given for key, given in LLAMA.items()}
    gemma |= {"gemma3.attention.sliding_window": 512, "gemma3.block_count": 7}
    tree = ModelTree.load(gguf(tmp_path / "g.gguf", dense(7), gemma))
    assert [cache.window for cache in tree.kv_cache] == [512] * 5 + [None, 512]
    own = gemma | {"gemma3.attention.sliding_window_pattern": [False, True] * 3 + [False]}
    tree = ModelTree.load(gguf(tmp_path / "g.gguf", dense(7), own))
    assert [cache.window for cache in tree.kv_cache] == [None, 512] * 3 + [None]


def test_latent_attention_keeps_the_compressed_form(tmp_path):
    tensors = {"token_embd.weight": ("q8_0", (300, 256)), "blk.0.attn_kv_a_mqa.weight": ("q8_0", (576, 256))}
    tree = ModelTree.load(gguf(tmp_path / "mla.gguf", tensors, LLAMA | {"llama.block_count": 1}))
    assert [cache.values for cache in tree.kv_cache] == [576]


def test_latent_attention_of_one_matrix_is_kept_in_full(tmp_path):
    # A file of before llama.cpp computed it in the compressed form: four times the cache was held that was planned.
    tensors = {"token_embd.weight": ("q8_0", (300, 256)), "blk.0.attn_kv_a_mqa.weight": ("q8_0", (160, 256))}
    tensors |= {"blk.0.attn_kv_b.weight": ("q8_0", (512, 128))}
    metadata = LLAMA | {"llama.block_count": 1, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 4}
    metadata |= {"llama.attention.key_length": 96, "llama.attention.value_length": 64}
    tree = ModelTree.load(gguf(tmp_path / "whole.gguf", tensors, metadata))
    assert [cache.values for cache in tree.kv_cache] == [4 * (96 + 64)]


def test_experts_that_every_token_uses_are_counted(tmp_path):
    metadata = LLAMA | {"llama.expert_count": 4, "llama.expert_used_count": 1, "llama.expert_feed_forward_length": 64}
    tensors = dense(experts=4)
    alone = ModelTree.load(gguf(tmp_path / "experts.gguf", tensors, metadata)).activation_elements_per_token
    tensors |= {"blk.0.ffn_up_shexp.weight": ("q8_0", (4096, 256))}
    beside = ModelTree.load(gguf(tmp_path / "shared.gguf", tensors, metadata)).activation_elements_per_token
    assert beside == 3 * 4096 + 4 * 256 + 4 * 4 > alone


def test_fused_projections_are_counted_by_heads_of_each_layer(tmp_path):
    tensors = {"token_embd.weight": ("q8_0", (300, 256))}
    tensors |= {f"blk.{layer}.attn_qkv.weight": ("q8_0", (512, 256)) for layer in range(2)}
    metadata = LLAMA | {"llama.block_count": 2, "llama.attention.head_count_kv": [2, 4]}
    tree = ModelTree.load(gguf(tmp_path / "qkv.gguf", tensors, metadata))
    assert [cache.values for cache in tree.kv_cache] == [2 * 2 * 64, 2 * 4 * 64]


def test_a_split_model_is_read_from_any_of_its_files(tmp_path):
    tensors = list(dense().items())
    for part in range(3):
        metadata = (LLAMA if part == 0 else {}) | {
            "split.no": part,
            "split.count": 3,
            "split.tensors.count": len(tensors),
        }
        gguf(tmp_path / f"tiny-{part + 1:05}-of-00003.gguf", dict(tensors[part::3]), metadata)
    trees = [ModelTree.load(tmp_path / f"tiny-{part:05}-of-00003.gguf") for part in (1, 2, 3)]
    assert trees[0] == trees[1] == trees[2] == ModelTree.load(tmp_path)
    assert trees[0].bytes_as() == sum(size_of(*entry) for entry in dense().values())
    (tmp_path / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelError, match="1 of 3 parts are missing") as refused:
        ModelTree.load(tmp_path / "tiny-00003-of-00003.gguf")
    assert refused.value.code == "DP109"


def test_a_folder_of_several_gguf_files_asks_which(tmp_path):
    for name in ("a", "b"):
        gguf(tmp_path / f"{name}.gguf", dense())
    with pytest.raises(ModelError, match=r"holds 2 models: `a\.gguf`, `b\.gguf`"):
        ModelTree.load(tmp_path)


def test_hf_refuses_a_gguf_with_the_size_that_it_would_have(tmp_path):
    strange = {"general.architecture": "plamo"} | {
        key.replace("llama.", "plamo."): entry for key, entry in LLAMA.items() if key != "general.architecture"
    }
    tree = ModelTree.load(gguf(tmp_path / "x.gguf", dense(), strange))
    with pytest.raises(Unsatisfiable, match="dequantises GGUF files") as refused:
        plan(Policy.parse('prefer = "cuda"\n'), tree, "1x24gb", target="hf")
    assert refused.value.code == "DP412"
    assert "--target llama.cpp" in refused.value.diagnostics[0].help
    made = plan(Policy.parse('prefer = "cuda"\n'), tree, "1x24gb", target="torch")
    assert sum(budget.weights for budget in made.ledger.values()) == tree.bytes_as()


def test_a_gguf_model_is_written_as_a_model_file_and_read_back(tmp_path):
    tree = ModelTree.load(
        gguf(tmp_path / "x.gguf", dense(experts=4), LLAMA | {"llama.expert_count": 4, "llama.expert_used_count": 1})
    )
    assert ModelTree.parse(tree.to_toml()) == tree


def test_a_file_of_the_other_byte_order_is_read(tmp_path):
    path = tmp_path / "big.gguf"
    name = b"a.weight"
    head = b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + struct.pack(">Q", len(name)) + name
    head += struct.pack(">IQIQ", 1, 8, 0, 0)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(32))
    assert ModelTree.load(path).bytes_as() == 32


def broken(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelError) as refused:
        ModelTree.load(path)
    assert str(path) in str(refused.value) or "a.gguf" in str(refused.value)
    return refused.value


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cut short"),
        (b"GGML" + bytes(100), "does not begin with `GGUF`"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (HEAD + struct.pack("<QQ", 2**60, 0), "limits are"),
        (HEAD + struct.pack("<QQ", 0, 2**60), "limits are"),
        (HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**60), "name or text"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<I", 99), "type 99"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**60), "more than"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**60), "cut short"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "holds values of type 9"),
        (HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IQ", 8, 2**63), "cut short"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"\xff") + struct.pack("<I", 4), "no UTF-8"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<I", 2**31), "dimensions"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQIQ", 1, 2**62, 0, 0), "tensors end at"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 2**62, 4, 0, 0), "elements"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQIQ", 1, 30, 2, 0), "whole blocks"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQIQ", 1, 32, 4, 0), "type 4"),
        (HEAD + struct.pack("<QQ", 1, 0) + text("a..b") + struct.pack("<IQIQ", 1, 0, 0, 0) + bytes(64), "no module"),
        (HEAD + struct.pack("<QQ", 0, 0), "no tensors"),
        (
            HEAD + struct.pack("<QQ", 0, 1) + text("general.alignment") + struct.pack("<II", 4, 3),
            "no power of two",
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_finding(content, told, tmp_path):
    error = broken(tmp_path / "a.gguf", content)
    assert (error.code, told in str(error)) == ("DP104", True), str(error)


@settings(deadline=None)
@given(data=st.data())
def test_no_change_to_a_header_is_more_than_a_finding(data, tmp_path_factory):
    path = gguf(tmp_path_factory.mktemp("g") / "a.gguf", dense(1), {k: v for k, v in LLAMA.items() if "token" not in k})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1600))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    try:
        tree = ModelTree.load(path)
    except DevPolicyError as refused:
        assert refused.diagnostics
    else:
        assert tree.bytes_as() <= len(content) + 300 * 256


def test_reading_forward_asks_for_no_byte_of_weights(tmp_path):
    path = gguf(tmp_path / "a.gguf", dense())
    content = path.read_bytes()

    class Counted:
        name, size, last = "a.gguf", len(content), 0

        def read(self, offset, length):
            self.last = max(self.last, offset + length)
            return content[offset : offset + length]

    source = Counted()
    header = read_gguf_header(source)
    assert len(header.tensors) == len(dense())
    assert header.lengths["tokenizer.ggml.scores"] == 20_000
    assert "tokenizer.ggml.scores" not in header.metadata
    assert source.last <= len(content) - sum(size_of(*entry) for entry in dense().values())


@pytest.mark.parametrize("name", ["token_embd.weight", *(f"blk.0.attn_{part}.weight" for part in ("q", "k", "v"))])
def test_a_single_number_in_the_place_of_a_matrix_is_read(name, tmp_path):
    tensors = dense()
    assert name in tensors
    tree = ModelTree.load(gguf(tmp_path / "x.gguf", {**tensors, name: ("float32", ())}))
    assert plan("prefer-accelerator", tree, "1x24gb", target="llama.cpp").ledger


@pytest.mark.parametrize(
    ("name", "keeps", "scalars"),
    [
        ("Mamba", "ssm", 3 * 512 + 16 * 512),
        ("Mamba 2", "ssm", 3 * (512 + 2 * 2 * 16) + 16 * 512),
        ("LFM2", "shortconv", 2 * 256),
        ("RWKV 7", "time", 2 * 256 + 64 * 256),
    ],
)
def test_a_recurrent_layer_keeps_a_state(tmp_path, name, keeps, scalars):
    # That of short convolutions and of RWKV was counted as nothing.
    pytest.importorskip("gguf")
    from tests.engines import recurrent

    caches = {cache.module: cache for cache in ModelTree.load(recurrent.FILES[name](tmp_path / "m.gguf")).kv_cache}
    assert caches["blk.0." + keeps].values == scalars
    assert (caches["blk.0." + keeps].window, caches["blk.0." + keeps].dtype) == (1, "float32")
    assert ("blk.1.attn" in caches) == (name == "LFM2")


def test_what_goes_into_a_state_has_no_cache(tmp_path):
    # Of gated delta nets the projection was counted as one of keys and values.
    pytest.importorskip("gguf")
    from tests.engines.architectures import Written

    sizes = {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16, "ssm.group_count": 2}
    file = Written(tmp_path / "m.gguf", "qwen3next", sizes)

    def block(layer, name):
        if layer == 3:
            file.attention(name)
        else:
            file.matrices({"attn_qkv": (576, 256), "attn_gate": (512, 256), "ssm_out": (256, 512)}, name)
            file.floats({"ssm_conv1d.weight": (576, 4)}, name)
        file.dense(name, 512)

    caches = [cache.module for cache in ModelTree.load(file.blocks(block)).kv_cache]
    assert caches == [f"blk.{layer}.{'attn' if layer == 3 else 'ssm'}" for layer in range(6)]


def test_a_projector_beside_a_model_is_named(tmp_path):
    # A folder with one was refused as two models, a plan said nothing of it, and its own had flags.
    gguf = pytest.importorskip("gguf")
    import numpy as np

    from tests.engines.models import write

    file, policy = write(tmp_path / "model.gguf", layers=1), Policy.parse("prefer = 'cuda'")
    alone = plan(policy, ModelTree.load(file), "1x24gb")
    made = gguf.GGUFWriter(tmp_path / "mmproj-model-f16.gguf", "clip")
    made.add_tensor("v.blk.0.attn_q.weight", np.ones((64, 64), np.float32))
    made.add_tensor("mm.0.weight", np.ones((256, 64), np.float32))
    for step in (made.write_header_to_file, made.write_kv_data_to_file, made.write_tensors_to_file, made.close):
        step()
    for source in (file, tmp_path):
        beside = plan(policy, ModelTree.load(source), "1x24gb")
        (told,) = [one for one in beside.warnings if one.code == "DP415"]
        assert "`mmproj-model-f16.gguf` (80." in told.message
        assert "--mmproj" in told.message
        assert beside.digest == alone.digest
    with pytest.raises(Unsatisfiable, match="neither layers nor an embedding"):
        to_llama_cpp(plan(policy, ModelTree.load(tmp_path / "mmproj-model-f16.gguf"), "1x24gb"))
