"""`[[test]]` with a saved pipeline: `expect` names its components."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")

from devpolicy._core.review.run import Result
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import gather
from devpolicy.errors import PolicyError

PIPELINE = """
components:
  embedder:
    type: haystack_integrations.components.embedders.fastembed.fastembed_text_embedder.FastembedTextEmbedder
    init_parameters: {model_kwargs: {cuda: true, device_ids: [3]}}
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: hello}
  agent:
    type: haystack.components.agents.agent.Agent
    init_parameters:
      chat_generator:
        type: haystack_integrations.components.generators.transformers.chat.chat_generator.TransformersChatGenerator
        init_parameters: {huggingface_pipeline_kwargs: {model: llama-3.1-8b, device: "cuda:3"}}
"""
POLICY = 'prefer = ["cuda", "mps", "cpu"]\n[component."agent.*"]\nsplit = "balanced"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rag.yaml").write_text(PIPELINE, encoding="utf-8")
    return tmp_path


def result(folder: Path, test: str, policy: str = POLICY) -> Result:
    path = folder / "p.toml"
    path.write_text(f'{policy}\n[[test]]\nname = "t"\npipeline = "rag.yaml"\n{test}\n', encoding="utf-8")
    (found,) = run_all(gather([path]), jobs=1)
    return found


@pytest.mark.parametrize(
    "test",
    [
        'host = "2x24gb"\nexpect = { embedder = "cuda:0", agent.chat_generator = "cuda" }',
        'host = "macbook-m3-36gb"\nexpect = { embedder = "cpu", "agent.*" = "mps" }',
        'hosts = ["2x24gb", "4x80gb"]\nexpect = "cuda"',
        'host = "1x8gb"\nexpect = { embedder = "cuda", agent.chat_generator = "cpu" }',
        'host = "1x24gb"\nvary = { "cuda.free" = ["23 GiB", "20 GiB"] }\nexpect = { "agent.*" = { runs_on = "cuda" } }',
    ],
)
def test_a_pipeline_s_components_are_where_it_says(folder: Path, test: str) -> None:
    assert result(folder, test).findings == []


def test_what_is_elsewhere_is_told_with_its_entry(folder: Path) -> None:
    (found,) = result(folder, 'host = "2x24gb"\nexpect = { agent.chat_generator = "cpu" }').findings
    assert "`agent.chat_generator` is on `cuda:" in found.message
    assert "and `cpu` was expected" in found.message
    assert found.notes == ("decided by `[component.agent.*]`",)


def test_a_pipeline_that_is_refused_has_its_code(folder: Path) -> None:
    refused = 'prefer = "cuda"\n'
    assert result(folder, 'host = "cpu-only"\nexpect_error = "DP301"', refused).passed
    (found,) = result(folder, 'host = "cpu-only"\nexpect = "cuda"', refused).findings
    assert "it is refused with DP301" in found.message
    (found,) = result(folder, 'host = "2x24gb"\nexpect_error = "DP301"', refused).findings
    assert "every component gets a device" in found.message


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ('host = "2x24gb"\nexpect = { embeder = "cuda" }', "did you mean `embedder`?"),
        ('host = "2x24gb"\nexpect = "cuda"\nmodel = "gpt2"', "`pipeline` and `model`"),
        ('host = "2x24gb"\nexpect = "cuda"\nalways = "within_budget"', "`pipeline` and `always`"),
        ('host = "2x24gb"\nexpect = "cuda"\ncomponent = "embedder"', "`pipeline` and `component`"),
    ],
)
def test_names_and_keys_that_do_not_belong_are_findings(folder: Path, test: str, told: str) -> None:
    with pytest.raises(PolicyError) as refused:
        result(folder, test)
    assert told in str(refused.value)


def test_a_file_that_is_no_pipeline_is_a_finding(folder: Path) -> None:
    (folder / "rag.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(PolicyError, match="holds no pipeline"):
        result(folder, 'host = "2x24gb"\nexpect = "cuda"')
    (folder / "rag.yaml").unlink()
    with pytest.raises(PolicyError, match="no such file"):
        result(folder, 'host = "2x24gb"\nexpect = "cuda"')


def test_a_profile_is_asked_for(folder: Path) -> None:
    policy = f'{POLICY}\n[profile.small.component."agent.*"]\nprefer = "cpu"\n'
    asked = 'host = "2x24gb"\nprofile = "small"\nexpect = { "agent.*" = "cpu" }'
    assert result(folder, asked, policy).findings == []
