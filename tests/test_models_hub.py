"""Models of the hub by their headers, from a local server that speaks the hub's protocol."""

import json
import os
import struct
import subprocess
import sys

import pytest

from devpolicy import Policy, plan
from devpolicy._core.model.catalogue import load
from devpolicy._core.model.headers import DTYPES
from devpolicy._core.model.hub import HubName, from_hub
from devpolicy._core.model.tree import DTYPE_BITS, ModelTree
from devpolicy.errors import ModelError
from tests.hub_server import COMMIT, local_hub
from tests.test_models_gguf import LLAMA, dense, gguf

pytest.importorskip("huggingface_hub")

SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 128,
    "max_position_embeddings": 64, "dtype": "bfloat16",
}  # fmt: skip
LARGE = SMALL | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running hub, to which the client is turned, with an empty cache of ours."""
    from huggingface_hub import constants

    with local_hub() as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


def checkpoint(folder, config, shards=1):
    """Write a checkpoint of a family whose template is known. Its weights are holes."""
    from devpolicy._core.model.families import family_tree

    tree = family_tree(config)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = {torch: stored for stored, torch in DTYPES.items()}
    tensors = [
        (f"{module.path}.{tensor.name}", tensor)
        for module in tree.modules
        for tensor in module.tensors
        if tensor.persistent
    ]
    mapped = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        table, at = {"__metadata__": {"format": "pt"}}, 0
        for name, tensor in tensors[shard::shards]:
            size = tensor.elements * DTYPE_BITS[tensor.dtype] // 8
            table[name] = {"dtype": names[tensor.dtype], "shape": tensor.shape, "data_offsets": [at, at + size]}
            at += size
            mapped[name] = file
        header = json.dumps(table).encode()
        with (folder / file).open("wb") as opened:
            opened.write(struct.pack("<Q", len(header)) + header)
            opened.truncate(8 + len(header) + at)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapped}))
    return folder


def refused(text, **arguments):
    with pytest.raises(ModelError) as error:
        from_hub(text, **arguments)
    assert error.value.diagnostics[0].help or error.value.diagnostics[0].notes
    return error.value


def test_a_model_of_the_hub_is_the_checkpoint_of_its_files(hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    told = []
    tree = from_hub("hf://org/small", progress=lambda done, of: told.append((done, of)))
    assert tree == ModelTree.from_checkpoint(tmp_path / "small")
    assert (tree.name, told) == ("small", [(1, 1)])


def test_a_70b_of_thirty_shards_takes_under_three_megabytes(hub, tmp_path, monkeypatch):
    from devpolicy._core.model import structure

    monkeypatch.setattr(structure, "has_transformers", lambda: False)
    hub.repositories["org/large"] = checkpoint(tmp_path / "large", LARGE, shards=30)
    tree = load("hf://org/large")
    assert tree.parameters == 70_553_706_496
    assert plan(Policy.parse('prefer = "cuda"\nsplit = "balanced"\n'), tree, "4x80gb").device.has_multiple_devices
    assert hub.sent < 3_000_000
    assert len(hub.requests) < 70  # each file once, each with its redirect


def test_a_gguf_of_forty_gigabytes_takes_under_three_megabytes(hub, tmp_path):
    (tmp_path / "gguf").mkdir()
    tensors = dense() | {f"blk.{n}.ffn_big.weight": ("q4_k", (1_048_576, 24_576)) for n in range(3)}
    path = gguf(tmp_path / "gguf" / "big-Q4_K_M.gguf", tensors)
    assert path.stat().st_size > 40e9
    hub.repositories["org/big"] = tmp_path / "gguf"
    tree = from_hub("hf://org/big/big-Q4_K_M.gguf")
    assert tree == ModelTree.load(path) == from_hub("hf://org/big")
    assert hub.sent < 3_000_000


def test_several_gguf_models_are_named(hub, tmp_path):
    (tmp_path / "gguf").mkdir()
    for name in ("a", "b"):
        gguf(tmp_path / "gguf" / f"{name}.gguf", dense())
    hub.repositories["org/two"] = tmp_path / "gguf"
    assert "hf://org/two/a.gguf" in str(refused("hf://org/two"))
    assert from_hub("hf://org/two/b.gguf").name == "b"


def test_a_projector_of_a_repository_is_named_as_in_a_folder(hub, tmp_path):
    # It was one of two models, and a plan of the other said nothing of it.
    (tmp_path / "gguf").mkdir()
    for name in ("x", "mmproj-x-f16"):
        gguf(tmp_path / "gguf" / f"{name}.gguf", dense())
    hub.repositories["org/sees"] = tmp_path / "gguf"
    trees = [from_hub("hf://org/sees"), from_hub("hf://org/sees/x.gguf"), ModelTree.load(tmp_path / "gguf")]
    notes = {tree.loading.notes for tree in (*trees, from_hub("hf://org/sees"))}  # the last one was kept
    assert len(notes) == 1 and "`mmproj-x-f16.gguf`" in "".join(*notes)
    assert not from_hub("hf://org/sees/mmproj-x-f16.gguf").loading.notes


def test_a_split_gguf_is_read_from_all_its_parts(hub, tmp_path):
    (tmp_path / "gguf").mkdir()
    tensors = list(dense().items())
    for part in (0, 1):
        split = {"split.no": part, "split.count": 2, "split.tensors.count": len(tensors)}
        name = f"x-{part + 1:05}-of-00002.gguf"
        gguf(tmp_path / "gguf" / name, dict(tensors[part::2]), (LLAMA if part == 0 else {}) | split)
    hub.repositories["org/split"] = tmp_path / "gguf"
    assert from_hub("hf://org/split") == ModelTree.load(tmp_path / "gguf")


def test_what_was_read_is_kept_and_found_without_a_connection(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL, shards=2)
    tree = from_hub("hf://org/small@v1")
    before = len(hub.requests)
    assert from_hub("hf://org/small@v1") == tree
    assert len(hub.requests) == before + 1  # what the revision names now
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert from_hub("hf://org/small@v1") == from_hub(f"hf://org/small@{COMMIT}") == tree
    assert from_hub("hf://org/small@v1", fetch=False) == tree
    assert len(hub.requests) == before + 1
    error = refused("hf://org/small@main")
    assert (error.code, "HF_HUB_OFFLINE" in str(error)) == ("DP204", True)


def test_a_policy_does_not_reach_for_the_network(hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    policy = Policy.parse('prefer = "cpu"\n[component.a]\nmodel = "hf://org/small"\n')
    with pytest.raises(ModelError, match="does not reach for the network") as error:
        plan(policy, None, "1x24gb", component="a")
    assert (error.value.code, hub.requests) == ("DP204", [])
    from_hub("hf://org/small")
    assert plan(policy, None, "1x24gb", component="a").device is not None


def test_a_saved_pipeline_reaches_no_hub(hub, tmp_path):
    pytest.importorskip("yaml")
    from devpolicy.haystack import survey

    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    cls = "haystack_integrations.components.generators.transformers.chat_generator.TransformersChatGenerator"
    kwargs = "{huggingface_pipeline_kwargs: {model: 'hf://org/small', task: text-generation}}"
    (tmp_path / "rag.yaml").write_text(f"components: {{llm: {{type: {cls}, init_parameters: {kwargs}}}}}\n")
    (found,) = survey(Policy.parse('prefer = "cuda"'), tmp_path / "rag.yaml", "1x24gb").components
    assert (found.name, found.decision.plan, hub.requests) == ("llm", None, [])


def test_an_interrupted_reading_keeps_nothing_half(hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL, shards=2)
    hub.change = lambda body: body if body.startswith(b"{") else body[:20]
    assert "came 20 bytes" in str(refused("hf://org/small"))
    assert "was not read before" in str(refused("hf://org/small", fetch=False))
    hub.change = lambda body: body
    assert from_hub("hf://org/small").parameters


@pytest.mark.parametrize(
    "text", ["hf://", "hf://org", "hf://../x/y", "hf://org/a b", "hf://org/x@", "hf://org/x/y/z.gguf"]
)
def test_what_names_no_model_of_the_hub_is_told_so(text):
    with pytest.raises(ModelError, match="names no model of the hub") as error:
        HubName.parse(text)
    assert error.value.code == "DP104"


def test_a_gated_model_needs_the_token(hub, tmp_path, monkeypatch):
    hub.repositories["org/gated"] = checkpoint(tmp_path / "gated", SMALL)
    hub.gated.add("org/gated")
    error = refused("hf://org/gated")
    assert (error.code, "is gated" in str(error), "hf auth login" in str(error)) == ("DP204", True, True)
    monkeypatch.setenv("HF_TOKEN", "right")
    assert from_hub("hf://org/gated").parameters


def test_missing_models_and_revisions_are_findings(hub, tmp_path):
    assert "has no model `org/none`" in str(refused("hf://org/none"))
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    assert "has no revision `v9`" in str(refused("hf://org/small@v9"))
    assert "`x.gguf`" in str(refused("hf://org/small/x.gguf"))


@pytest.mark.parametrize(
    ("status", "told"), [(429, "try again in 7 seconds"), (403, "does not let"), (500, "did not answer")]
)
def test_refusals_of_the_server_are_findings(status, told, hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    hub.status = status
    assert told in str(refused("hf://org/small"))


def test_no_server_is_a_finding(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "did not answer" in str(refused("hf://org/small"))


def test_a_circle_of_redirects_is_a_finding(hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    hub.loops = True
    assert "did not answer" in str(refused("hf://org/small"))


def test_a_server_that_ignores_ranges_sends_no_weights(hub, tmp_path):
    hub.repositories["org/large"] = checkpoint(tmp_path / "large", LARGE | {"num_hidden_layers": 4})
    hub.ignores_ranges = True
    tree = from_hub("hf://org/large")
    assert tree.parameters > 4e9


@pytest.mark.parametrize("change", [lambda body: b"\xff" * len(body), lambda body: b"<html>" + body[6:]])
def test_broken_bodies_are_findings(change, hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    hub.change = change
    refused_with = pytest.raises(ModelError)
    with refused_with as error:
        from_hub("hf://org/small")
    assert error.value.code in ("DP101", "DP104", "DP204")


def test_a_size_that_was_announced_and_is_not_true_is_a_finding(hub, tmp_path):
    hub.repositories["org/small"] = checkpoint(tmp_path / "small", SMALL)
    hub.sizes["model.safetensors"] = 10**9
    assert "were announced" in str(refused("hf://org/small"))


def test_an_index_of_other_folders_is_refused(hub, tmp_path):
    folder = checkpoint(tmp_path / "small", SMALL, shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    hub.repositories["org/small"] = folder
    assert refused("hf://org/small").code == "DP204"


def test_a_repository_without_weights_says_what_it_holds(hub, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "README.md").write_text("hello")
    hub.repositories["org/none"] = tmp_path / "none"
    assert "it holds `README.md`" in str(refused("hf://org/none"))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "org/base"}', ["an adapter of `org/base`", "`FOLDER`"]),
        ("model_index.json", "{}", ["a diffusers pipeline"]),
        ("modules.json", "[]", ["a sentence-transformers model"]),
        ("config.cfg", "[nlp]", ["a spaCy pipeline", "needs"]),
    ],
)
def test_a_repository_of_another_library_says_what_it_is(file, content, told, hub, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / file).write_text(content)
    hub.repositories["org/other"] = tmp_path / "other"
    error = refused("hf://org/other")
    shown = f"{error.diagnostics[0].message} {error.diagnostics[0].help}"
    assert [text for text in ["`org/other` is", "hf download org/other", *told] if text.strip("`") not in shown] == []
    assert str(tmp_path) not in shown


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architecture": "resnet50", "pretrained_cfg": {}}, "`org/other` is a model of timm"),
        ({"architecture": "resnet50", "pretrained_cfg": {}}, 'timm.create_model("hf-hub:org/other")'),
        ({"_class_name": "UNet2DModel"}, "`org/other` is a part of a diffusers pipeline"),
    ],
)
def test_a_refusal_names_the_model_of_the_hub(config, told, hub, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(16)
    (tmp_path / "other" / "model.safetensors").write_bytes(weights)
    hub.repositories["org/other"] = tmp_path / "other"
    for _ in range(2):  # read, and kept
        error = str(refused("hf://org/other"))
        assert told in error
        assert str(tmp_path) not in error


def test_the_command_captures_a_model_of_the_hub(hub, tmp_path):
    hub.repositories["org/gated"] = checkpoint(tmp_path / "gated", SMALL)
    hub.gated.add("org/gated")
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "right"}
    environment.pop("HF_HUB_OFFLINE", None)

    def command(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "devpolicy", *arguments],
            env=environment | more,
            capture_output=True,
            text=True,
            check=False,
        )

    written = tmp_path / "out.toml"
    done = command("model", "capture", "hf://org/gated", "--output", str(written))
    size = (tmp_path / "gated" / "model.safetensors").stat().st_size / 2**10
    line = f"hf://org/gated: 1 file of {size:.1f} KiB, only the headers are read\n"
    assert (done.returncode, done.stderr) == (0, line)
    assert command("model", "show", "hf://org/gated").stderr == ""  # kept: nothing is read
    assert ModelTree.load(written) == from_hub("hf://org/gated", fetch=False)
    done = command("model", "show", "hf://org/gated@v1", HF_HUB_OFFLINE="1")
    assert (done.returncode, "error[DP204]" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
