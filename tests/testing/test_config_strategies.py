"""Generated Transformers configurations build, run, and are read alike by every way to a model tree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import find, given, settings
from hypothesis.errors import InvalidArgument

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from devpolicy import ModelTree  # noqa: E402
from devpolicy._core.model.families import family_tree  # noqa: E402
from devpolicy.testing.strategies import transformers_configs  # noqa: E402


def model_of(config: Any) -> Any:
    return getattr(transformers, config.architectures[0])(config)


@settings(max_examples=settings.default.max_examples // 2)  # each builds a model
@given(transformers_configs())
def test_a_configuration_builds_a_small_model_that_answers(config: Any) -> None:
    model = model_of(config).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    with torch.no_grad():
        answer = model(input_ids=torch.tensor([[1, 2, 3]]))[0]
    assert answer.shape[:2] == (1, 3)
    assert torch.isfinite(answer).all()


@settings(max_examples=settings.default.max_examples // 2)
@given(transformers_configs())
def test_configuration_template_and_module_are_read_as_one_tree(config: Any) -> None:
    tree = ModelTree.from_config(config)
    module = ModelTree.from_module(model_of(config))
    template = family_tree({**config.to_dict(), "architectures": config.architectures})
    assert template is not None or config.architectures[0].endswith("Model"), "templates are of models with a head"
    for other in (module, template) if template else (module,):
        assert [(one.path, one.class_name, one.tensors) for one in other.modules] == [
            (one.path, one.class_name, one.tensors) for one in tree.modules
        ]
        assert other.ties == tree.ties
        assert other.no_split == tree.no_split


@settings(max_examples=settings.default.max_examples // 2)
@given(transformers_configs(families=["qwen2"], min_layers=2, max_layers=2, tied=True))
def test_bounds_are_kept(config: Any) -> None:
    assert (config.model_type, config.num_hidden_layers, config.tie_word_embeddings) == ("qwen2", 2, True)


def test_configurations_shrink_to_one_layer_of_the_first_family() -> None:
    config = find(transformers_configs(families=["llama", "gpt2"]), lambda config: True)
    sizes = (config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.vocab_size)
    assert (config.model_type, *sizes) == ("llama", 1, 1, 8, 8)


@pytest.mark.parametrize("bad", [{"families": []}, {"families": ["lama"]}, {"min_layers": 0}, {"max_layers": 0}])
def test_bounds_that_leave_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        transformers_configs(**bad)
