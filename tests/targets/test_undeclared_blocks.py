"""Models whose class declares no blocks: what stands beside the blocks is on one device, and a plan says so."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import Accelerator, Host, Policy, plan  # noqa: E402
from devpolicy.testing import simulate_host  # noqa: E402

LED = {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100, "max_encoder_position_embeddings": 64,
    "max_decoder_position_embeddings": 64, "attention_window": 4, "pad_token_id": 0,
}  # fmt: skip
# accelerate warns of keys that name tensors; a container's own tensors have no other key.
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
BALANCED = Policy.parse('prefer = "cuda"\nsplit = "balanced"')


@pytest.mark.parametrize("count", [2, 4])
def test_embeddings_that_are_added_up_share_a_device(count, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    transformers.LEDForConditionalGeneration(transformers.LEDConfig(**LED)).save_pretrained(tmp_path)
    host = Host([Accelerator("cuda", memory="4 GiB")] * count, memory="16 GiB")
    made = plan(BALANCED, tmp_path, host)
    assert [warning.code for warning in made.warnings if warning.code in ("DP419", "DP422")]
    with simulate_host(host, depth="tensors"), torch.no_grad():
        model = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path, **made.to_hf_kwargs()).eval()
        model(input_ids=torch.arange(3, 11)[None], decoder_input_ids=torch.arange(3, 7)[None])


TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100,
    "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "depths": [2, 1, 1], "num_group_tokens": [8, 4, 0],
    "num_output_groups": [8, 4, 4], "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def test_a_class_that_cannot_be_divided_runs_on_one_of_several(tmp_path):
    transformers.utils.logging.disable_progress_bar()
    sizes = {"projection_dim": 16, "projection_intermediate_dim": 32}
    config = transformers.GroupViTConfig(text_config=TEXT, vision_config=VISION, **sizes)
    transformers.GroupViTModel(config).save_pretrained(tmp_path)
    host = Host([Accelerator("cuda", memory="4 GiB")] * 3, memory="16 GiB")
    made = plan(BALANCED, tmp_path, host)
    assert [warning.code for warning in made.warnings] == ["DP419"]
    given = {"pixel_values": torch.ones(1, 3, 32, 32), "input_ids": torch.tensor([[1, 5, 6, 2]])}
    with torch.no_grad():
        expected = transformers.GroupViTModel.from_pretrained(tmp_path).eval()(**given).logits_per_image
    with simulate_host(host, depth="tensors"), torch.no_grad():
        model = transformers.GroupViTModel.from_pretrained(tmp_path, **made.to_hf_kwargs()).eval()
        assert made.verify(model) == []
        found = model(**{key: one.to("cuda:0") for key, one in given.items()}).logits_per_image
        torch.testing.assert_close(found.cpu(), expected)


def test_one_device_needs_no_word():
    module = torch.nn.Module()
    module.own = torch.nn.Parameter(torch.ones(4))
    module.one, module.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    host = Host([Accelerator("cuda", memory="4 GiB")] * 2, memory="16 GiB")
    assert plan(Policy.parse('prefer = "cuda"'), module, host).warnings == ()
    assert "DP422" in [warning.code for warning in plan(BALANCED, module, host).warnings]
