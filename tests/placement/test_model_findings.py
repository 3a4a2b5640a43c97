"""What a plan says of its model beside what it says of its policy."""

from dataclasses import replace

import pytest

from devpolicy import ModelTree, Policy, plan


@pytest.fixture(scope="module")
def resnet():
    pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return ModelTree.from_config({"model_type": "resnet", "architectures": ["ResNetForImageClassification"], **sizes})


def test_activations_that_no_formula_gives_are_a_warning(resnet):
    made = plan(Policy.parse('prefer = "cuda"'), resnet, "1x24gb")
    assert [one.code for one in made.warnings] == ["DP414"]
    assert made.ledger["cuda:0"].activations == 0


def test_activations_that_are_set_aside_are_no_warning(resnet):
    policy = Policy.parse('prefer = "cuda"\nmemory.cuda.reserve.activations = "1 GiB"')
    made = plan(policy, resnet, "1x24gb")
    assert made.warnings == ()
    assert made.ledger["cuda:0"].activations == 2**30


def test_recurrent_layers_need_more_than_the_formula_counts():
    made = plan(Policy.parse('prefer = "cuda"'), "qwen3-next-80b-a3b", "4x80gb")
    assert [one.code for one in made.warnings] == ["DP414"]
    assert "recurrent" in made.warnings[0].message


def test_an_encoder_of_images_has_activations_that_no_formula_gives():
    pytest.importorskip("transformers")
    tree = ModelTree.from_config({"model_type": "vit", "architectures": ["ViTModel"], "num_hidden_layers": 2})
    assert [one.code for one in plan(Policy.parse('prefer = "cuda"'), tree, "1x24gb").warnings] == ["DP414"]


@pytest.mark.parametrize(
    ("verdict", "policy", "codes"),
    [
        ("one-device", 'prefer = "cuda"\nsplit = "balanced"', ["DP419"]),
        ("one-device", 'prefer = "cuda"\nsplit = "never"', []),
        ("no-offload", 'prefer = "cuda"\nsplit = "balanced"', []),
        ("no-offload", 'prefer = "cuda"\n[offload]\n"model.layers.0" = "cpu"', ["DP419"]),
        ("runs", 'prefer = "cuda"\nsplit = "balanced"', []),
    ],
)
def test_a_class_that_was_seen_to_fail_in_parts_is_told(verdict, policy, codes):
    tree = ModelTree.load("llama-3.2-1b")
    tree = replace(tree, metadata=(*tree.metadata, ("divided", f"{verdict}: devices met")))
    made = plan(Policy.parse(policy), tree, "2x24gb")
    assert [one.code for one in made.warnings] == codes
    assert all("devices met" in one.message for one in made.warnings)
