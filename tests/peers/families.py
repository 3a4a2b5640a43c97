"""The mixin of tests that every model of Transformers runs, over small models of 13 families.

It is copied into Transformers' source package, which has the mixin and no models' tests: how a model is made and what
it is given is written here, and so are four tests of `generate` and of two devices, after those that the package lacks.
"""

from __future__ import annotations

import importlib
import tempfile
import unittest
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, set_seed
from transformers.testing_utils import require_torch_accelerator, require_torch_multi_accelerator, torch_device

common = importlib.import_module("tests.test_modeling_common")

Inputs = dict[str, torch.Tensor]

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
DECODER = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS_AND_HEADS = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
# Four blocks: of two, none fits what the tests leave of the first device beside the embedding of patches.
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 30,
    "patch_size": 10,
}
PATCHES = 9
IMAGE_TOKEN = 98


def text(batch: int = 2, length: int = 7) -> Inputs:
    """Return token ids and a mask without padding."""
    ids = common.ids_tensor([batch, length], IMAGE_TOKEN)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def text_to_text() -> Inputs:
    decoder = {f"decoder_{name}": values for name, values in text().items()}
    return {**text(), **decoder}


def image() -> Inputs:
    return {"pixel_values": common.floats_tensor([2, 3, 30, 30])}


def speech() -> Inputs:
    return {"input_features": common.floats_tensor([2, 80, 60]), "decoder_input_ids": text()["input_ids"]}


def image_in_text() -> Inputs:
    found = text(length=PATCHES + 3)
    found["input_ids"][:, :PATCHES] = IMAGE_TOKEN
    return {**found, **image()}


def _config(family: str, **options: Any) -> PretrainedConfig:
    made: PretrainedConfig = getattr(transformers, f"{family}Config")(**options)
    return made


