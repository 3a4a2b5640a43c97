"""Devices, device maps and component devices, by example."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
from devpolicy._core.device.default import default_device
from devpolicy._core.host import Accelerator, Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.verbs import use_policy
from devpolicy.errors import DeviceError, DevPolicyWarning, MissingLibraryError


def split() -> ComponentDevice:
    entries = {"model.embed": "cuda:0", "model.layers": "cuda:1", "lm_head": "disk"}
    return ComponentDevice.from_multiple(DeviceMap.from_dict(entries))


# One device.


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (Device.cpu(), "cpu"),
        (Device.gpu(), "cuda:0"),
        (Device.gpu(3), "cuda:3"),
        (Device(DeviceType.GPU), "cuda"),
        (Device.disk(), "disk"),
        (Device.mps(), "mps"),
        (Device(DeviceType.MPS, 0), "mps:0"),
        (Device.xpu(), "xpu"),
        (Device.npu(), "npu"),
        (Device(DeviceType.HPU, 1), "hpu:1"),
        (Device.hpu(), "hpu"),
        (Device.gpu(127), "cuda:127"),
    ],
)
def test_a_device_is_written_and_read_as_torch_writes_it(device: Device, text: str) -> None:
    assert str(device) == text
    assert Device.from_str(text) == device


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "did you mean `cuda`"),
        ("CUDA:0", "did you mean `cuda`"),
        (" cuda", "did you mean `cuda`"),
        ("rocm", "did you mean `cuda`"),
        ("metal", "did you mean `mps`"),
        ("cudda", "did you mean `cuda`"),
        ("auto", "known are cpu, cuda, disk, mps, xpu, npu, hpu"),
        ("", "Unknown device type string ''"),
        ("cuda:", "got nothing"),
        ("cuda:0:1", "`cuda:0:1` has two ids"),
        ("cuda:one", "must be an integer, got one"),
        ("cuda:-1", "must be >= 0, got -1"),
        ("cuda:-0", "without sign"),
        ("cuda:007", "without sign and leading zeros"),
        ("cuda:128", "must be <= 127, the largest that torch keeps, got 128"),
        ("disk:0", "the disk has no id"),
    ],
)
def test_malformed_text_is_refused_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(DeviceError) as refused:
        Device.from_str(text)
    assert message in str(refused.value)


def test_an_absurd_text_gives_a_short_message() -> None:
    for text in ("x" * 100_000, "cuda:" + "9" * 100_000, "cuda:" + "x" * 100_000, "cuda:0:" + "1" * 100_000):
        with pytest.raises(DeviceError) as refused:
            Device.from_str(text)
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "number", [True, 1.0, "1", [], 128, -1, 1 << 20_000, -(1 << 20_000)], ids=lambda number: type(number).__name__
)
def test_an_id_is_an_integer_that_torch_can_keep(number: Any) -> None:
    with pytest.raises(DeviceError):
        Device.gpu(number)


def test_an_integer_of_another_class_is_an_id() -> None:
    numpy = pytest.importorskip("numpy")
    for number in (numpy.int64(1), numpy.uint8(1), IntEnum("Card", "FIRST").FIRST):
        device = Device.gpu(number)
        assert (device, str(device), type(device.id)) == (Device.gpu(1), "cuda:1", int)
    for wrong in (numpy.bool_(True), numpy.float32(1), numpy.int64(128)):
        with pytest.raises(DeviceError):
            Device.gpu(wrong)


@pytest.mark.parametrize("kind", ["cuda", None, 0, Device.cpu()])
def test_a_type_is_a_device_type(kind: Any) -> None:
    with pytest.raises(DeviceError, match="device type"):
        Device(kind)


def test_the_cpu_has_no_id() -> None:
    assert Device.from_str("cpu:0") == Device(DeviceType.CPU, 3) == Device.cpu()
    assert str(Device.from_str("cpu:1")) == "cpu"


def test_a_device_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Device.cpu().id = 1  # type: ignore[misc]
    with pytest.raises(DeviceError):
        dataclasses.replace(Device.gpu(), id=300)


# Maps.


def test_a_map_owns_its_entries() -> None:
    entries = {"model": Device.gpu()}
    device_map = DeviceMap(entries)
    entries["lm_head"] = Device.cpu()
    assert device_map.to_dict() == {"model": "cuda:0"}


def test_a_map_can_be_changed_and_checks_what_enters() -> None:
    device_map = DeviceMap()
    device_map["model"] = Device.gpu()
    assert device_map["model"] == Device.gpu()
    assert device_map.first_device == Device.gpu()
    for name, device in [("model", "cuda:0"), (1, Device.cpu()), ("model", None)]:
        with pytest.raises(DeviceError):
            device_map[name] = device  # type: ignore[index, assignment]
    with pytest.raises(DeviceError):
        device_map.mapping = {"model": "cuda:0"}  # type: ignore[dict-item]
    assert device_map.to_dict() == {"model": "cuda:0"}


def test_a_missing_entry_is_a_key_error_too() -> None:
    for name in ("lm_head", None, []):
        with pytest.raises(KeyError) as missing:
            DeviceMap()[name]  # type: ignore[index]
        assert isinstance(missing.value, DeviceError)
    with pytest.raises(DeviceError, match=r"^the device map has no entry `lm_head`$"):
        DeviceMap()["lm_head"]
    assert [] not in DeviceMap()


def test_an_unreadable_entry_is_named() -> None:
    with pytest.raises(DeviceError, match=r"in entry `lm_head`: Unknown device type string 'gpu'"):
        DeviceMap.from_dict({"model": "cpu", "lm_head": "gpu"})


@pytest.mark.parametrize("value", [1.5, None, b"cuda", [], object(), Device.cpu()])
def test_an_unexpected_value_of_hugging_face_is_a_type_error_too(value: Any) -> None:
    with pytest.raises(TypeError, match=r"unexpected device .* for 'lm_head'") as refused:
        DeviceMap.from_hf({"lm_head": value})
    assert isinstance(refused.value, DeviceError)
    assert type(pickle.loads(pickle.dumps(refused.value))) is type(refused.value)


@pytest.mark.parametrize("value", [True, -1, 128, "0", "meta", "cuda:0:0"])
def test_a_value_of_the_right_type_that_is_no_device_is_refused(value: Any) -> None:
    with pytest.raises(DeviceError, match="`lm_head`"):
        DeviceMap.from_hf({"lm_head": value})


@pytest.mark.parametrize("value", ["auto", None, [("model", 0)]])
def test_a_hugging_face_map_is_a_dict(value: Any) -> None:
    with pytest.raises(DeviceError, match="a dict of names and devices"):
        DeviceMap.from_hf(value)


def test_torch_devices_are_read() -> None:
    torch = pytest.importorskip("torch")
    entries = {
        "a": torch.device("cuda:1"),
        "b": torch.device("cpu"),
        "c": torch.device("mps"),
        "d": torch.device("cpu", 1),
    }
    assert DeviceMap.from_hf(entries).to_dict() == {"a": "cuda:1", "b": "cpu", "c": "mps", "d": "cpu"}
    for wrapped in (torch.device("cuda:128"), torch.device("meta")):
        with pytest.raises(DeviceError):
            DeviceMap.from_hf({"": wrapped})


# Component devices.


def test_a_component_device_is_one_device_or_a_map() -> None:
    cpu, entries = Device.cpu(), DeviceMap({"": Device.cpu()})
    for arguments in [
        (),
        (cpu, entries),
        (None, DeviceMap()),
        (Device.disk(),),
        ("cpu",),
        (None, {"": cpu}),
        (entries,),
    ]:
        with pytest.raises(DeviceError):
            ComponentDevice(*arguments)  # type: ignore[arg-type]
    assert ComponentDevice(cpu) == ComponentDevice.from_str("cpu") == ComponentDevice.from_single(cpu)
    assert ComponentDevice(None, entries) == ComponentDevice.from_multiple(entries)


def test_a_component_device_does_not_change_with_its_map() -> None:
    entries = DeviceMap({"model": Device.gpu()})
    device = ComponentDevice.from_multiple(entries)
    entries["lm_head"] = Device.cpu()
    assert device.to_hf() == {"model": 0}


def test_a_map_that_was_tampered_with_is_not_taken() -> None:
    entries = DeviceMap({"model": Device.gpu()})
    entries.mapping["lm_head"] = "disk"  # type: ignore[assignment]
    with pytest.raises(DeviceError, match="lm_head"):
        ComponentDevice.from_multiple(entries)


def test_the_map_inside_a_component_device_refuses_every_change() -> None:
    device = split()
    inside = device._multiple_devices
    assert inside is not None
    cpu = Device.cpu()
    changes = [
        lambda: inside.__setitem__("model", cpu),
        lambda: setattr(inside, "mapping", {}),
        lambda: inside.mapping.__setitem__("model", cpu),
        lambda: inside.mapping.__delitem__("lm_head"),
        lambda: inside.mapping.__ior__({"model": cpu}),
        lambda: inside.mapping.clear(),
        lambda: inside.mapping.pop("lm_head"),
        lambda: inside.mapping.popitem(),
        lambda: inside.mapping.setdefault("model", cpu),
        lambda: inside.mapping.update(model=cpu),
    ]
    for change in changes:
        with pytest.raises(DeviceError, match="cannot be changed"):
            change()
    assert device == split()


def test_what_a_component_device_hands_out_can_be_changed() -> None:
    device = split()
    inside = device._multiple_devices
    assert inside is not None
    hf = device.to_hf()
    assert isinstance(hf, dict)
    hf.clear()
    device.to_dict()["device_map"].clear()
    for own in (
        copy.copy(inside),
        copy.deepcopy(inside),
        pickle.loads(pickle.dumps(inside)),
        DeviceMap(inside.mapping),
    ):
        own["lm_head"] = Device.cpu()
    for mapping in (copy.copy(inside.mapping), copy.deepcopy(inside.mapping), inside.mapping.copy()):
        mapping["lm_head"] = Device.cpu()
    assert device == split()


def test_a_component_device_has_no_attribute_that_can_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        split()._single_device = Device.cpu()  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        split().anything = 1  # type: ignore[attr-defined]


def test_dataclass_tools_work() -> None:
    assert dataclasses.asdict(split())["_multiple_devices"]["mapping"]["lm_head"] == {
        "type": DeviceType.DISK,
        "id": None,
    }
    assert dataclasses.replace(split(), _multiple_devices=DeviceMap({"": Device.cpu()})).to_hf() == {"": "cpu"}


def test_the_order_of_a_map_is_no_part_of_equality() -> None:
    one = ComponentDevice.from_multiple(DeviceMap.from_dict({"a": "cuda:0", "b": "cuda:1"}))
    other = ComponentDevice.from_multiple(DeviceMap.from_dict({"b": "cuda:1", "a": "cuda:0"}))
    assert one == other
    assert hash(one) == hash(other)
    assert one.first_device != other.first_device


# What libraries take.


def test_a_map_gives_numbers_for_cuda_and_text_for_the_rest() -> None:
    entries = {
        "a": "cuda:1",
        "b": "cuda",
        "c": "xpu:1",
        "d": "npu:0",
        "e": "hpu",
        "f": "mps",
        "g": "cpu:0",
        "h": "disk",
    }
    expected = {"a": 1, "b": 0, "c": "xpu:1", "d": "npu:0", "e": "hpu", "f": "mps", "g": "cpu", "h": "disk"}
    hf = ComponentDevice.from_multiple(DeviceMap.from_dict(entries)).to_hf()
    assert hf == expected
    assert [type(value) for value in expected.values()] == [type(value) for value in hf.values()]  # type: ignore[union-attr]
    assert ComponentDevice.from_str("cuda:1").to_hf() == "cuda:1"


@pytest.mark.parametrize(("text", "spacy_id"), [("cpu", -1), ("cuda", 0), ("cuda:3", 3), ("mps", 0), ("mps:0", 0)])
def test_spacy_gets_its_gpu_id(text: str, spacy_id: int) -> None:
    assert ComponentDevice.from_str(text).to_spacy() == spacy_id


@pytest.mark.parametrize("text", ["xpu", "npu:1", "hpu"])
def test_a_device_that_spacy_cannot_use_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match=f"not on `{text}`"):
        ComponentDevice.from_str(text).to_spacy()


def test_spacy_takes_mps_for_any_number_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this reading of thinc rests that mps is 0 to spaCy. Its constants are frozen at import, hence the patches."""
    util = pytest.importorskip("thinc.util")
    from thinc.api import get_current_ops

    for name, value in (("has_gpu", True), ("has_cupy", True), ("has_cupy_gpu", False), ("has_torch_mps", True)):
        monkeypatch.setattr(util, name, value)
    try:
        for number in (ComponentDevice.from_str("mps").to_spacy(), 5):
            util.require_gpu(number)
            assert get_current_ops().name == "mps"
    finally:
        util.require_cpu()


