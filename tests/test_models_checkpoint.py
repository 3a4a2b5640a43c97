"""Reading checkpoint folders: real ones of Transformers, damaged ones, and ones from nowhere."""

import json
import shutil
import struct
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devpolicy._core.model import structure
from devpolicy._core.model.catalogue import cached_snapshot
from devpolicy._core.model.headers import DTYPES, read_header
from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "max_position_embeddings": 64,
}  # fmt: skip


def saved(folder, architecture, model_type, **config):
    """Save a tiny real model, and return it and its folder."""
    transformers = pytest.importorskip("transformers")
    shard = config.pop("shard", "5GB")
    made = getattr(transformers, architecture)(transformers.AutoConfig.for_model(model_type, **config))
    made.save_pretrained(folder, max_shard_size=shard)
    return made


def write_safetensors(path, tensors, *, header=None):
    """Write a safetensors file of zeros by hand; `header` replaces the one that would be right."""
    sizes = {"F32": 4, "BF16": 2, "U8": 1, "I64": 8}
    table, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for dimension in shape:
            size *= dimension
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode() if header is None else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


FAMILIES = [
    ("LlamaForCausalLM", "llama", TINY),
    ("LlamaForCausalLM", "llama", TINY | {"tie_word_embeddings": True}),
    ("MixtralForCausalLM", "mixtral", TINY | {"num_local_experts": 4}),
    ("GPT2LMHeadModel", "gpt2", {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 32, "eos_token_id": 2}),
    ("BertForMaskedLM", "bert", {k: v for k, v in TINY.items() if k != "num_key_value_heads"}),
    ("T5ForConditionalGeneration", "t5", {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2}),
]


def as_held(tensors):
    """Return tensors without how loading makes them, which no loaded model says."""
    return tuple(replace(tensor, merged=0) for tensor in tensors)


@pytest.mark.parametrize(("architecture", "model_type", "config"), FAMILIES)
def test_a_saved_model_reads_as_it_will_be_loaded(architecture, model_type, config, tmp_path):
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, architecture, model_type, **config)
    tree = ModelTree.from_checkpoint(tmp_path)
    loaded = ModelTree.from_module(getattr(transformers, architecture).from_pretrained(tmp_path))
    assert [(m.path, m.class_name, as_held(m.tensors)) for m in tree.modules] == [
        (m.path, m.class_name, m.tensors) for m in loaded.modules
    ]
    assert (tree.ties, tree.no_split, tree.kv_cache) == (loaded.ties, loaded.no_split, loaded.kv_cache)
    assert tree.incomplete_reason is None
    assert {m.class_name for m in tree.modules if not m.in_place} == (
        {"MixtralExperts"} if model_type == "mixtral" else set()
    )


@pytest.mark.parametrize(("architecture", "model_type", "config"), FAMILIES)
def test_without_transformers_a_template_reads_the_same(architecture, model_type, config, tmp_path, monkeypatch):
    saved(tmp_path, architecture, model_type, **config)
    expected = ModelTree.from_checkpoint(tmp_path)
    monkeypatch.setattr(structure, "has_transformers", lambda: False)
    assert ModelTree.from_checkpoint(tmp_path) == expected


@pytest.mark.parametrize(("architecture", "model_type", "config"), FAMILIES[:3])
def test_what_is_in_place_is_not_saved_again(architecture, model_type, config, tmp_path):
    transformers = pytest.importorskip("transformers")
    saved(tmp_path / "model", architecture, model_type, **config)
    tree = ModelTree.from_checkpoint(tmp_path / "model")
    offload = tmp_path / "offload"
    maps = {"model.embed_tokens": "disk", "lm_head": "disk", "model.norm": "cpu", "model.layers": "disk"}
    getattr(transformers, architecture).from_pretrained(
        tmp_path / "model", device_map=maps | {"model.rotary_emb": "cpu"}, offload_folder=str(offload)
    )
    rewritten = {file.name.removesuffix(".safetensors").rpartition(".")[0] for file in offload.iterdir()}
    assert rewritten == {module.path for module in tree.modules if not module.in_place}


