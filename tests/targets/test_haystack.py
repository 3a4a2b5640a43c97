"""Devices inside real Haystack pipelines that are saved and loaded."""

from __future__ import annotations

import sys
import warnings
from inspect import signature
from typing import Any

import pytest
from hypothesis import given

from devpolicy._core.device import ComponentDevice, Device, DeviceMap
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.policy import Policy
from devpolicy.errors import DeviceError, DevPolicyError, DevPolicyWarning, MissingLibraryError
from devpolicy.testing.strategies import component_devices

pytest.importorskip("haystack")

from haystack import Pipeline, component, default_from_dict, default_to_dict
from haystack.core.errors import DeserializationError
from haystack.core.serialization import DeserializationCallbacks
from haystack.utils import ComponentDevice as HaystackDevice

from devpolicy.haystack import decide, from_haystack, restore_order, to_haystack

SPLIT = {"model.embed_tokens": "cuda:0", "model.layers": "cuda:1", "lm_head": "disk"}


@component
class Generator:
    """As Haystack's documentation writes a component that takes a device."""

    def __init__(
        self,
        device: HaystackDevice | None = None,
        model_kwargs: dict[str, Any] | None = None,
        huggingface_pipeline_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.device = device
        self.model_kwargs = model_kwargs
        self.huggingface_pipeline_kwargs = huggingface_pipeline_kwargs
        self.resolved = HaystackDevice.resolve_device(device)

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            device=self.device.to_dict() if self.device else None,
            model_kwargs=self.model_kwargs,
            huggingface_pipeline_kwargs=self.huggingface_pipeline_kwargs,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Generator:
        return default_from_dict(cls, data)

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@component
class OnOurNames:
    """The same with devpolicy's class, for components of one's own."""

    def __init__(self, device: ComponentDevice | None = None) -> None:
        self.device = ComponentDevice.resolve_device(device)

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, device=self.device.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> OnOurNames:
        parameters = data["init_parameters"]
        parameters["device"] = ComponentDevice.from_dict(parameters["device"])
        return default_from_dict(cls, data)

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@component
class OnText:
    """A component whose `device` is text of its own."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


def split() -> ComponentDevice:
    return ComponentDevice.from_multiple(DeviceMap.from_dict(SPLIT))


def pipeline_of(**components: Any) -> Pipeline:
    pipeline = Pipeline()
    for name, instance in components.items():
        pipeline.add_component(name, instance)
    return pipeline


def loaded(pipeline: Pipeline, pre_init: Any = None) -> Pipeline:
    callbacks = DeserializationCallbacks(component_pre_init=pre_init) if pre_init else None
    # Haystack before 3 has no list of trusted modules.
    trusted = {"allowed_modules": [__name__]} if "allowed_modules" in signature(Pipeline.loads).parameters else {}
    return Pipeline.loads(pipeline.dumps(), callbacks=callbacks, **trusted)


# There and back.


@given(component_devices())
def test_a_device_survives_haystacks_class(device: ComponentDevice) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DevPolicyWarning)
        assert device.to_haystack().to_dict() == device.to_dict()
        assert list(device.to_haystack().to_dict().items()) == list(device.to_dict().items())
        assert ComponentDevice.from_haystack(device.to_haystack()) == device


def test_haystacks_gate_opens_for_the_converted_device_alone() -> None:
    device = ComponentDevice.from_str("cpu")
    assert HaystackDevice.resolve_device(device.to_haystack()).to_torch_str() == "cpu"
    with pytest.raises(ValueError, match=r"Invalid component device type 'ComponentDevice'\. Must either be None"):
        HaystackDevice.resolve_device(device)


@pytest.mark.parametrize("text", ["npu:0", "hpu"])
def test_a_device_that_haystack_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="this Haystack cannot express the device"):
        ComponentDevice.from_str(text).to_haystack()
    with pytest.raises(DeviceError, match="this Haystack cannot express the device"):
        ComponentDevice.from_multiple(DeviceMap({"": Device.from_str(text)})).to_haystack()


@pytest.mark.parametrize("value", [None, "cpu", Device.cpu(), HaystackDevice.from_str("cpu")])
def test_only_our_component_device_goes_to_haystack(value: Any) -> None:
    with pytest.raises(DeviceError):
        to_haystack(value)


@pytest.mark.parametrize(
    "value", [None, "cpu", ComponentDevice.from_str("cpu"), HaystackDevice(), HaystackDevice.from_str("cuda:300")]
)
def test_only_a_device_in_haystacks_class_comes_back(value: Any) -> None:
    with pytest.raises(DeviceError):
        from_haystack(value)


def test_without_haystack_the_conversion_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haystack.utils", None)
    with pytest.raises(MissingLibraryError, match=r"devpolicy\[haystack\]"):
        ComponentDevice.from_str("cpu").to_haystack()


# Saved pipelines.


@pytest.mark.parametrize("device", [ComponentDevice.from_str("cuda:1"), ComponentDevice.from_single(Device.mps())])
def test_a_single_device_survives_a_saved_pipeline(device: ComponentDevice) -> None:
    again = loaded(pipeline_of(generator=Generator(device.to_haystack())))
    assert ComponentDevice.from_haystack(again.get_component("generator").device) == device


@pytest.mark.parametrize("device", [ComponentDevice.from_str("cuda:1"), split()])
def test_a_component_of_ones_own_can_be_written_with_our_class(device: ComponentDevice) -> None:
    again = loaded(pipeline_of(own=OnOurNames(device)))
    restored = again.get_component("own").device
    assert restored == device
    assert restored.first_device == device.first_device
    assert again.run({"own": {"text": "runs"}}) == {"own": {"text": "runs"}}


def test_a_map_that_begins_on_the_disk_is_put_right() -> None:
    with pytest.warns(DevPolicyWarning, match="`lm_head` is on the disk and comes first .*restore_order"):
        pipeline = pipeline_of(generator=Generator(split().to_haystack()))
    spoilt = loaded(pipeline).get_component("generator").device
    assert next(iter(spoilt.to_hf().values())) == "disk", (
        "Haystack keeps the order: the callback is not needed any more"
    )
    restored = loaded(pipeline, restore_order).get_component("generator").device
    assert restored.to_hf() == split().to_hf()
    assert list(restored.to_hf().values()) == [0, 1, "disk"]


@pytest.mark.parametrize(
    "entries",
    [{"model": "cuda:0", "z_head": "disk"}, {"a": "disk"}, {"a": "cpu", "b": "disk"}, {"": "cuda:0", "a": "disk"}],
)
def test_a_map_that_survives_saving_is_not_warned_about(entries: dict[str, str]) -> None:
    ComponentDevice.from_multiple(DeviceMap.from_dict(entries)).to_haystack()


def test_order_is_restored_inside_keyword_arguments_too() -> None:
    saved = {"device_map": {"lm_head": "disk", "model": 0, "norm": "cpu"}, "dtype": "auto"}
    nested = {"model_kwargs": saved, "device_map": "auto"}
    generator = Generator(HaystackDevice.from_str("cpu"), model_kwargs=saved, huggingface_pipeline_kwargs=nested)
    again = loaded(pipeline_of(generator=generator), restore_order).get_component("generator")
    assert list(again.model_kwargs["device_map"].items()) == [("model", 0), ("norm", "cpu"), ("lm_head", "disk")]
    assert list(again.huggingface_pipeline_kwargs["model_kwargs"]["device_map"]) == ["model", "norm", "lm_head"]
    assert again.huggingface_pipeline_kwargs["device_map"] == "auto"
    assert list(saved["device_map"]) == ["lm_head", "model", "norm"], "the component's own arguments were changed"


# A policy decides.

POLICY = Policy.parse('prefer = "cuda"')
HOST = Host(accelerators=[Accelerator("cuda", memory="24 GiB")], memory="64 GiB")


def device_of(pipeline: Pipeline, name: str) -> str:
    text: str = pipeline.get_component(name).resolved.to_torch_str()
    return text


def test_a_policy_decides_the_devices_of_a_saved_pipeline() -> None:
    saved = pipeline_of(embedder=Generator(), generator=Generator(HaystackDevice.from_str("mps")))
    again = loaded(saved, decide(POLICY, HOST))
    assert [device_of(again, name) for name in ("embedder", "generator")] == ["cuda:0", "cuda:0"]


def test_devices_that_a_component_had_frozen_do_not_win() -> None:
    frozen = {"device": "mps", "device_map": "auto", "dtype": "auto", "model_kwargs": {"device_map": {"": 3}, "a": 1}}
    generator = Generator(model_kwargs={"device_map": {"": 3}}, huggingface_pipeline_kwargs=frozen)
    again = loaded(pipeline_of(generator=generator), decide(POLICY, HOST)).get_component("generator")
    assert again.model_kwargs == {}
    assert again.huggingface_pipeline_kwargs == {"dtype": "auto", "model_kwargs": {"a": 1}}
    assert again.resolved.to_torch_str() == "cuda:0"


def test_only_the_components_named_are_decided() -> None:
    saved = pipeline_of(one=Generator(HaystackDevice.from_str("mps")), other=Generator(HaystackDevice.from_str("mps")))
    again = loaded(saved, decide(POLICY, HOST, components=["one"]))
    assert [device_of(again, name) for name in ("one", "other")] == ["cuda:0", "mps"]
    with pytest.raises(DevPolicyError, match="not the text `one`"):
        decide(POLICY, HOST, components="one")


def test_a_component_whose_device_is_its_own_text_is_left_alone() -> None:
    again = loaded(pipeline_of(text=OnText("anything")), decide(POLICY, HOST))
    assert again.get_component("text").device == "anything"


def test_what_the_host_lacks_is_the_cause_of_haystacks_error() -> None:
    without = Host(accelerators=[], memory="64 GiB")
    with pytest.raises(DeserializationError) as refused:
        loaded(pipeline_of(generator=Generator()), decide(POLICY, without))
    assert isinstance(refused.value.__cause__, DevPolicyError)


def test_a_policy_that_does_not_exist_is_refused_first() -> None:
    with pytest.raises(DevPolicyError):
        decide("no-such-policy", HOST)


def test_haystacks_own_component_takes_the_converted_device() -> None:
    pytest.importorskip("sentence_transformers")
    from haystack.components.evaluators import SASEvaluator

    saved = pipeline_of(sas=SASEvaluator(device=ComponentDevice.from_str("cuda:1").to_haystack()))
    assert "cuda:1" in saved.dumps()
    again = loaded(saved, decide(POLICY, HOST))
    assert again.to_dict()["components"]["sas"]["init_parameters"]["device"] == {"type": "single", "device": "cuda:0"}


def test_a_component_device_of_the_wrong_library_is_named() -> None:
    with pytest.raises(DeviceError, match=r"got devpolicy\."):
        ComponentDevice.from_haystack(ComponentDevice.from_str("cpu"))
    with pytest.raises(DeviceError, match=r"got haystack\."):
        to_haystack(ComponentDevice.from_str("cpu").to_haystack())