@pytest.mark.parametrize("text", ["cpu", "cuda", "cuda:1", "mps", "xpu:2", "hpu"])
def test_torch_gets_its_device(text: str) -> None:
    torch = pytest.importorskip("torch")
    device = ComponentDevice.from_str(text)
    assert device.to_torch() == torch.device(text)
    assert device.to_torch_str() == text


def test_a_type_that_this_torch_does_not_know_is_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(DeviceError, match="this torch knows no `npu`"):
        ComponentDevice.from_str("npu").to_torch()


def test_without_torch_the_device_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    device = ComponentDevice.from_str("cuda:0")
    assert device.to_torch_str() == "cuda:0"
    with pytest.raises(ImportError, match=r"devpolicy\[torch\]") as missing:
        device.to_torch()
    assert isinstance(missing.value, MissingLibraryError)


def test_keyword_arguments_get_one_of_the_two_keys() -> None:
    given = {"model": "m", "device": "cuda:7"}
    assert ComponentDevice.from_str("cpu").update_hf_kwargs(given, overwrite=False) == given
    assert split().update_hf_kwargs(given, overwrite=True) == {"model": "m", "device_map": split().to_hf()}
    assert ComponentDevice.from_str("cpu").update_hf_kwargs({"model": "m"}, overwrite=False) == {
        "model": "m",
        "device": "cpu",
    }
    assert given == {"model": "m", "device": "cuda:7"}