def test_the_head_of_another_checkpoint_is_not_tied(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model = saved(tmp_path, "T5ForConditionalGeneration", "t5", **FAMILIES[5][2])
    model.lm_head.weight = torch.nn.Parameter(torch.ones_like(model.lm_head.weight))
    model.save_pretrained(tmp_path)
    loaded = ModelTree.from_module(transformers.T5ForConditionalGeneration.from_pretrained(tmp_path))
    tree = ModelTree.from_checkpoint(tmp_path)
    assert "lm_head.weight" not in tree.ties[0]
    assert (tree.ties, tree.parameters) == (loaded.ties, loaded.parameters)


def test_shards_are_read_as_one_model(tmp_path):
    config = TINY | {"dtype": "bfloat16"}
    saved(tmp_path / "one", "LlamaForCausalLM", "llama", **config)
    saved(tmp_path / "many", "LlamaForCausalLM", "llama", **config, shard="2KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = ModelTree.load(tmp_path / "one"), ModelTree.load(str(tmp_path / "many"))
    assert one.modules == many.modules
    assert (one.name, many.name) == ("one", "many")


def test_a_missing_shard_is_named(tmp_path):
    saved(tmp_path, "LlamaForCausalLM", "llama", **TINY, shard="2KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name) as refused:
        ModelTree.from_checkpoint(tmp_path)
    assert refused.value.code == "DP109"


def test_the_dtype_of_the_configuration_is_loaded(tmp_path):
    saved(tmp_path, "LlamaForCausalLM", "llama", **TINY)
    config = json.loads((tmp_path / "config.json").read_text())
    for named, loaded in (("float16", "float16"), (None, "float32")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": named}))
        tree = ModelTree.from_checkpoint(tmp_path)
        dtypes = {t.dtype for module in tree.modules for t in module.tensors if t.persistent}
        assert (tree.dtype, dtypes) == (loaded, {loaded})


def test_pickled_weights_are_read_by_configuration(tmp_path):
    torch = pytest.importorskip("torch")
    model = saved(tmp_path, "LlamaForCausalLM", "llama", **TINY)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    tree = ModelTree.from_checkpoint(tmp_path)
    assert tree.parameters == ModelTree.from_module(model).parameters
    assert all(module.in_place == (not module.tensors) for module in tree.modules)


def test_weights_that_the_checkpoint_lacks_are_not_in_place(tmp_path):
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, "LlamaModel", "llama", **TINY)
    config = transformers.LlamaConfig(**TINY, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path)
    tree = ModelTree.from_checkpoint(tmp_path)
    assert [module.path for module in tree.modules if not module.in_place] == ["lm_head"]


# Folders that no library wrote.


def folder(tmp_path, config=None, tensors=None):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard-of"} if config is None else config))
    write_safetensors(tmp_path / "model.safetensors", tensors or {"layers.0.w": ("F32", [2, 2])})
    return tmp_path


def test_an_unknown_family_gives_a_partial_tree_with_its_reason(tmp_path):
    tensors = {f"layers.{n}.w": ("BF16", [2, 2]) for n in (10, 1, 0)} | {"head.w": ("F32", [4])}
    tree = ModelTree.from_checkpoint(folder(tmp_path, tensors=tensors))
    assert [module.path for module in tree.modules] == ["", "layers", "layers.0", "layers.1", "layers.10", "head"]
    assert tree.bytes_as() == 3 * 8 + 16
    assert "unheard-of" in tree.incomplete_reason


def test_quantised_weights_of_an_unknown_family_are_as_stored(tmp_path):
    config = {"model_type": "unheard-of", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    tensors = {f"model.layers.{n}.self_attn.q_proj.weight": ("U8", [128, 1]) for n in (0, 1)}
    tree = ModelTree.from_checkpoint(folder(tmp_path, config, tensors))
    assert "unheard-of" in tree.incomplete_reason
    assert (tree.quantization.scheme, tree.quantization.stored, tree.bytes_as()) == ("fp4", 256, 256)


def test_a_checkpoint_of_another_model_is_partial(tmp_path):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TINY}
    tree = ModelTree.from_checkpoint(folder(tmp_path, config))
    assert tree.incomplete_reason == "none of its tensors has a place in the model that its `config.json` describes"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "gone", "it does not exist"),
        (lambda path: path / "file.txt", "it is a file"),
        (lambda path: path / "empty", "it has no `config.json`"),
        (lambda path: path / "unweighted", r"(?s)has no weights.*for a model without weights, name `.*config\.json`"),
    ],
)
def test_what_is_no_checkpoint_folder_is_refused(make, message, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "unweighted").mkdir()
    (tmp_path / "unweighted" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=message) as refused:
        ModelTree.from_checkpoint(make(tmp_path))
    assert refused.value.code == "DP109"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "does not hold an object"),
        ("{", "is no JSON"),
        ("{}", "has no `weight_map`"),
        ('{"weight_map": {"a": "../secret"}}', "is no file of this folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "is no file of this folder"),
        ('{"weight_map": {"a": 3}}', "is no file of this folder"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors"),
        ('{"weight_map": {"a": "model.safetensors"}}', "does not hold `a`"),
    ],
)
def test_a_damaged_index_is_refused_by_name(index, message, tmp_path):
    (folder(tmp_path) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError) as refused:
        ModelTree.from_checkpoint(tmp_path)
    assert message in str(refused.value)


ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "no object"),
        (b"\xff{}", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (f'{{"a": {ENTRY}, "a": {ENTRY}}}'.encode(), "holds `a` twice"),
        (f'{{"a": {ENTRY}, "b": {ENTRY}}}'.encode(), "is next"),
        (b'{"a": 3}', "unknown dtype"),
        (b'{"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}', "unknown dtype"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "no shape"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "no shape"),
        (b'{"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]}}', "no shape"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "no offsets"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 9]}}', "takes 4 bytes by its shape, and 9"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "its tensors end at"),
        (b"{}", "its tensors end at"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}', "no JSON"),
    ],
)
def test_a_damaged_header_is_refused_by_name(header, message, tmp_path):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"a": ("F32", [1])}, header=header)
    with pytest.raises(ModelError) as refused:
        read_header(file)
    assert str(file) in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("length", [0, 1 << 20, 1 << 60, (1 << 64) - 1])
