"""Templates of model families: each is what Transformers builds, and what it makes of its own checkpoints."""

import json
import re
from dataclasses import fields

import pytest
from packaging.version import Version

from devpolicy import Host, Policy, plan
from devpolicy._core.model import config as configurations
from devpolicy._core.model import structure
from devpolicy._core.model.checkpoint import from_checkpoint
from devpolicy._core.model.families import FAMILIES, classes_of, family_tree, templates_hold
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.planning.fit import fit
from devpolicy.errors import ModelError
from tests.templates import CONFIGS, configs

CLASSES = [(model_type, cls) for model_type in FAMILIES for cls in classes_of(model_type)]
NAMED = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "phi3", "gpt_oss", "deepseek_v2",
    "deepseek_v3", "glm4", "glm4_moe", "glm4_moe_lite", "bert", "roberta", "xlm-roberta", "mpnet", "distilbert",
    "modernbert", "nomic_bert", "t5", "whisper", "clip",
}  # fmt: skip
POLICY = Policy.parse('prefer = ["cuda", "cpu"]\n')
HOST = Host.load("1x24gb")


def differences(template, built):
    """Name the fields in which two trees differ, with the first modules that do: a whole tree is long to read."""
    found = []
    for field in fields(ModelTree):
        ours, theirs = getattr(template, field.name), getattr(built, field.name)
        if field.compare and ours != theirs:
            pairs = zip(ours, theirs, strict=False) if field.name == "modules" else [(ours, theirs)]
            found.append((field.name, *next((pair for pair in pairs if pair[0] != pair[1]), ("lengths",))))
    return found


@pytest.fixture
def bare(monkeypatch):
    """A machine without Transformers."""
    monkeypatch.setattr(configurations, "has_transformers", lambda: False)
    monkeypatch.setattr(structure, "has_transformers", lambda: False)


def need_its_transformers(model_type):
    """Skip what compares a template with an installed Transformers that is older than it."""
    if not templates_hold(model_type, pytest.importorskip("transformers").__version__):
        pytest.skip("the template is of a newer Transformers")


def test_every_family_that_people_name_has_a_template():
    assert NAMED <= FAMILIES.keys() == CONFIGS.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_template_is_what_transformers_builds(model_type):
    need_its_transformers(model_type)
    classes = list(classes_of(model_type))
    for at, table in enumerate(configs(model_type)):
        named = {**table, "architectures": [classes[at % len(classes)]]}
        assert differences(family_tree(named), ModelTree.from_config(named)) == []
    assert differences(family_tree(table), ModelTree.from_config(table)) == []  # no class: the task-free one


@pytest.mark.parametrize(("model_type", "cls"), CLASSES)
def test_every_class_of_a_family_is_built_as_its_template_says(model_type, cls):
    need_its_transformers(model_type)
    table = {**configs(model_type)[0], "architectures": [cls]}
    assert differences(family_tree(table), ModelTree.from_config(table)) == []


@pytest.mark.parametrize(
    ("version", "holds"), [("5.24.0", True), ("5.23.0", False), ("6.0.0", False), ("4.57.6", False), ("", False)]
)
def test_a_template_holds_from_its_release_on(version, holds):
    assert templates_hold("deepseek_v3", version) == holds
    assert templates_hold("llama", version) == version.startswith("5.")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_checkpoint_is_the_same_model_without_transformers(model_type, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    transformers = pytest.importorskip("transformers")
    need_its_transformers(model_type)
    (cls, *_), (table, *_) = classes_of(model_type), configs(model_type)
    config = transformers.AutoConfig.for_model(**table)
    getattr(transformers, cls)(config).save_pretrained(tmp_path)
    monkeypatch.setattr(structure, "templates_hold", lambda *_: False)
    built = from_checkpoint(tmp_path)
    monkeypatch.setattr(structure, "has_transformers", lambda: False)
    assert differences(from_checkpoint(tmp_path), built) == []
    assert built.incomplete_reason is None


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_bare_configuration_is_planned_without_transformers(model_type, tmp_path, bare):
    table = {**configs(model_type)[0], "architectures": [next(iter(classes_of(model_type)))]}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(table))
    tree = ModelTree.load(file)
    assert tree.incomplete_reason is None
    assert plan(POLICY, tree, HOST).ledger["cuda:0"].weights >= tree.bytes_as()
    assert fit(POLICY.for_component(None), tree, HOST).devices == ["cuda:0"]


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["LlamaForMultipleChoice"]},
        {"architectures": []},
        {"model_type": "unheard-of"},
        {"hidden_act": "unheard-of"},
        {"hidden_size": "many"},
        {"num_hidden_layers": "many"},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"vocab_size": -1},
        {"model_type": "clip", "text_config": 3},
        {"model_type": "gemma3", "vision_config": {"model_type": "unheard-of"}},
        {"model_type": "bert", "is_decoder": True},
    ],
)
def test_a_template_that_does_not_know_says_so(change):
    table = {**configs("llama")[0], "architectures": ["LlamaForCausalLM"], **change}
    if "model_type" in change and "architectures" not in change:
        table["architectures"] = [next(classes_of(change["model_type"]), "LlamaForCausalLM")]
    assert family_tree(table) is None


def test_a_family_without_a_template_says_what_to_install(tmp_path, bare):
    with pytest.raises(ModelError, match="which is not here") as refused:
        ModelTree.from_config({"model_type": "bloom", "architectures": ["BloomForCausalLM"]})
    assert refused.value.code == "DP407"


def test_another_name_of_a_key_counts_as_the_key():
    short, long = configs("gpt2")[0], configs("gpt2")[0]
    long["num_hidden_layers"] = long.pop("n_layer")
    cls = {"architectures": ["GPT2LMHeadModel"]}
    assert family_tree(short | cls) == family_tree(long | cls)


def test_the_defaults_are_those_of_transformers():
    pytest.importorskip("transformers")
    from tools.config_defaults import text

    from devpolicy._core.shipped import shipped

    written, now = shipped("fixtures").joinpath("config-defaults.toml").read_text(encoding="utf-8"), text()
    of, here = (Version(re.findall(r"with version ([\d.]+)\.$", one, re.M)[0]) for one in (written, now))
    if here < of:
        pytest.skip("the defaults are of a newer Transformers")
    assert written == now
