"""What a plan says of its model beside what it says of its policy."""

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