def test_a_header_longer_than_its_file_is_refused(length, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b"x" * 100)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_header(file)


def test_a_header_is_what_safetensors_itself_reads(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    dtypes = [dtype for name in set(DTYPES.values()) if (dtype := getattr(torch, name, None)) is not None]
    tensors = {}
    for number, dtype in enumerate(dtypes):
        tensors[f"t{number}"] = torch.zeros((2, number + 1), dtype=torch.uint8).to(dtype)
    file = tmp_path / "model.safetensors"
    safetensors.save_file(tensors, file, metadata={"format": "pt"})
    read = read_header(file)
    assert {name: (stored.dtype, stored.shape) for name, stored in read.items()} == {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_checkpoint_is_read_or_refused_by_name(tmp_path, data):
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    folder(tmp_path, tensors={"a.b": ("F32", [2]), "a.c": ("BF16", [2, 2]), "d": ("I64", [])})
    file = tmp_path / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["cut", "set", "put", "drop"]))
        if kind == "cut":
            del content[at:]
        elif kind == "set" and content:
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "put":
            content[at:at] = data.draw(st.binary(max_size=8))
        else:
            del content[at : at + 2]
    file.write_bytes(bytes(content))
    try:
        ModelTree.from_checkpoint(tmp_path)
    except ModelError as refused:
        assert str(tmp_path) in str(refused) or "checkpoint names a tensor" in str(refused)


# The local cache of the hub.


def test_a_hub_id_is_found_in_the_local_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--name"
    for commit in ("aaa", "bbb"):
        (repository / "snapshots" / commit).mkdir(parents=True)
    folder(repository / "snapshots" / "bbb")
    assert cached_snapshot("org/name") is None  # two revisions, and none is called main
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbb")
    assert cached_snapshot("org/name") == repository / "snapshots" / "bbb"
    assert ModelTree.load("org/name").bytes_as() == 16


def test_a_hub_id_that_is_not_cached_names_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hf download org/name") as refused:
        ModelTree.load("org/name")
    assert refused.value.code == "DP202"


def test_the_cache_is_where_huggingface_hub_puts_it(monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    from devpolicy._core.model.catalogue import _caches

    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    assert [str(path) for path in _caches()] == [constants.HF_HUB_CACHE]


def test_a_name_that_another_rule_would_change_keeps_its_place(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tools.architectures.tiny", reason="the tools do not travel with the tests")
    from tools.architectures.tiny import tiny

    # `model.norm.weight` is renamed in checkpoints in the form of their authors, and is not where it was saved here.
    transformers.DeepseekV4ForCausalLM(next(tiny("deepseek_v4"))()).save_pretrained(tmp_path)
    assert ModelTree.from_checkpoint(tmp_path).incomplete_reason is None
