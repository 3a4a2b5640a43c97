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


def test_one_device_needs_no_word():
    module = torch.nn.Module()
    module.own = torch.nn.Parameter(torch.ones(4))
    module.one, module.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    host = Host([Accelerator("cuda", memory="4 GiB")] * 2, memory="16 GiB")
    assert plan(Policy.parse('prefer = "cuda"'), module, host).warnings == ()
    assert "DP422" in [warning.code for warning in plan(BALANCED, module, host).warnings]