# The dict form.


def test_a_saved_map_comes_back_in_its_order() -> None:
    saved = {"a": "disk", "b": "cpu", "c": "cuda:1", "d": "disk", "e": "cuda:0", "f": "cpu"}
    device = ComponentDevice.from_dict({"type": "multiple", "device_map": saved})
    assert list(device.to_dict()["device_map"]) == ["c", "e", "b", "f", "a", "d"]
    assert device.first_device == ComponentDevice.from_str("cuda:1")


@pytest.mark.parametrize(
    "saved",
    [
        None,
        "cuda:0",
        [],
        {},
        {"type": None},
        {"type": []},
        {"type": "Single", "device": "cpu"},
        {"type": "single"},
        {"type": "single", "device": None},
        {"type": "single", "device": "disk"},
        {"type": "single", "device_map": {"": "cpu"}},
        {"type": "multiple"},
        {"type": "multiple", "device_map": {}},
        {"type": "multiple", "device_map": "auto"},
        {"type": "multiple", "device_map": {"": 0}},
        {"type": "multiple", "device_map": {0: "cpu"}},
        {"type": "multiple", "device_map": {"": {"": "cpu"}}},
    ],
)
def test_a_malformed_dict_form_is_refused(saved: Any) -> None:
    with pytest.raises(DeviceError):
        ComponentDevice.from_dict(saved)


