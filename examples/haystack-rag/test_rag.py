"""The pipeline on machines that are not here: where each component goes, and that the saved file has no old device."""

from pathlib import Path

import pytest

import app
from devpolicy import use_policy
from devpolicy.haystack import apply, survey
from pipeline import build

EXPECTED = {"2x24gb": "cuda:0", "macbook-m3-36gb": "mps", "cpu-only": "cpu"}


@pytest.fixture(scope="session", autouse=True)
def models():
    """The tiny models, made once."""
    from tiny_models import make

    if not Path("models/embedder").exists():
        make(Path("models"))


@pytest.mark.parametrize("host", EXPECTED)
def test_the_saved_pipeline_goes_where_the_policy_says(host):
    with use_policy(app.POLICY, host):
        rag = app.load()
    embedder, llm = rag.get_component("embedder"), rag.get_component("llm")
    assert embedder.device.to_torch_str() == EXPECTED[host]
    assert llm.huggingface_pipeline_kwargs["device"] == EXPECTED[host]


@pytest.mark.parametrize("host", EXPECTED)
def test_built_in_code_it_goes_to_the_same_devices(host):
    decided = {one.name: one.device for one in apply(build(), app.POLICY, host)}
    assert decided == {one.name: one.device for one in survey(app.POLICY, "rag.yaml", host).components}


def test_our_own_component_follows_the_policy():
    from keywords import Keywords

    with use_policy(app.POLICY, "macbook-m3-36gb"):
        assert Keywords().device.to_torch_str() == "mps"


def test_a_pipeline_is_never_tied_to_the_machine_that_saved_it():
    with use_policy(app.POLICY, "macbook-m3-36gb"):
        text = app.load().dumps()
    assert "device: cuda" not in text


@pytest.mark.host("cpu-only")
def test_it_answers():
    with use_policy(app.POLICY):
        rag = app.load()
        app.fill(rag)
    assert isinstance(app.answer(rag, "Where is the warehouse?"), str)
