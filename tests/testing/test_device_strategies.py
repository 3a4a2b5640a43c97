"""The strategies keep their bounds, reach what they promise, and shrink to the simplest value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.device import ComponentDevice, Device, DeviceType
from devpolicy.testing.strategies import component_devices, device_maps, devices


@given(st.data(), st.integers(0, 127), st.integers(0, 127))
def test_ids_keep_their_bounds(data: st.DataObject, one: int, other: int) -> None:
    low, high = sorted((one, other))
    device = data.draw(devices(types=["cuda"], min_id=low, max_id=high))
    assert device.id is not None
    assert low <= device.id <= high


@given(device_maps(min_size=2, max_size=3, types=["xpu"], disk=False))
def test_maps_keep_their_bounds(device_map: Any) -> None:
    assert 2 <= len(device_map) <= 3
    assert {device.type for _, device in device_map} == {DeviceType.XPU}


@given(component_devices())
def test_a_component_device_has_something_to_run_on(device: ComponentDevice) -> None:
    assert device.first_device


@pytest.mark.parametrize(
    ("condition", "simplest"),
    [
        (lambda device: True, Device.cpu()),
        (lambda device: device.type is not DeviceType.CPU, Device.mps()),
        (lambda device: str(device)[0] in "xc" and device.type is not DeviceType.CPU, Device.xpu()),
        (lambda device: device.id is not None, Device(DeviceType.MPS, 0)),
        (lambda device: (device.id or 0) >= 2 and device.type is DeviceType.GPU, Device.gpu(2)),
        (lambda device: device.type is DeviceType.DISK, Device.disk()),
    ],
)
def test_devices_shrink_from_cuda_to_the_cpu_and_to_no_id(condition: Any, simplest: Device) -> None:
    assert find(devices(disk=True), condition) == simplest


def test_component_devices_shrink_to_one_device() -> None:
    assert find(component_devices(), lambda device: True) == ComponentDevice.from_str("cpu")
    assert find(component_devices(), lambda device: device.has_multiple_devices).to_hf() == {"": "cpu"}
    both = find(component_devices(), lambda device: len(set(device.to_dict().get("device_map", {}).values())) > 1)
    assert len(both.to_dict()["device_map"]) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: devices(types=[]),
        lambda: devices(types=["gpu"]),
        lambda: devices(max_id=128),
        lambda: devices(min_id=3, max_id=2),
        lambda: devices(min_id=-1),
        lambda: device_maps(min_size=3, max_size=2),
    ],
)
def test_bounds_that_leave_nothing_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()


def test_without_hypothesis_what_to_install_is_said() -> None:
    code = "import sys\nsys.modules['hypothesis'] = None\nimport devpolicy.testing.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "pip install 'devpolicy[testing]'" in done.stderr.splitlines()[-1]
