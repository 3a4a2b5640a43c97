"""What holds for every device value, and that no input ends in anything but our errors."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devpolicy._core.device import ComponentDevice, Device, DeviceMap, DeviceType
from devpolicy.errors import DeviceError
from devpolicy.testing.strategies import component_devices, device_maps, devices

TYPES = [member.value for member in DeviceType if member is not DeviceType.DISK]

any_device = devices(types=TYPES, max_id=127, disk=True)
any_map = device_maps(types=TYPES, max_id=127, min_size=0, names=st.text(max_size=5))
any_component_device = component_devices(types=TYPES, max_id=127)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["cpu", "disk", "cuda:0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
saved_forms = st.fixed_dictionaries(
    {"type": st.sampled_from(["single", "multiple"]) | json_values},
    optional={
        "device": json_values,
        "device_map": st.dictionaries(st.text(max_size=3), json_values, max_size=3) | json_values,
    },
)


def only_our_errors(action: Any, *arguments: Any) -> None:
    """Anything but a `DeviceError` fails the test."""
    try:
        action(*arguments)
    except DeviceError as refused:
        text = str(refused)
        assert text
        assert len(text) < 1000
        assert str(pickle.loads(pickle.dumps(refused))) == text


# Every form is read back to the same value.


@given(any_device)
def test_a_device_is_its_text(device: Device) -> None:
    assert Device.from_str(str(device)) == device


@given(any_map)
def test_a_map_survives_its_dict_form_with_its_order(device_map: DeviceMap) -> None:
    again = DeviceMap.from_dict(json.loads(json.dumps(device_map.to_dict())))
    assert again == device_map
    assert list(again) == list(device_map)


@given(any_component_device)
def test_a_component_device_survives_its_dict_form(device: ComponentDevice) -> None:
    assert ComponentDevice.from_dict(json.loads(json.dumps(device.to_dict()))) == device


@given(any_component_device)
def test_a_map_in_safe_order_keeps_it(device: ComponentDevice) -> None:
    once = ComponentDevice.from_dict(device.to_dict())
    assert list(ComponentDevice.from_dict(once.to_dict()).to_dict().items()) == list(once.to_dict().items())


@given(any_component_device)
def test_order_is_safe_however_a_map_was_saved(device: ComponentDevice) -> None:
    saved = json.loads(json.dumps(device.to_dict(), sort_keys=True))
    restored = ComponentDevice.from_dict(saved).to_dict().get("device_map", {})
    ranks = [{"cpu": 1, "disk": 2}.get(text, 0) for text in restored.values()]
    assert ranks == sorted(ranks)


@given(device_maps(types=TYPES, max_id=127))
def test_a_map_survives_hugging_faces_form(device_map: DeviceMap) -> None:
    hf = ComponentDevice.from_multiple(device_map).to_hf()
    assert isinstance(hf, dict)
    with_number = {name: Device.gpu() if device == Device(DeviceType.GPU) else device for name, device in device_map}
    assert DeviceMap.from_hf(hf) == DeviceMap(with_number)
    assert list(hf) == list(device_map.mapping)


@given(any_map)
def test_a_map_survives_torchs_devices(device_map: DeviceMap) -> None:
    torch = pytest.importorskip("torch")
    for name, device in device_map:
        if device.type not in (DeviceType.DISK, DeviceType.NPU):
            assert DeviceMap.from_hf({name: torch.device(str(device))})[name] == device


# Values are values.

COPIES = st.sampled_from([copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])


@given(any_device | any_map | any_component_device, COPIES)
def test_a_copy_is_equal_and_hashes_alike(value: Any, make: Any) -> None:
    other = make(value)
    assert other == value
    assert repr(other) == repr(value)
    if not isinstance(value, DeviceMap):
        assert hash(other) == hash(value)


@given(any_component_device, COPIES)
def test_a_copy_of_a_component_device_cannot_be_changed_either(device: ComponentDevice, make: Any) -> None:
    inside = make(device)._multiple_devices
    if inside is not None:
        with pytest.raises(DeviceError):
            inside[""] = Device.cpu()
        with pytest.raises(DeviceError):
            inside.mapping.clear()


@given(st.lists(any_device, max_size=6))
def test_equal_devices_are_those_of_equal_text(values: list[Device]) -> None:
    assert len(set(values)) == len({str(device) for device in values})


@given(any_map, COPIES)
def test_a_copy_of_a_map_is_a_map_of_its_own(device_map: DeviceMap, make: Any) -> None:
    before = device_map.to_dict()
    other = make(device_map)
    other["a new name"] = Device.cpu()
    assert device_map.to_dict() == before


@given(
    any_component_device,
    st.dictionaries(st.sampled_from(["device", "device_map", "model"]), st.text(max_size=2)),
    st.booleans(),
)
def test_keyword_arguments_hold_one_device_and_the_rest(
    device: ComponentDevice, kwargs: dict[str, str], overwrite: bool
) -> None:
    before = dict(kwargs)
    result = device.update_hf_kwargs(kwargs, overwrite=overwrite)
    assert kwargs == before
    assert result is not kwargs
    if overwrite or not {"device", "device_map"} & kwargs.keys():
        key = "device_map" if device.has_multiple_devices else "device"
        assert result == {name: value for name, value in before.items() if name == "model"} | {key: device.to_hf()}
    else:
        assert result == before


# No input ends in anything but our errors.


@given(
    st.text()
    | st.text("cudapmsx:0123456789-+_ ")
    | st.tuples(st.sampled_from(TYPES), st.text(max_size=5)).map(":".join)
    | json_values
)
@example("cuda:" + "9" * 5000)
@example("\ud800")
@example("cuda:\x00")
def test_arbitrary_text_is_a_device_or_our_error(text: Any) -> None:
    only_our_errors(Device.from_str, text)
    only_our_errors(ComponentDevice.from_str, text)
    only_our_errors(DeviceType.from_str, text)
    only_our_errors(ComponentDevice.resolve_device, 0 if text is None else text)


@given(json_values | saved_forms)
def test_an_arbitrary_saved_form_is_a_device_or_our_error(saved: Any) -> None:
    only_our_errors(ComponentDevice.from_dict, saved)
    only_our_errors(DeviceMap.from_dict, saved)
    only_our_errors(DeviceMap.from_hf, saved)


@given(st.sampled_from(DeviceType) | json_values, json_values)
def test_arbitrary_fields_are_a_device_or_our_error(kind: Any, number: Any) -> None:
    only_our_errors(Device, kind, number)
    only_our_errors(DeviceMap, {kind: number} if isinstance(kind, str) else number)
    only_our_errors(ComponentDevice, kind, number)
    only_our_errors(ComponentDevice, None, number)


@given(any_component_device)
def test_a_conversion_gives_a_value_or_our_error(device: ComponentDevice) -> None:
    for convert in (device.to_hf, device.to_spacy, device.to_torch_str, device.to_dict):
        only_our_errors(convert)


def test_nesting_without_end_is_our_error() -> None:
    saved: Any = {"type": "multiple"}
    saved["device_map"] = saved
    only_our_errors(ComponentDevice.from_dict, saved)
    deep: Any = "cpu"
    for _ in range(100_000):
        deep = {"": deep}
    only_our_errors(ComponentDevice.from_dict, {"type": "multiple", "device_map": deep})
