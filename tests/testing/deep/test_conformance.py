"""The conformance suite on devices that hold tensors: the checks are those of a real machine."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from devpolicy import Host  # noqa: E402
from devpolicy.testing import host_catalogue, simulate_host, simulated_device  # noqa: E402
from devpolicy.testing.conformance import (  # noqa: E402
    DEVICE_CHECKS,
    ConformanceError,
    check_devices,
    check_host,
    check_machine,
)


@pytest.mark.parametrize("name", host_catalogue())
def test_the_devices_of_every_host_conform(name):
    with simulate_host(name, depth="tensors") as host:
        check_devices(host)
        check_machine(host)
        assert check_host(Host.probe).name == host.name


@pytest.fixture
def rig():
    with simulate_host("2x24gb", depth="tensors") as host:
        yield host


def test_a_device_that_breaks_is_told_with_its_host(rig):
    simulated_device("cuda:1").fail_after(operations=3)
    with pytest.raises(ConformanceError, match="tensors_stay_where_they_are_put") as broken:
        check_devices(rig)
    assert "unspecified launch failure" in str(broken.value)
    assert "NVIDIA GeForce RTX 4090" in str(broken.value)


BROKEN = {
    "tensors_stay_where_they_are_put": ("__getitem__", lambda self, place: self.cpu()),
    "numbers_come_back": ("cpu", lambda self: torch.zeros(1000, dtype=torch.int32)),
    "devices_do_not_meet": ("__add__", lambda self, other: other),
    "gradients_are_where_their_tensors_are": ("backward", lambda self: None),
    "seeds_repeat": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_torch_that_breaks_a_property_is_told_so(rig, name, monkeypatch):
    (one,) = (check for check in DEVICE_CHECKS if check.name == name)
    assert list(one.find(rig)) == []
    if BROKEN[name] is None:
        drawn = iter(range(100))
        monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.full((4,), next(drawn)))
    else:
        monkeypatch.setattr(torch.Tensor, *BROKEN[name])
    assert list(one.find(rig)) != []


def test_memory_that_is_not_given_back_is_told(rig, monkeypatch):
    (counted,) = (check for check in DEVICE_CHECKS if check.name == "memory_is_counted")
    kept = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: kept.append(empty(*size, **more)) or kept[-1])
    assert "cuda:0" in next(iter(counted.find(rig)))