FAMILIES: dict[str, tuple[Callable[[], PretrainedConfig], Callable[[], Inputs], tuple[str, ...]]] = {
    "Llama": (lambda: _config("Llama", **DECODER), text, ("LlamaModel", "LlamaForCausalLM")),
    "Mixtral": (
        lambda: _config("Mixtral", **DECODER, num_local_experts=4),
        text,
        ("MixtralModel", "MixtralForCausalLM"),
    ),
    "Qwen2": (lambda: _config("Qwen2", **DECODER), text, ("Qwen2Model", "Qwen2ForCausalLM")),
    "Gemma2": (lambda: _config("Gemma2", **DECODER, head_dim=8), text, ("Gemma2Model", "Gemma2ForCausalLM")),
    "GPT2": (
        lambda: _config(
            "GPT2",
            vocab_size=99,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        text,
        ("GPT2Model", "GPT2LMHeadModel"),
    ),
    "OPT": (
        lambda: _config("OPT", **TEXT, ffn_dim=32, word_embed_proj_dim=32),
        text,
        ("OPTModel", "OPTForCausalLM"),
    ),
    "Bert": (lambda: _config("Bert", **TEXT), text, ("BertModel", "BertForMaskedLM")),
    "T5": (
        lambda: _config(
            "T5",
            vocab_size=99,
            d_model=32,
            d_ff=32,
            d_kv=8,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        ),
        text_to_text,
        ("T5Model", "T5ForConditionalGeneration"),
    ),
    "Bart": (
        lambda: _config("Bart", **LAYERS_AND_HEADS, max_position_embeddings=64),
        text_to_text,
        ("BartModel", "BartForConditionalGeneration"),
    ),
    "ViT": (lambda: _config("ViT", **IMAGE), image, ("ViTModel", "ViTForImageClassification")),
    "CLIP": (
        lambda: _config(
            "CLIP",
            text_config=TEXT | {"projection_dim": 32},
            vision_config=IMAGE | {"projection_dim": 32},
            projection_dim=32,
        ),
        lambda: {**text(), **image()},
        ("CLIPModel",),
    ),
    "Whisper": (
        lambda: _config(
            "Whisper",
            **LAYERS_AND_HEADS,
            max_source_positions=30,
            max_target_positions=40,
            num_mel_bins=80,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
        speech,
        ("WhisperModel", "WhisperForConditionalGeneration"),
    ),
    "Llava": (
        lambda: _config(
            "Llava",
            vision_config=_config("CLIPVision", **IMAGE, projection_dim=32),
            text_config=_config("Llama", **DECODER),
            image_token_id=IMAGE_TOKEN,
            image_seq_length=PATCHES,
            vision_feature_layer=-1,
        ),
        image_in_text,
        ("LlavaForConditionalGeneration",),
    ),
}


class ModelTester:
    """What the mixin asks of a model's tests."""

    batch_size, seq_length, hidden_size, vocab_size = 2, 7, 32, 99
    num_hidden_layers, num_attention_heads, num_labels, is_training = 2, 4, 3, True

    def __init__(self, config: Callable[[], PretrainedConfig], inputs: Callable[[], Inputs]) -> None:
        self.get_config, self.inputs = config, inputs

    def prepare_config_and_inputs_for_common(self) -> tuple[PretrainedConfig, Inputs]:
        return self.get_config(), self.inputs()


class GenerationTests:
    """Tests of `generate`, and of a model in several parts."""

    model_tester: ModelTester
    all_generative_model_classes: tuple[Any, ...]
    all_model_classes: tuple[Any, ...]

    def _models(self) -> Any:
        for made in self.all_generative_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            prompt = {name: values for name, values in inputs.items() if not name.startswith("decoder_")}
            yield made(config).eval(), prompt

    @require_torch_multi_accelerator
    def test_beam_search_over_two_devices(self) -> None:
        for model, prompt in self._models():
            share = int(0.6 * sum(each.numel() * each.element_size() for each in model.parameters()))
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                memory = {0: share, 1: "1GB"}
                divided = type(model).from_pretrained(folder, device_map="auto", max_memory=memory)
                assert set(divided.hf_device_map.values()) == {0, 1}
                found = divided.generate(**prompt, max_new_tokens=5, num_beams=2, do_sample=False)
            whole = model.to(torch_device).generate(**prompt, max_new_tokens=5, num_beams=2, do_sample=False)
            assert found.tolist() == whole.tolist()

    @require_torch_accelerator
    def test_generate_with_static_cache(self) -> None:
        for model, prompt in self._models():
            on = model.to(torch_device)
            whole = on.generate(**prompt, max_new_tokens=5, do_sample=False)
            assert whole.device.type == torch.device(torch_device).type
            if not model.config.is_encoder_decoder:
                static = on.generate(**prompt, max_new_tokens=5, do_sample=False, cache_implementation="static")
                assert static.tolist() == whole.tolist()

    @require_torch_accelerator
    def test_generate_with_sampling(self) -> None:
        for model, prompt in self._models():
            set_seed(0)
            options = {"do_sample": True, "top_k": 5, "top_p": 0.9, "temperature": 0.7}
            found = model.to(torch_device).generate(**prompt, max_new_tokens=5, **options)
            assert found.device.type == torch.device(torch_device).type

    @require_torch_multi_accelerator
    def test_data_parallel(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = torch.nn.DataParallel(self.all_model_classes[0](config).to(torch_device).eval())
        with torch.no_grad():
            model(**{name: values.to(torch_device) for name, values in inputs.items()})


def _tests(family: str) -> type[unittest.TestCase]:
    config, inputs, names = FAMILIES[family]

    def set_up(self: Any) -> None:
        self.model_tester = ModelTester(config, inputs)

    members = {
        "setUp": set_up,
        "all_model_classes": tuple(getattr(transformers, name) for name in names),
        "is_encoder_decoder": config().is_encoder_decoder,
        "_is_composite": family in {"CLIP", "Llava"},
        "__module__": __name__,
    }
    bases = (common.ModelTesterMixin, GenerationTests, unittest.TestCase)
    return type(f"{family}ModelTest", bases, members)


globals().update({f"{family}ModelTest": _tests(family) for family in FAMILIES})
