"""Modules outside of blocks whose outputs meet run on one device, and what is not known to run is told."""

from __future__ import annotations

import pytest

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, Unsatisfiable, plan

GIB = 1 << 30
THREE = Host([Accelerator("cuda", memory="8 GiB")] * 3, memory="64 GiB")


def tree(*modules: str, no_split: str = '["Block"]', root: str = "Model") -> ModelTree:
    """A model of `path Class GiB` lines; its tensors are of bytes."""
    lines = [f'{{ path = "", class = "{root}" }}']
    for module in modules:
        path, cls, *size = module.split()
        tensors = f", tensors = {{ w = {{ shape = [{int(float(size[0]) * GIB)}], dtype = 'uint8' }} }}" if size else ""
        lines.append(f'{{ path = "{path}", class = "{cls}"{tensors} }}')
    return ModelTree.parse(f'name = "m"\nno_split = {no_split}\nmodule = [{", ".join(lines)}]\n')


def placed(model: ModelTree, text: str = "", host: Host = THREE) -> Plan:
    return plan(Policy.parse(f'prefer = "cuda"\nsplit = "balanced"\n{text}[workload]\ncontext = 1\n'), model, host)


def device(made: Plan, path: str) -> str:
    return str(made.placements[path].runs_on)


BLOCKS = [f"layers.{at} Block 1.5" for at in range(4)]


def test_embeddings_beside_each_other_share_a_device() -> None:
    model = tree("embed_tokens Embedding 2", "layers ModuleList", *BLOCKS, "embed_positions Embedding 1")
    made = placed(model)
    assert len({device(made, f"layers.{at}") for at in range(4)}) > 1
    assert device(made, "embed_tokens") == device(made, "embed_positions")


def test_a_container_without_blocks_is_on_one_device() -> None:
    model = tree("embeddings Parts", "embeddings.a Linear 1", "embeddings.b Linear 2", "layers ModuleList", *BLOCKS)
    made = placed(model)
    assert device(made, "embeddings.a") == device(made, "embeddings.b")
    assert list(made.placements)[:2] == ["embeddings.a", "embeddings.b"]


def test_an_element_of_a_list_is_a_block() -> None:
    text = [line for at in range(3) for line in (f"text.{at} Forgotten", f"text.{at}.q L 0.6", f"text.{at}.k L 0.6")]
    made = placed(tree("vision ModuleList", *(f"vision.{at} Block 1" for at in range(3)), "text ModuleList", *text))
    assert [path for path in made.placements if path.startswith("text")] == ["text.0", "text.1", "text.2"]


def test_a_layer_of_a_stage_is_whole() -> None:
    parts = [
        line
        for at in range(4)
        for line in (
            f"stages.0.layers.{at} Layer",
            f"stages.0.layers.{at}.conv Block 0.7",
            f"stages.0.layers.{at}.cut Block 0.7",
        )
    ]
    made = placed(tree("stages ModuleList", "stages.0 Stage", "stages.0.layers Sequential", *parts))
    assert list(made.placements) == [f"stages.0.layers.{at}" for at in range(4)]


def test_a_parametrised_leaf_is_whole() -> None:
    conv = ["conv Conv 0.1", "conv.parametrizations ModuleDict", "conv.parametrizations.weight List 1"]
    made = placed(tree(*conv, "layers ModuleList", *BLOCKS))
    assert next(iter(made.placements)) == "conv"


def test_what_a_rule_runs_somewhere_takes_along_what_meets_it() -> None:
    model = tree("embed_tokens Embedding 1", "layers ModuleList", *BLOCKS, "embed_positions Embedding 1")
    made = placed(model, '[[rule]]\nname = "there"\nmatch = "embed_tokens"\nprefer = "cuda:2"\n')
    assert device(made, "embed_positions") == "cuda:2"


def test_what_meets_something_elsewhere_runs_on_the_main_device() -> None:
    model = tree("embed_tokens Embedding 3", "layers ModuleList", *BLOCKS, "embed_positions Embedding 1")
    made = placed(model, '[offload]\nembed_tokens = "cpu"\n')
    assert device(made, "embed_tokens") == device(made, "embed_positions")


def test_rules_that_part_what_meets_are_obeyed_and_told() -> None:
    model = tree("embed_tokens Embedding 1", "layers ModuleList", *BLOCKS, "embed_positions Embedding 1")
    rule = '[[rule]]\nname = "{0}"\nmatch = "{0}"\nprefer = "cuda:{1}"\n'
    made = placed(model, rule.format("embed_tokens", 0) + rule.format("embed_positions", 1))
    assert (device(made, "embed_tokens"), device(made, "embed_positions")) == ("cuda:0", "cuda:1")
    assert [warning.code for warning in made.warnings] == ["DP423"]


def test_a_container_with_parameters_divides_with_a_warning() -> None:
    model = tree("stack Stack 1", "stack.layers ModuleList", *(f"stack.{block}" for block in BLOCKS))
    told = placed(model).warnings
    assert [warning.code for warning in told] == ["DP423"]
    assert "devpolicy dry-run" in told[0].help
    assert placed(model, host=Host([Accelerator("cuda", memory="16 GiB")], memory="64 GiB")).warnings == ()


def test_a_rule_that_moves_one_of_tied_frees_nothing() -> None:
    model = tree("table Embedding 3", "layers ModuleList", *BLOCKS)
    large = Host([Accelerator("cuda", memory="16 GiB")], memory="64 GiB")
    told = "frees nothing on `cuda:0`"
    assert told in placed(model, '[offload]\ntable = "cpu"\n', host=large).explain("table")
    assert told not in placed(model, '[offload]\n"layers.*" = "cpu"\n', host=large).explain("layers.0")


def test_a_rule_that_frees_nothing_is_a_warning() -> None:
    model = tree("table Embedding 3", "layers ModuleList", *BLOCKS, "head Linear 3")
    large = Host([Accelerator("cuda", memory="16 GiB")], memory="64 GiB")
    rules = 'table = "cpu"\n', 'head = "cpu"\n', '"layers.*" = "cpu"\n', 'table = "cpu"\nhead = "cpu"\n'
    codes = [
        [warning.code for warning in placed(model, f"[offload]\n{rule}", host=host).warnings]
        for rule in rules
        for host in (large, THREE)
    ]
    # Of several GPUs the table would be on the one that runs it; the head would be on another, which it frees.
    assert codes == [["DP425"], ["DP425"], ["DP425"], [], [], [], [], []]


def test_no_help_suggests_to_keep_one_module_elsewhere() -> None:
    model = tree("table Embedding 3", "layers ModuleList", *BLOCKS)
    with pytest.raises(Unsatisfiable, match="leave the rule out") as refused:
        placed(model, '[[rule]]\nname = "t"\nmatch = "table"\nprefer = "cpu"\n')
    assert refused.value.code == "DP405"
