"""Device maps: the keys, their order, and that both readers read them alike."""

from __future__ import annotations

from dataclasses import replace

from tests.worlds import device_map, machine, planned, refused, small_llama

from devpolicy import ModelTree
from devpolicy._core.model.tree import Module, Tensor

TWO, FOUR = machine("cuda", "cuda"), machine(*["cuda"] * 4)


def _tree(*paths: str, no_split: str = "Block", cls: str = "Linear") -> ModelTree:
    """A module for each path and each of its parents; those named hold eight bytes."""
    above = {".".join(path.split(".")[:length]) for path in paths for length in range(1, path.count(".") + 1)}
    order = {path: None for full in paths for path in _prefixes(full)}
    modules = [
        Module(path, "Stack" if path in above else cls, (Tensor("weight", (8,), "int8"),) if path in paths else ())
        for path in order
    ]
    return ModelTree("named", (Module("", "Model"), *modules), no_split=frozenset({no_split}))


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _map(tree: ModelTree, pins: str) -> dict[str, str]:
    """Pin modules to devices: `a=1 b.c=0`."""
    rules = "".join(
        f'[[rule]]\nmatch = "{module}"\nprefer = "cuda:{number}"\n'
        for module, number in (pin.split("=") for pin in pins.split())
    )
    return device_map(planned(f'prefer = "cuda:0"\n{rules}', tree, FOUR))


def test_a_model_on_one_device_has_one_key() -> None:
    assert device_map(planned('prefer = "cuda"', small_llama(), TWO)) == {"": "cuda:0"}


def test_a_subtree_on_one_device_is_one_key() -> None:
    text = 'prefer = "cuda"\n[offload]\nlm_head = "disk"\n'
    assert device_map(planned(text, small_llama(), TWO)) == {"model": "cuda:0", "lm_head": "disk"}


def test_a_divided_container_has_a_key_for_each_part() -> None:
    modules = (
        Module("", "Model"),
        Module("a", "Stack", (Tensor("scale", (2,)), Tensor("shift", (2,), buffer=True))),
        Module("a.x", "Block", (Tensor("weight", (2,)),)),
        Module("a.y", "Block", (Tensor("weight", (2,)),)),
    )
    tree = ModelTree("own", modules, no_split=frozenset({"Block"}))
    assert _map(tree, "a.y=1") == {"a.scale": "cuda:0", "a.shift": "cuda:0", "a.x": "cuda:0", "a.y": "cuda:1"}


def test_a_tensor_and_a_module_of_one_name_are_refused() -> None:
    modules = (
        Module("", "Model"),
        Module("a", "Stack", (Tensor("weight", (2,)),)),
        Module("a.weight", "Stack", (Tensor("inner", (2,)),)),
    )
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "a.weight"\noffload = "cpu"\n'
    assert refused(text, ModelTree("one name", modules), TWO).code == "DP403"


def test_entries_are_devices_then_the_cpu_then_the_disk() -> None:
    text = """
        prefer = "cuda:0"
        [offload]
        "model.embed_tokens" = "disk"
        "model.layers.0" = "cpu"
        [[rule]]
        match = "model.layers.1"
        prefer = "cuda:1"
    """
    entries = device_map(planned(text, small_llama(), TWO))
    assert list(dict.fromkeys(entries.values())) == ["cuda:0", "cuda:1", "cpu", "disk"]
    assert list(entries)[:3] == ["model.layers.2", "model.norm", "model.rotary_emb"]


def test_a_name_that_begins_another_is_no_danger() -> None:
    assert _map(_tree("layers.1", "layers.10"), "layers.10=1") == {"layers.1": "cuda:0", "layers.10": "cuda:1"}


def test_a_key_that_another_one_catches_is_written_deeper() -> None:
    # Keys with more dots are asked first, and a dot matches any character: `a.b` would catch all below `axbc`.
    wanted = {"a.c": "cuda:0", "axbc.d": "cuda:0", "a.b": "cuda:1"}
    assert _map(_tree("a.b", "a.c", "axbc.d.e", "axbc.d.f"), "a.b=1") == wanted


def test_where_a_dot_matches_another_key_that_key_is_found() -> None:
    assert _map(_tree("a.b", "a.c", "axb"), "a.b=1") == {"a.c": "cuda:0", "axb": "cuda:0", "a.b": "cuda:1"}


PIN = '[[rule]]\nmatch = "a.b"\nprefer = "cuda:1"\n'


def test_names_that_no_keys_tell_apart_are_refused() -> None:
    tree = _tree("a.b", "a.c", "axbc")
    refusal = refused(f'prefer = "cuda:0"\n{PIN}', tree, TWO)
    assert refusal.code == "DP403"
    assert "because the key `a.b` matches it too" in str(refusal)
    assert device_map(planned('prefer = "cuda"', tree, TWO)) == {"": "cuda:0"}


def test_with_several_devices_a_block_keeps_its_one_key() -> None:
    # Its children's keys would be read alike, but a block without a key has no hook that moves its inputs.
    tree = _tree("axbc.d.e", "axbc.d.f", "a.b", "a.c")
    blocks = tuple(replace(one, class_name="Block" if one.path == "axbc" else one.class_name) for one in tree.modules)
    tree = replace(tree, modules=blocks)
    assert refused(f'prefer = "cuda:0"\n{PIN}', tree, TWO).code == "DP403"
    alone = 'prefer = "cuda"\n[offload]\n"a.b" = "disk"\n'
    assert device_map(planned(alone, tree, TWO))["axbc.d"] == "cuda:0"