# Choosing.


@pytest.mark.parametrize(
    ("value", "way"),
    [("cuda:0", "from_str"), (Device.cpu(), "from_single"), (0, "None or ComponentDevice"), ([], "'list'")],
)
def test_what_is_no_component_device_is_not_resolved(value: Any, way: str) -> None:
    with pytest.raises(DeviceError, match=way):
        ComponentDevice.resolve_device(value)


def test_a_given_device_is_the_resolved_one() -> None:
    for device in (split(), ComponentDevice.from_str("cpu")):
        assert ComponentDevice.resolve_device(device) is device


def test_where_nothing_is_given_the_active_policy_decides() -> None:
    host = Host(accelerators=[Accelerator("xpu", memory="16 GiB")], memory="64 GiB")
    policy = Policy.parse('prefer = ["cuda", "xpu"]')
    with use_policy(policy, host):
        assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("xpu:0")
        assert ComponentDevice.resolve_device(ComponentDevice.from_str("cpu")) == ComponentDevice.from_str("cpu")
    assert ComponentDevice.from_policy(policy, host=host) == ComponentDevice.from_str("xpu:0")


def test_without_torch_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert default_device() == Device.cpu()


def test_a_driver_that_fails_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("driver\nfailed")

    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=broken),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delenv("HAYSTACK_MPS_ENABLED", raising=False)
    with pytest.warns(DevPolicyWarning, match="`cuda` cannot be asked and is left out: RuntimeError: driver failed"):
        assert default_device() == Device.mps()


def test_a_torch_that_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(DevPolicyWarning, match="`torch` cannot be asked .* libcudart"):
        assert default_device() == Device.cpu()


def test_the_values_import_no_library() -> None:
    script = (
        "import sys; before = set(sys.modules);"
        "import devpolicy._core.device, devpolicy.testing, devpolicy._core.targets.haystack;"
        "heavy = {'torch', 'numpy', 'haystack', 'transformers', 'spacy', 'hypothesis', 'rich', 'click'};"
        "print(heavy & set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
