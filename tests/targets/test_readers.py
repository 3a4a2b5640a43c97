"""Both Hugging Face readers, the real ones, put every tensor of a plan's map where the plan says."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

from transformers.integrations.accelerate import expand_device_map  # noqa: E402

from devpolicy import Accelerator, Host, ModelTree, Plan, Unsatisfiable  # noqa: E402
from devpolicy._core.language.policy import Amount, DeviceSelector, MemoryRule, ResolvedPolicy, Rule, Workload  # noqa: E402
from devpolicy._core.placement.planner import make_plan  # noqa: E402
from devpolicy._core.placement.readers import contested, misread  # noqa: E402
from devpolicy._core.strategies.models import HOSTILE_NAMES  # noqa: E402
from devpolicy._core.strategies.policies import patterns  # noqa: E402
from devpolicy.testing.strategies import torch_modules  # noqa: E402

SEGMENTS = ("a", "b", "axb", "1", "10", "layers", "lm_head", "lm_head_norm", "x", "a-b")
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(".".join)
KEYS = st.lists(PATHS, min_size=1, max_size=6, unique=True)


@given(KEYS, KEYS)
def test_our_restatement_reads_as_transformers_does(keys: list[str], names: list[str]) -> None:
    tensors = [f"{name}.weight" for name in (*names, *keys)]
    numbered = {key: number for number, key in enumerate(keys)}
    for name in tensors:
        for key in keys:
            try:
                real = expand_device_map(numbered, [name])[name] == numbered[key]
            except KeyError:
                real = False
            assert (not misread(keys, [(name, key)])) == real


@given(KEYS, st.lists(PATHS, min_size=1, max_size=3))
def test_what_no_key_contests_is_never_misread(keys: list[str], rests: list[str]) -> None:
    below = [(f"{key}.{rest}", key) for key in keys for rest in rests]
    assert misread(keys, [*below, *zip(keys, keys, strict=True)]) <= contested(keys)


def test_ordinary_keys_are_contested_by_none() -> None:
    keys = [f"model.layers.{number}" for number in range(120)]
    assert contested([*keys, "model.embed_tokens", "model.norm", "lm_head"]) == set()
    assert contested(["a.b", "axb"]) == {"axb"}
    assert contested(["a.1", "a.b.c", "aab"]) == {"aab"}


@given(st.lists(st.sampled_from(HOSTILE_NAMES), min_size=1, max_size=5, unique=True))
def test_names_with_a_regular_expression_inside_are_read(keys: list[str]) -> None:
    numbered = {key: number for number, key in enumerate(keys)}
    for key in keys:
        name = f"{key}.weight"
        try:
            real = expand_device_map(numbered, [name])[name] == numbered[key]
        except Exception:  # noqa: BLE001 - whatever transformers raises, it does not read the key
            real = False
        assert (not misread(keys, [(name, key)])) == real


def _planned(draw: st.DrawFn, module: Any) -> Plan | None:
    """Plan a module on few or many devices, with rules made from its own paths."""
    tree = ModelTree.from_module(module, no_split=[])
    classes = sorted({one.class_name for one in tree.modules})
    tree = replace(tree, no_split=frozenset(draw(st.lists(st.sampled_from(classes), max_size=1))))
    paths = [one.path for one in tree.modules if one.path]
    host = Host([Accelerator("cuda", memory="64 GiB")] * draw(st.integers(0, 4)), memory="64 GiB", disk="1 TiB")
    places = st.sampled_from((("offload", "cpu"), ("offload", "disk"), ("prefer", "cuda:1"), ("prefer", "cuda:0")))
    rules = []
    for number in range(draw(st.integers(0, 4)) if paths else 0):
        verb, place = draw(places)
        kind, _, at = place.partition(":")
        term = DeviceSelector(kind, int(at) if at else None)
        rules.append(Rule(f"rule {number}", (draw(patterns(modules=paths)),), **{verb: (term,)}, on_exhausted="next"))
    cap = Amount(tree.bytes_as() * draw(st.sampled_from((110, 60, 40, 20))) // 100 + 8)
    policy = ResolvedPolicy(
        prefer=(DeviceSelector("cuda"), DeviceSelector("cpu")),
        overflow=draw(st.sampled_from(((), (DeviceSelector("cpu"), DeviceSelector("disk"))))),
        split=draw(st.sampled_from(("when-needed", "balanced"))),
        ties="follow",
        rules=tuple(rules),
        memory=(MemoryRule(DeviceSelector("cuda"), "total", cap, Amount()), MemoryRule(DeviceSelector("cpu"), "total")),
        disk_path="offload",
        workload=Workload(context=1),
    )
    try:
        return make_plan(policy, tree, host, advise=False)
    except Unsatisfiable:
        return None


@st.composite
def _plans(draw: st.DrawFn) -> tuple[Any, Plan | None]:
    module = draw(torch_modules(hostile=draw(st.booleans())))
    return module, _planned(draw, module)


def _wanted(plan: Plan, module: Any) -> dict[str, Any]:
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    return {name: str(plan.placements[name.rpartition(".")[0]].device) for name in names}


def _text(value: Any) -> str:
    return f"cuda:{value}" if isinstance(value, int) else str(value)


@given(_plans())
def test_transformers_reads_every_tensor_where_the_plan_puts_it(made: tuple[Any, Plan | None]) -> None:
    module, plan = made
    if plan is None:
        return
    wanted = _wanted(plan, module)
    device_map = plan.to_hf_kwargs()["device_map"]
    assert {name: _text(value) for name, value in expand_device_map(device_map, list(wanted)).items()} == wanted


@given(_plans())
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
def test_accelerate_loads_every_tensor_to_its_device(made: tuple[Any, Plan | None]) -> None:
    module, plan = made
    if plan is None:
        return
    from accelerate.utils.modeling import check_device_map, load_checkpoint_in_model

    device_map = plan.to_hf_kwargs()["device_map"]
    check_device_map(module, device_map)
    wanted = _wanted(plan, module)
    put: dict[str, str] = {}

    # There are no GPUs here: what would be put on one is noted instead. All of the reading is accelerate's.
    def note(_: Any, name: str, device: Any, **__: Any) -> None:
        # What goes to disk is set on the meta device first.
        if device != "meta":
            put[name] = _text(device)

    def note_disk(_: Any, name: str, *__: Any, **___: Any) -> None:
        put[name] = "disk"

    with tempfile.TemporaryDirectory() as folder:
        torch.save(module.state_dict(), Path(folder) / "pytorch_model.bin")
        with (
            mock.patch("accelerate.utils.modeling.set_module_tensor_to_device", note),
            mock.patch("accelerate.utils.modeling.offload_weight", note_disk),
        ):
            load_checkpoint_in_model(module, folder, device_map=device_map, offload_folder=f"{folder}/away")
    # Asked for nothing more, accelerate leaves buffers of what is on disk where they were made.
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    read = [name for name in module.state_dict() if not (wanted[name] == "disk" and name in buffers)]
    assert put == {name: wanted[name] for name in read}
