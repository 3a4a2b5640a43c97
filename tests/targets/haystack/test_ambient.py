"""Haystack's components under the policy in use: what they get, for how long, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")
pytest.importorskip("sentence_transformers")

from haystack import Pipeline, SuperComponent, component
from haystack.components.evaluators import SASEvaluator
from haystack.core.component.component import ComponentMeta
from haystack.core.serialization import DeserializationCallbacks
from haystack.utils import ComponentDevice as HaystackDevice
from haystack.utils import device as their_module

from devpolicy import ComponentDevice, Policy, PolicyError, Unsatisfiable, use_policy
from devpolicy.errors import DevPolicyWarning
from devpolicy.haystack import decide, install, uninstall

GPU = Policy.parse('prefer = ["cuda:1", "cpu"]')


@component
class Late:
    """It takes no device, and asks Haystack when it is made and when it is run."""

    def __init__(self) -> None:
        self.device = HaystackDevice.resolve_device(None)

    @component.output_types(device=str)
    def run(self, text: str) -> dict[str, str]:
        return {"device": HaystackDevice.resolve_device(None).to_torch_str()}


@component
class Taking:
    """As Haystack's documentation writes a component that takes a device."""

    def __init__(self, device: HaystackDevice | None = None, name: str = "") -> None:
        self.device = HaystackDevice.resolve_device(device)
        self.name = name

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@component
class Outer:
    """It makes a component of its own in its constructor."""

    def __init__(self) -> None:
        self.inner = Taking()

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@component
class OnText:
    """Its `device` is text."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


def loaded(text: str, pre_init: Any = None) -> Any:
    callbacks = DeserializationCallbacks(component_pre_init=pre_init) if pre_init else None
    return Pipeline.loads(text, callbacks=callbacks, allowed_modules=[__name__, "haystack*"])


def text_of(**components: Any) -> str:
    pipeline = Pipeline()
    for name, one in components.items():
        pipeline.add_component(name, one)
    return pipeline.dumps()


def test_outside_of_a_block_haystack_is_as_it_was() -> None:
    before = their_module._get_default_device, ComponentMeta.__call__
    with use_policy(GPU, "2x24gb"):
        assert their_module._get_default_device is not before[0]
        with use_policy("cpu-only"):
            assert Taking().device.to_torch_str() == "cpu"
        assert Taking().device.to_torch_str() == "cuda:1"
    assert (their_module._get_default_device, ComponentMeta.__call__) == before
    assert not [one for one in sys.meta_path if type(one).__module__.startswith("devpolicy")]
    assert Taking().device.to_torch_str() == HaystackDevice.resolve_device(None).to_torch_str()


def test_an_error_in_the_block_leaves_nothing_behind() -> None:
    before = their_module._get_default_device, ComponentMeta.__call__
    with pytest.raises(ZeroDivisionError), use_policy(GPU, "2x24gb"):
        1 / 0  # noqa: B018
    assert (their_module._get_default_device, ComponentMeta.__call__) == before


def test_what_someone_else_replaced_meanwhile_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with use_policy(GPU, "2x24gb"):
        mine = their_module._get_default_device
        other = lambda: mine()  # noqa: E731
        monkeypatch.setattr(their_module, "_get_default_device", other)
    assert their_module._get_default_device is other
    assert other().type.value in ("cpu", "cuda", "mps", "xpu"), "it answers as Haystack does, without a policy"


def test_a_device_that_is_given_stays() -> None:
    with use_policy(GPU, "2x24gb"):
        assert Taking(HaystackDevice.from_str("mps")).device.to_torch_str() == "mps"
        assert Taking(device=HaystackDevice.from_str("mps")).device.to_torch_str() == "mps"
        assert Taking(None, "x").device.to_torch_str() == "cuda:1"


def test_a_component_without_a_parameter_asks_too() -> None:
    with use_policy(GPU, "2x24gb"):
        one = Late()
        assert one.device.to_torch_str() == "cuda:1"
    assert one.run("x")["device"] == HaystackDevice.resolve_device(None).to_torch_str()
    with use_policy("cpu-only"):
        assert one.run("x")["device"] == "cpu"


def test_the_name_and_the_class_are_known_where_it_asks_late() -> None:
    policy = Policy.parse(
        f"prefer = 'cuda:0'\n[component.late]\nprefer = 'cuda:1'\n"
        f"[component.'*']\ntype = '{__name__}.Late'\nprefer = 'cpu'\n"
    )
    pipeline = Pipeline()
    pipeline.add_component("late", Late())
    with use_policy(policy, "2x24gb"):
        assert pipeline.run({"late": {"text": "x"}})["late"]["device"] == "cuda:1"
        assert Late().run("x")["device"] == "cuda:0", "a glob is for names, and it has none"
        text = text_of(one=Late(), late=Late())
        again = loaded(text)
        assert again.get_component("one").device.to_torch_str() == "cpu"
        assert again.get_component("late").device.to_torch_str() == "cuda:1"


def test_a_saved_pipeline_knows_the_names_of_its_components() -> None:
    policy = Policy.parse(
        "prefer = 'cuda:0'\n[component.second]\nprefer = 'cuda:1'\n[component.'super.*']\nprefer = 'cpu'"
    )
    inner = Pipeline()
    inner.add_component("deep", SASEvaluator())
    text = text_of(first=SASEvaluator(), second=SASEvaluator(), super=SuperComponent(inner))
    with use_policy(policy, "2x24gb"):
        again = loaded(text)
    assert [again.get_component(name)._device.to_torch_str() for name in ("first", "second")] == ["cuda:0", "cuda:1"]
    assert again.get_component("super").pipeline.get_component("deep")._device.to_torch_str() == "cpu"


def test_a_component_made_inside_another_has_a_name_of_its_own() -> None:
    text = text_of(outer=Outer())
    policy = Policy.parse("prefer = 'cuda'\n[component.'outer.Taking']\nprefer = 'cuda:1'\n")
    with use_policy(policy, "2x24gb"):
        assert loaded(text).get_component("outer").inner.device.to_torch_str() == "cuda:1"


def test_a_device_as_text_is_written_where_the_policy_names_it() -> None:
    text = text_of(one=OnText(), other=OnText("mine"))
    policy = Policy.parse("prefer = 'cuda:1'\n[component.one]\nprefer = 'cuda:0'\n")
    again = loaded(text, decide(policy, "2x24gb"))
    assert [again.get_component(name).device for name in ("one", "other")] == ["cuda:0", "mine"]


def test_decide_is_not_asked_twice_inside_a_block() -> None:
    text = text_of(one=SASEvaluator())
    policy = Policy.parse("prefer = 'cuda:0'\n[component.one]\nneeds = '20 GiB'\n")
    with use_policy(policy, "2x24gb"):
        again = loaded(text, decide(Policy.parse("prefer = 'cuda:1'")))
    assert again.get_component("one")._device.to_torch_str() == "cuda:1"


def test_the_block_lends_decide_its_host_and_claims() -> None:
    policy = Policy.parse("prefer = 'cuda'\n[component.'*']\nneeds = '15 GiB'\n")
    with use_policy(policy, "2x24gb"):
        first = loaded(text_of(one=SASEvaluator(device=HaystackDevice.from_str("cpu"))), decide(policy))
        second = loaded(text_of(two=SASEvaluator(device=HaystackDevice.from_str("cpu"))), decide(policy))
    assert first.get_component("one")._device.to_torch_str() == "cuda:0"
    assert second.get_component("two")._device.to_torch_str() == "cuda:1"


# Threads and tasks.


def test_a_thread_outside_of_the_block_gets_haystacks_choice() -> None:
    usual = Taking().device.to_torch_str()
    with use_policy(Policy.parse("prefer = 'cuda:1'"), "2x24gb"), ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda: Taking().device.to_torch_str()).result() == usual
        shared = copy_context()
        assert pool.submit(shared.run, lambda: Taking().device.to_torch_str()).result() == "cuda:1"


def test_tasks_that_begin_in_a_block_share_it() -> None:
    async def one(policy: Policy | None) -> str:
        if policy is None:
            await asyncio.sleep(0)
            return str(Taking().device.to_torch_str())
        with use_policy(policy, "2x24gb"):
            await asyncio.sleep(0)
            return str(Taking().device.to_torch_str())

    async def both() -> list[str]:
        with use_policy(GPU, "2x24gb"):
            return await asyncio.gather(one(None), one(Policy.parse("prefer = 'cuda:0'")), one(None))

    before = ComponentMeta.__call__
    assert asyncio.run(both()) == ["cuda:1", "cuda:0", "cuda:1"]
    assert ComponentMeta.__call__ is before


def test_blocks_of_many_threads_come_and_go() -> None:
    before = their_module._get_default_device, ComponentMeta.__call__
    found: list[str] = []

    def many(number: int) -> None:
        policy = Policy.parse(f"prefer = 'cuda:{number % 2}'")
        for _ in range(20):
            with use_policy(policy, "2x24gb"):
                assert Taking().device.to_torch_str() == f"cuda:{number % 2}"
        found.append("ok")

    threads = [threading.Thread(target=many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["ok"] * 4
    assert (their_module._get_default_device, ComponentMeta.__call__) == before


# Memory.


def test_components_made_in_turn_give_room_back(models: Path) -> None:
    from devpolicy import plan

    model = str(models / "sentences")
    used = plan(Policy.parse("prefer = 'cuda'"), model, "2x24gb", target="torch").ledger["cuda:0"].used
    policy = Policy.parse(f"prefer = 'cuda'\nmemory.cuda = {{ cap = '{used * 3 // 2} B', headroom = '0 B' }}")
    with use_policy(policy, "2x24gb"):
        one, two = SASEvaluator(model=model), SASEvaluator(model=model)
        assert [each._device.to_torch_str() for each in (one, two)] == ["cuda:0", "cuda:1"]
        with pytest.raises(Unsatisfiable):
            SASEvaluator(model=model)
        del two
        gc.collect()
        assert SASEvaluator(model=model)._device.to_torch_str() == "cuda:1"


def test_a_component_named_later_is_not_counted_twice(models: Path) -> None:
    from devpolicy import plan
    from devpolicy.haystack import apply

    model = str(models / "sentences")
    used = plan(Policy.parse("prefer = 'cuda'"), model, "1x24gb", target="torch").ledger["cuda:0"].used
    policy = Policy.parse(f"prefer = 'cuda'\nmemory.cuda = {{ cap = '{used * 3 // 2} B', headroom = '0 B' }}")
    with use_policy(policy, "1x24gb"):
        pipeline = Pipeline()
        pipeline.add_component("sas", SASEvaluator(model=model))
        for _ in range(2):
            (result,) = apply(pipeline, policy)
            assert result.device.to_torch_str() == "cuda:0"


def test_a_device_with_nearly_no_room_is_not_chosen_in_silence() -> None:
    from devpolicy import Accelerator, Host

    host = Host([Accelerator("cuda", memory="24 GiB", free="1.6 GiB")], memory="64 GiB")
    told = pytest.warns(DevPolicyWarning, match=r"DP507.*`cuda:0` is chosen without a size, and has nearly no room")
    with use_policy(Policy.parse("prefer = ['cuda', 'cpu']"), host), told:
        assert SASEvaluator(model="no-such-model")._device.to_torch_str() == "cuda:0"
    with use_policy(Policy.parse("prefer = ['cuda', 'cpu']\n[component.sas]\nmodel = 'bge-large-en'"), host):
        again = loaded(text_of(sas=SASEvaluator(model="no-such-model", device=HaystackDevice.from_str("cuda:3"))))
        assert again.get_component("sas")._device.to_torch_str() == "cuda:3", "what was saved is given"


def test_a_dtype_that_a_component_cannot_be_given_is_a_warning(models: Path) -> None:
    policy = Policy.parse("prefer = 'cuda'\nworkload.dtype = 'float16'\n")
    with use_policy(policy, "2x24gb"), pytest.warns(DevPolicyWarning, match="has no parameter for `dtype` float16"):
        SASEvaluator(model=str(models / "sentences"))


# The policy of the process.


def test_a_variable_set_later_counts_once_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = ComponentMeta.__call__
    policy = tmp_path / "p.toml"
    policy.write_text("prefer = 'cpu'\n", encoding="utf-8")
    monkeypatch.setenv("DEVPOLICY", str(policy))
    install()
    install()
    try:
        assert ComponentMeta.__call__ is not before
        assert Taking().device.to_torch_str() == "cpu"
    finally:
        uninstall()
    assert ComponentMeta.__call__ is before


def test_a_relative_path_counts_from_where_the_program_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"{tmp_path.name}.toml"  # of no other test: a policy of the process is read once
    (tmp_path / name).write_text("prefer = 'cpu'\n", encoding="utf-8")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / name).write_text("prefer = 'xpu'\n", encoding="utf-8")
    monkeypatch.setenv("DEVPOLICY", name)
    monkeypatch.chdir(tmp_path)
    install()
    try:
        monkeypatch.chdir("work")
        assert Taking().device.to_torch_str() == "cpu"
    finally:
        uninstall()


def test_haystack_that_is_imported_inside_a_block_is_reached(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom devpolicy import use_policy, Policy\n"
        "with use_policy(Policy.parse('prefer = \"cuda:1\"'), '2x24gb'):\n"
        "    assert 'haystack' not in sys.modules\n"
        "    from haystack.components.evaluators import SASEvaluator\n"
        "    from haystack.utils import ComponentDevice\n"
        "    print(SASEvaluator()._device.to_torch_str(), ComponentDevice.resolve_device(None).to_torch_str())\n"
        "from haystack.utils import device\n"
        "print(SASEvaluator()._device, device._get_default_device.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "cuda:1 cuda:1\nNone haystack.utils.device\n", done.stderr


def test_a_policy_of_components_needs_a_name() -> None:
    policy = Policy.parse("[component.one]\nprefer = 'cpu'\n")
    with use_policy(policy, "2x24gb"), pytest.raises(PolicyError, match="no component is named"):
        SASEvaluator()


def test_devpolicys_own_class_is_asked_by_components() -> None:
    @component
    class Ours:
        def __init__(self, device: ComponentDevice | None = None) -> None:
            self.given = device
            self.device = ComponentDevice.resolve_device(device)

        @component.output_types(text=str)
        def run(self, text: str) -> dict[str, str]:
            return {"text": text}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with use_policy(GPU, "2x24gb"):
            one = Ours()
    assert one.given is None
    assert one.device == ComponentDevice.from_str("cuda:1")
