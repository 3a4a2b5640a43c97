"""Calls that fail on a machine fail on the simulated host, and what works beside its devices goes on working."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from devpolicy import Accelerator, Host
from devpolicy.errors import DevPolicyError, SimulationDepthError
from devpolicy.testing import simulate_host

torch = pytest.importorskip("torch")

DIFFERING = """
import inspect, warnings
import torch
from devpolicy.testing import simulate_host

def public(module):
    for name, value in sorted(vars(module).items()):
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith(module.__name__):
            try:
                inspect.signature(value).bind()
            except TypeError:
                continue  # it needs an argument
            yield name

def outcome(module, name):
    try:
        found = getattr(module, name)()
    except Exception:
        return "an error"
    return found if isinstance(found, bool | int | float | str | tuple | list | dict | None) else type(found)

warnings.simplefilter("ignore")
for module in (torch.cuda, torch.xpu, torch.mps, torch.accelerator, torch.backends.mps):
    for name in public(module):
        here = outcome(module, name)
        with simulate_host("cpu-only"):
            there = outcome(module, name)
        if here != there:
            print(f"{module.__name__}.{name}(): {here} here, {there} there")
"""


@pytest.mark.skipif(
    torch.cuda._is_compiled() or torch.xpu._is_compiled() or torch.backends.mps.is_built(),
    reason="compares with a build of torch that knows no accelerator",
)
def test_every_function_answers_without_accelerators_as_here() -> None:
    # In a process of its own: where the simulator of tensors is loaded, this build knows accelerators.
    run = subprocess.run([sys.executable, "-c", DIFFERING], capture_output=True, text=True, check=True)
    assert run.stdout == ""


TWO = Host([Accelerator("cuda", memory="24 GiB"), Accelerator("cuda", memory="8 GiB")], memory="64 GiB", name="two")


class TestRefusedLikeTorch:
    @pytest.mark.parametrize("device", ["cuda", torch.device("cuda"), None])
    def test_the_current_device_is_not_set_without_an_index(self, device: Any) -> None:
        with simulate_host(TWO), pytest.raises(ValueError, match="with a specified index or an integer"):
            torch.cuda.set_device(device)

    def test_the_id_that_means_the_cpu_elsewhere_has_no_properties(self) -> None:
        with simulate_host(TWO):
            for ask in (torch.cuda.get_device_name, torch.cuda.get_device_capability):
                with pytest.raises(AssertionError, match="Invalid device id"):
                    ask(-1)

    @pytest.mark.parametrize("name", ["synchronize", "reset_peak_memory_stats", "mem_get_info", "set_device"])
    def test_a_device_that_is_not_there_is_an_accelerator_error(self, name: str) -> None:
        kind = getattr(torch, "AcceleratorError", RuntimeError)
        with simulate_host(TWO), pytest.raises(kind, match="CUDA error: invalid device ordinal"):
            getattr(torch.cuda, name)(2)

    def test_a_device_with_an_error_of_cuda_raises_it_as_torch_does(self) -> None:
        kind = getattr(torch, "AcceleratorError", RuntimeError)
        with simulate_host("faulty/ecc-on-query") as host:
            (faulty,) = (device for device in host.accelerators if device.fault)
            with pytest.raises(kind, match="uncorrectable ECC error"):
                torch.cuda.mem_get_info(faulty.id)

    @pytest.mark.parametrize("device", ["cpu", "xpu:0"])
    @pytest.mark.parametrize("name", ["set_device_index", "synchronize"])
    def test_the_accelerator_is_of_one_type(self, name: str, device: str) -> None:
        with simulate_host(TWO), pytest.raises(ValueError, match="doesn't match the current accelerator cuda"):
            getattr(torch.accelerator, name)(device)


class TestDeviceIndex:
    def test_a_block_on_another_device_of_the_accelerator(self) -> None:
        with simulate_host(TWO):
            with torch.accelerator.device_index(1):
                assert torch.cuda.current_device() == 1
            assert torch.cuda.current_device() == 0
            with torch.accelerator.device_index(None):
                assert torch.cuda.current_device() == 0

    def test_a_block_on_a_device_that_is_not_there(self) -> None:
        with simulate_host(TWO):
            with pytest.raises(RuntimeError, match="invalid device ordinal"), torch.accelerator.device_index(2):
                pass
            assert torch.cuda.current_device() == 0


C_HALF: dict[str, list[Callable[[], Any]]] = {
    "2x24gb": [
        lambda: torch.cuda.get_arch_list(),
        lambda: torch.cuda.memory_snapshot(),
        lambda: torch.cuda.get_allocator_backend(),
        lambda: torch.cuda.nccl.version(),
        lambda: list(torch.utils.data.DataLoader([torch.ones(1)], pin_memory=True)),
        lambda: torch.accelerator.current_stream().query(),
    ],
    "arc-a770": [lambda: torch.xpu.get_arch_list()],
    "macbook-m3-36gb": [lambda: torch.mps.get_rng_state(), lambda: torch.backends.mps.get_core_count()],
}


class TestBesideTheDevices:
    @pytest.mark.parametrize("name", C_HALF)
    def test_what_this_torch_lacks_is_refused_by_the_hosts_name(self, name: str) -> None:
        for ask in C_HALF[name]:
            with simulate_host(name), pytest.raises(SimulationDepthError, match=f"on the simulated host `{name}`"):
                ask()

    @pytest.mark.parametrize("name", ["2x24gb", "arc-a770", "macbook-m3-36gb"])
    @pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adamax", "NAdam"])
    def test_a_model_on_the_cpu_is_trained(self, name: str, optimizer: str) -> None:
        with simulate_host(name):
            model = torch.nn.Linear(2, 1)
            before = model.weight.clone()
            model(torch.ones(1, 2)).sum().backward()
            getattr(torch.optim, optimizer)(model.parameters(), lr=0.1).step()
            assert not torch.equal(model.weight, before)

    @pytest.mark.parametrize("name", ["2x24gb", "arc-a770"])
    def test_no_graph_is_captured(self, name: str) -> None:
        with simulate_host(name) as host:
            assert not getattr(torch, host.accelerators[0].type).is_current_stream_capturing()

    def test_the_drivers_index_is_the_hosts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pynvml")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        with simulate_host("faulty/visible-gap") as host:
            last = host.accelerators[2]
            assert torch.cuda.device_memory_used(2) == last.memory - last.free


class TestTheDefaultDevice:
    def test_it_ends_with_the_simulation(self) -> None:
        for name, device in (("2x24gb", "cuda:1"), ("2x24gb", "cuda"), ("arc-a770", "xpu"), ("macbook-m3-36gb", "mps")):
            with simulate_host(name):
                torch.set_default_device(device)
                indexed = device if ":" in device else f"{device}:0"
                assert torch.get_default_device() == torch.device(indexed)
            assert torch.ones(1).device.type == "cpu"

    def test_that_of_before_comes_back(self) -> None:
        torch.set_default_device("meta")
        try:
            with simulate_host(TWO):
                torch.set_default_device("cuda")
                torch.set_default_device("cpu")
                assert torch.ones(1).device.type == "cpu"
            assert torch.ones(1).device.type == "meta"
        finally:
            torch.set_default_device(None)

    def test_that_of_another_thread_is_its_own(self) -> None:
        torch.set_default_device("meta")
        try:
            with simulate_host(TWO, scope="process"):
                thread = threading.Thread(target=torch.set_default_device, args=("cpu",))
                thread.start()
                thread.join()
            assert torch.ones(1).device.type == "meta"
        finally:
            torch.set_default_device(None)


def _detect() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _by_way_of_another() -> str:
    return _detect()


@functools.cache
def picked() -> str:
    return _by_way_of_another()


def test_a_cache_behind_another_function_does_not_freeze_answers() -> None:
    assert picked() == "cpu"
    with simulate_host(TWO):
        assert picked() == "cuda"
    assert picked() == "cpu"


def test_a_class_with_hidden_tests_is_refused() -> None:
    with pytest.raises(DevPolicyError, match="`TestIt` is a class: mark it with"):

        @simulate_host("2x24gb")
        class TestIt: ...
