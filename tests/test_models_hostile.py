"""What strangers put into a configuration, a checkpoint or a model file: it is refused, and nothing of it is done."""

import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest

from devpolicy._core.model import limits
from devpolicy._core.model.bounds import check_config
from devpolicy._core.model.catalogue import cached_snapshot
from devpolicy._core.model.files import read_json
from devpolicy._core.model.headers import read_header
from devpolicy._core.model.neutral import INERT
from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip


def refused(call, *arguments, **options):
    """Return the message of the error that a call raises on purpose."""
    with pytest.raises(ModelError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def header(path, text, data=b""):
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# Sizes: refused by the configuration alone, with Transformers or without.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000, and the limit"),
        ({"num_hidden_layers": 10**400}, "more than 64 bits"),
        ({"num_hidden_layers": -3}, "is not negative"),
        ({"num_hidden_layers": 1e9}, "and the limit"),
        ({"num_hidden_layers": float("inf")}, "is no number"),
        ({"num_hidden_layers": float("nan")}, "is no number"),
        ({"num_local_experts": 10**9}, "and the limit"),
        ({"n_routed_experts": 10**7}, "and the limit"),
        ({"num_labels": 10**9}, "`num_labels` is 1000000000"),
        ({"depths": [9_999] * 200}, "`depths` adds up to 1999800"),
        ({"depths": [2, 2, 10**8]}, "`depths` is 100000000"),
        ({"attention_types": [[["global", "local"], 10**9]]}, "`attention_types`"),
        ({"vocab_size": 10**15}, "elements of a dimension is 2147483647"),
        ({"hidden_size": -8}, "is not negative"),
        ({"max_position_embeddings": 10**18}, "positions"),
        ({"image_size": 10**6}, "pixels"),
        ({"model_type": "distilbert", "max_position_embeddings": 2**20, "dim": 768}, "a table of 1048576 positions"),
        ({"model_type": "informer", "context_length": 2**26}, "a table of 67108864 positions"),
        ({"decoder": {"model_type": "marian", "d_model": 2**30, "max_position_embeddings": 512}}, "a table of 512"),
        ({"text_config": {"vision": [{"num_hidden_layers": 10**9}]}}, "`text_config.vision.num_hidden_layers`"),
    ],
)
def test_a_size_beyond_its_limit_is_refused_first(change, said, tmp_path):
    assert said in refused(check_config, LLAMA | change)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA | change))
    message = refused(ModelTree.from_config, file)
    assert said in message
    assert "config.json" in message
    assert said in refused(ModelTree.from_checkpoint, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_feature_layer": -2},  # counts from the end
        {"image_token_index": -200},
        {"rope_theta": 10_000_000_000},
        {"seed": 2**62},
        {"num_experts": 0},
        {"num_experts": 16_384},
        {"num_labels": 100_000},
        {"cross_attention_layers": list(range(500))},
        {"max_position_embeddings": 10_485_760},
        {"time_step_limit": [0.0, float("inf")]},
        {"feature_layers": [-3, -1]},
        {"use_cache": True},
    ],
)
def test_numbers_of_published_configurations_are_allowed(change):
    check_config(LLAMA | change)


def test_a_configuration_nested_too_deep_is_refused():
    table = dict(LLAMA)
    table["text_config"] = table
    assert "nested deeper" in refused(check_config, table)
    pytest.importorskip("transformers")
    assert "nested deeper" in refused(ModelTree.from_config, table)


def test_a_build_that_makes_too_many_modules_is_stopped(monkeypatch):
    pytest.importorskip("transformers")
    from devpolicy._core.model import sealed

    monkeypatch.setattr(sealed, "LARGEST_TREE", 40)
    assert "more than 40 modules, the limit" in refused(ModelTree.from_config, LLAMA | {"num_hidden_layers": 4})
    assert len(ModelTree.from_config(LLAMA | {"num_hidden_layers": 1}).modules) < 40


def test_what_is_shut_while_a_model_is_built_is_open_afterwards():
    pytest.importorskip("transformers")
    from torch import nn
    from transformers import backbone_utils
    from transformers.models.auto import auto_factory

    before = nn.Module.__init__, backbone_utils.hf_api, auto_factory.resolve_trust_remote_code
    ModelTree.from_config(LLAMA)
    refused(ModelTree.from_config, LLAMA | {"hidden_size": "x"})
    assert before == (nn.Module.__init__, backbone_utils.hf_api, auto_factory.resolve_trust_remote_code)


# Keys that Transformers would act on.


