"""What `[loading]` does to a plan: what is handed over, what is refused, and by which consumers."""

import json
import struct
from dataclasses import replace

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Unsatisfiable, plan
from devpolicy._core.language.policy import Policy
from devpolicy._core.loading import Loading
from devpolicy._core.model.tree import KVCache, Module, Tensor

HOST = Host(accelerators=[Accelerator("cuda", memory="8 GiB")], memory="16 GiB")


def tree(*attention, **more):
    modules = (Module("", "Tiny"), Module("a", "Linear", (Tensor("weight", (8, 8), "float16"),)))
    return ModelTree("tiny", modules, loading=Loading("Tiny", attention), **more)


def made(text, model=None, **kwargs):
    return plan(Policy.parse(f'prefer = ["cuda", "cpu"]\n{text}'), model or tree(("", "sdpa")), HOST, **kwargs)


def test_attention_is_handed_over_and_read_back():
    result = made('loading.attention = "eager"')
    assert result.to_hf_kwargs()["attn_implementation"] == "eager"
    assert result.to_pipeline_kwargs()["model_kwargs"]["attn_implementation"] == "eager"
    assert Plan.from_dict(result.to_dict()) == result


def test_a_part_that_has_only_eager_keeps_it():
    model = tree(("", "sdpa"), ("vision_config", "eager"))
    assert made('loading.attention = "flash_attention_2"', model).loading.attention == (
        ("", "flash_attention_2"),
        ("vision_config", "eager"),
    )


def test_the_digest_changes_only_where_something_is_said():
    plain = made("")
    assert made('loading.quantization = "none"').digest == plain.digest
    assert len({plain.digest, *(made(f'loading.attention = "{word}"').digest for word in ("eager", "sdpa"))}) == 3


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ('loading.attention = "sdpa"', tree(("", "eager"))),
        ('loading.attention = "flash_attention_2"\nworkload.dtype = "float32"', tree(("", "sdpa"))),
    ],
)
def test_what_cannot_be_had_is_refused(line, model):
    with pytest.raises(Unsatisfiable, match="DP416") as refused:
        made(line, model)
    assert refused.value.diagnostics[0].help


def test_flash_attention_runs_on_no_cpu():
    text = 'loading.attention = "flash_attention_2"'
    assert "cuda:0" in made(text).ledger
    with pytest.raises(Unsatisfiable, match="does not run on `cpu`"):
        plan(Policy.parse(f'prefer = "cpu"\n{text}'), tree(("", "sdpa")), HOST)


@pytest.mark.parametrize("target", ["torch", "spacy"])
def test_consumers_of_a_device_warn(target):
    (warning,) = [one for one in made('loading.attention = "eager"', target=target).warnings if one.code == "DP416"]
    assert "loading.attention" in warning.message


def test_a_consumer_without_adapters_says_what_to_do(tmp_path):
    tensors = {f"base_model.model.a.lora_{part}.weight": shape for part, shape in (("A", [2, 8]), ("B", [8, 2]))}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [64 * at, 64 * at + 64]}
              for at, (name, shape) in enumerate(tensors.items())}  # fmt: skip
    text = json.dumps(header).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(128))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["a"]}')
    with pytest.raises(Unsatisfiable, match="DP416") as refused:
        made(f'loading.adapter = "{tmp_path.as_posix()}"', target="haystack")
    assert "merge" in refused.value.diagnostics[0].help


def test_a_consumer_that_loads_otherwise_refuses():
    with pytest.raises(Unsatisfiable, match="DP416"):
        made('loading.architecture = "Tiny"', target="haystack")
    assert made('loading.attention = "eager"', target="haystack").to_hf_kwargs()["attn_implementation"] == "eager"


def test_a_model_that_is_no_checkpoint_has_one_class():
    from devpolicy.errors import ModelError

    with pytest.raises(ModelError, match="DP106"):
        made('loading.architecture = "Other"')
    with pytest.raises(ModelError, match="DP106"):
        made('loading.variant = "fp16"')
    assert made('loading.architecture = "Tiny"').loading.architecture == "Tiny"


def test_beams_multiply_caches_and_activations():
    model = replace(tree(("", "sdpa")), kv_cache=(KVCache("a", 16),), activation_elements_per_token=10)
    one = made("", model).ledger["cuda:0"]
    four = made("workload.beams = 4", model).ledger["cuda:0"]
    assert (four.kv_cache, four.activations) == (4 * one.kv_cache, 4 * one.activations)
    own = replace(model, beams=4)
    assert made("", own).ledger["cuda:0"] == four
    assert made("workload.beams = 1", own).ledger["cuda:0"] == one
    assert ModelTree.parse(own.to_toml()) == own
