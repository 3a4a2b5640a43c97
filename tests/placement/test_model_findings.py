"""What a plan says of its model beside what it says of its policy."""

from dataclasses import replace

import pytest

from devpolicy import ModelTree, Policy, Unsatisfiable, plan


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


def test_an_encoder_of_images_has_unknown_activations():
    pytest.importorskip("transformers")
    tree = ModelTree.from_config({"model_type": "vit", "architectures": ["ViTModel"], "num_hidden_layers": 2})
    assert [one.code for one in plan(Policy.parse('prefer = "cuda"'), tree, "1x24gb").warnings] == ["DP414"]


BALANCED = 'prefer = "cuda"\nsplit = "balanced"\n'
OFFLOADED = 'prefer = "cuda"\n[offload]\n"model.layers.0" = "cpu"\n'
PINNED = 'prefer = "cuda:0"\n[[rule]]\nname = "head"\nmatch = "model.norm"\nprefer = "cuda:1"\n'
OVERFLOWING = 'prefer = "cuda"\noverflow = "cpu"\n'


def seen(verdict, model="llama-3.2-1b"):
    """A model whose class was tried in parts, and failed."""
    tree = ModelTree.load(model)
    return replace(tree, metadata=(*tree.metadata, ("divided", f"{verdict}: devices met")))


@pytest.mark.parametrize(
    ("verdict", "policy", "codes", "devices"),
    [
        ("one-device", BALANCED, ["DP419"], 1),
        ("one-device", 'prefer = "cuda"', [], 1),
        ("no-offload", BALANCED, [], 2),
        ("no-offload", OVERFLOWING, [], 1),
        ("wrong", BALANCED, ["DP419"], 2),
        ("runs", BALANCED, [], 2),
    ],
)
def test_a_class_that_failed_in_parts_stays_whole(verdict, policy, codes, devices):
    made = plan(Policy.parse(policy), seen(verdict), "2x24gb")
    assert ([one.code for one in made.warnings], len(made.ledger)) == (codes, devices)
    assert all("devices met" in one.message for one in made.warnings)


@pytest.mark.parametrize(
    ("verdict", "policy"),
    [("one-device", OFFLOADED), ("one-device", PINNED), ("no-offload", OFFLOADED)],
)
def test_rules_that_divide_a_class_that_failed_so_are_refused(verdict, policy):
    with pytest.raises(Unsatisfiable, match="devices met") as refused:
        plan(Policy.parse(policy), seen(verdict), "2x24gb")
    assert refused.value.code == "DP419"


@pytest.mark.parametrize("policy", [BALANCED, 'prefer = "cuda"', OVERFLOWING])
def test_no_room_for_a_class_that_must_stay_whole_says_why(policy):
    with pytest.raises(Unsatisfiable, match="DP301") as refused:
        plan(Policy.parse(policy), seen("one-device", "qwen2.5-14b"), "2x24gb")
    assert "was tried in parts, and failed: devices met" in str(refused.value)
    assert "overflow" not in str(refused.value)


def test_an_engine_divides_what_transformers_cannot():
    made = plan(Policy.parse('prefer = "cuda"'), seen("one-device", "qwen2.5-14b"), "2x24gb", target="vllm")
    assert len(made.ledger) == 2