@pytest.mark.parametrize("key", sorted(INERT))
def test_a_key_that_says_nothing_of_modules_changes_no_tree(key):
    pytest.importorskip("transformers")
    expected = ModelTree.from_config(LLAMA)
    for value in ("org/evil", {"AutoModel": "evil.Evil"}):
        tree = ModelTree.from_config(LLAMA | {key: value, "rope_parameters": {"rope_theta": 10000.0, key: value}})
        assert tree.modules == expected.modules
        assert tree.kv_cache == expected.kv_cache


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "value", ["flash_attention_2", "flex_attention", "kernels-community/evil:f", "nope", {"": "x"}]
)
def test_no_plan_depends_on_the_attention_that_is_installed_here(key, value):
    transformers = pytest.importorskip("transformers")
    from devpolicy._core.model.config import build

    assert build(LLAMA | {key: value}).config._attn_implementation == "sdpa"
    config = transformers.LlamaConfig(**{name: LLAMA[name] for name in LLAMA if name != "model_type"})
    config._attn_implementation = value
    assert build(config).config._attn_implementation == "sdpa"
    assert config._attn_implementation == (value if isinstance(value, str) else config._attn_implementation)


def test_a_key_cannot_be_renamed_into_one_that_runs_code(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('RAN').touch()\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    table = {
        "model_type": "align_text_model",
        "attribute_map": {"auto_map": "other", "_name_or_path": "folder"},
        "other": {"AutoModel": "evil.Evil"},
        "folder": str(tmp_path),
    }
    assert "cannot build" in refused(ModelTree.from_config, table)
    assert not (tmp_path / "RAN").exists()


def test_the_code_of_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('RAN').touch()\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    code = {"auto_map": {"AutoModel": "evil.Evil"}, "_name_or_path": str(tmp_path), "trust_remote_code": True}
    refused(ModelTree.from_config, {"model_type": "align_text_model", **code})
    refused(ModelTree.from_config, transformers.AutoConfig.for_model("align_text_model", **code))
    assert ModelTree.from_config(LLAMA | code).name == tmp_path.name
    assert not asked
    assert not (tmp_path / "RAN").exists()


def test_a_backbone_of_another_repository_is_not_fetched(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    message = refused(ModelTree.from_config, {"model_type": "upernet", "backbone": "org/evil"})
    assert "nothing is fetched" in message
    message = refused(ModelTree.from_config, {"model_type": "timm_wrapper", "architecture": "hf-hub:org/evil"})
    assert "nothing is fetched" in message


# Architectures.


@pytest.mark.parametrize("given", [5, "LlamaForCausalLM", [["x"]], {"a": 1}, [5], [""], [None]])
def test_architectures_that_are_no_list_of_names_are_refused(given, tmp_path):
    pytest.importorskip("transformers")
    assert "`architectures` is no list of class names" in refused(
        ModelTree.from_config, LLAMA | {"architectures": given}
    )
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"architectures": given}))
    assert "`architectures` is no list of class names" in refused(ModelTree.from_checkpoint, tmp_path)


@pytest.mark.parametrize("given", ["os", "LlamaForCausalML", "PreTrainedModel", "LlamaPreTrainedModel", "AutoModel"])
def test_an_architecture_that_is_no_model_is_refused(given):
    pytest.importorskip("transformers")
    message = refused(ModelTree.from_config, LLAMA | {"architectures": [given]})
    assert f"`{given}` is no" in message


# Files.


@pytest.fixture(params=["pipe", "device", "loop", "folder", "long"])
def strange(request, tmp_path):
    """A path at which no regular file is."""
    path = tmp_path / "strange.json"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "loop":
        path.symlink_to(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path = tmp_path / ("a" * 300)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "shard"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(strange, name, tmp_path):
    for call in (read_header, lambda path: read_json(path, 100), ModelTree.from_config):
        assert str(strange)[:50] in refused(call, strange)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    place = folder / name
    if name == "shard":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "shard"}}))
    place.unlink(missing_ok=True)
    place.symlink_to(strange)
    assert str(folder)[:50] in refused(ModelTree.load, folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
@pytest.mark.parametrize("name", ["model.toml", "config.json", "model"])
def test_a_pipe_is_no_model_file(name, tmp_path):
    os.mkfifo(tmp_path / name)
    assert "it is a pipe" in refused(ModelTree.load, tmp_path / name)


def test_a_file_larger_than_its_limit_is_not_read(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as opened:
        opened.truncate(limits.LARGEST_CONFIG + 1)
    assert "is larger than 8 MiB" in refused(ModelTree.from_config, file)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b"{}," * 4_000_000 + b"{}]}",
        b'{"a":{"dtype":"F32","shape":[' + b"0," * 4_000_000 + b"0]}}",
        b'{"a":' + b"[" * 4_000_000,
        b"[" + b"[]," * 2_000_000 + b"[]]",
    ],
    ids=["objects", "numbers", "nested", "lists"],
)
def test_a_header_of_rubbish_is_refused_before_it_is_parsed(text, tmp_path, monkeypatch):
    monkeypatch.setattr("json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    assert "safetensors" in refused(read_header, header(tmp_path / "model.safetensors", text))


def test_metadata_may_hold_what_looks_like_a_header(tmp_path):
    text = json.dumps({"__metadata__": {"tags": json.dumps([{"a": [1, 2, 3]}] * 1000)}}).encode()
    assert read_header(header(tmp_path / "a.safetensors", text)) == {}


def test_the_name_of_a_tensor_has_a_limit(tmp_path):
    text = json.dumps({"a" * 1001: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()
    assert "the limit is 1000" in refused(read_header, header(tmp_path / "a.safetensors", text))


def test_an_index_of_too_many_tensors_or_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {f"m.{n}.w": f"{n}.safetensors" for n in range(limits.MOST_SHARDS + 1)}})
    )
    assert f"the limit is {limits.MOST_SHARDS}" in refused(ModelTree.from_checkpoint, tmp_path)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(map(str, range(limits.MOST_TENSORS + 1)), "a")}))
    assert f"names more than {limits.MOST_TENSORS} tensors" in refused(ModelTree.from_checkpoint, tmp_path)


