"""The models that ship are the published ones."""

import subprocess
import sys

import pytest

from devpolicy.errors import ModelError
from devpolicy.model import ModelTree
from devpolicy.models import descriptions, model_catalogue
from devpolicy.models.generate import CATALOGUE, text

NAMES = sorted(CATALOGUE)


def test_every_catalogue_model_is_generated_and_every_generated_one_ships():
    assert list(model_catalogue()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_catalogue_model_has_the_published_number_of_parameters(name):
    tree = ModelTree.load(name)
    assert tree.parameters == CATALOGUE[name].parameters
    assert (tree.name, tree.partial) == (name, None)
    assert tree.no_split <= {module.cls for module in tree.modules}


@pytest.mark.parametrize(
    ("name", "values"),
    [("gpt2", 2 * 768), ("bert-base", 0), ("llama-3.2-1b", 1024), ("llama-3.1-70b", 2048), ("t5-11b", 2 * 16384)],
)
def test_the_kv_cache_of_a_catalogue_model_is_that_of_its_published_sizes(name, values):
    assert {cache.values for cache in ModelTree.load(name).kv_cache} == ({values} if values else set())


def test_t5_keeps_a_cache_for_its_own_tokens_and_one_for_the_encoders():
    modules = [cache.module for cache in ModelTree.load("t5-11b").kv_cache]
    assert len(modules) == 48
    assert modules[0] == "decoder.block.0.layer.0.SelfAttention"
    assert modules[24] == "decoder.block.0.layer.1.EncDecAttention"


def test_fused_experts_are_rewritten_on_disk_and_nothing_else_of_mixtral():
    tree = ModelTree.load("mixtral-8x7b")
    assert {module.cls for module in tree.modules if not module.in_place} == {"MixtralExperts"}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_file_is_what_transformers_builds(name):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if transformers.__version__.split(".")[:2] != ["5", "23"]:
        pytest.skip("the shipped files were written with Transformers 5.23")
    assert model_catalogue()[name].read_text(encoding="utf-8") == text(name)


def test_every_catalogue_model_says_what_it_is():
    assert all(descriptions().values())


def test_an_unknown_name_is_answered_with_the_likely_one():
    with pytest.raises(ModelError) as refused:
        ModelTree.load("lama-3.1-8b")
    assert refused.value.code == "DP202"
    assert refused.value.diagnostics[0].help == "did you mean `llama-3.1-8b`?"


def test_the_catalogue_is_read_without_torch():
    code = "import sys; from devpolicy.model import ModelTree; ModelTree.load('gpt2'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