def test_an_index_that_names_a_very_long_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a" * 5000}}))
    message = refused(ModelTree.from_checkpoint, tmp_path)
    assert "file name too long" in message
    assert len(message) < 1000


def test_a_model_file_of_too_many_modules_is_not_expanded():
    text = 'name = "a"\n[[module]]\npath = ""\nclass = "M"\n[[module]]\npath = "{0..999998}"\nclass = "M"\n'
    assert "more than are read: 250000" in refused(ModelTree.parse, text)


@pytest.fixture
def unprivileged():
    """A folder, while this process has no more rights than any user."""
    folder = Path(tempfile.mkdtemp(prefix="devpolicy-"))
    folder.chmod(0o755)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        if os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids) and root:
            pytest.skip("every user may write here")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions here")
@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444])
@pytest.mark.parametrize("config", [True, False])
def test_a_folder_that_may_not_be_read_has_its_place(mode, config, unprivileged, as_owner):
    folder = as_owner(unprivileged / "checkpoint", mode, {"config.json": json.dumps(LLAMA)} if config else {})
    for call in (ModelTree.load, ModelTree.from_checkpoint):
        message = refused(call, folder)
        assert str(folder) in message
        assert "permission denied" in message or "has no weights" in message


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such permissions here")
@pytest.mark.parametrize("locked", ["models--a--b", "models--a--b/snapshots", "models--a--b/refs"])
def test_a_hub_cache_that_may_not_be_read_has_its_place(locked, unprivileged, as_owner, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(unprivileged))
    repository = "models--a--b"
    as_owner(unprivileged / repository / "snapshots" / "x", 0o755, {})
    as_owner(unprivileged / repository / "refs", 0o755, {})
    as_owner(unprivileged / locked, 0o000, {})
    assert "permission denied" in refused(cached_snapshot, "a/b")


@pytest.fixture
def as_owner():
    """Make a folder as the user that the test had before, with a mode and files."""

    def make(folder, mode, files):
        mine = os.geteuid()
        if os.getuid() == 0:
            os.seteuid(0)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        folder.chmod(mode)
        os.seteuid(mine)
        return folder

    return make


def test_a_reference_of_the_hub_cache_stays_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "secret").mkdir()
    references = tmp_path / "cache" / "models--a--b" / "refs"
    references.mkdir(parents=True)
    (references.parent / "snapshots").mkdir()
    (references / "main").write_text("../../../secret")
    assert cached_snapshot("a/b") is None


# Values of a wrong type.


@pytest.mark.parametrize("value", [None, 5, [], {}, b"x", object, 1.5, True, ("a",)], ids=repr)
@pytest.mark.parametrize("door", ["load", "from_checkpoint", "from_config", "parse", "from_module"])
def test_a_value_of_a_wrong_type_is_refused_on_purpose(door, value):
    refused(getattr(ModelTree, door), value)


@pytest.mark.parametrize("door", ["load", "from_checkpoint", "from_config"])
@pytest.mark.parametrize("name", ["x" * 10_000, "a\0b", "", "\ud800"], ids=["long", "nul", "empty", "surrogate"])
def test_a_name_that_no_file_can_have_is_refused_on_purpose(door, name):
    refused(getattr(ModelTree, door), name)


@pytest.mark.parametrize("architecture", [5, b"x", [], ""])
def test_an_architecture_of_a_wrong_type_is_refused_on_purpose(architecture):
    refused(ModelTree.from_config, LLAMA, architecture=architecture)
