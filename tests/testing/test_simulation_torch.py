"""What torch, and NVML beside it, answer on a simulated host, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from textwrap import dedent
from typing import Any

import pytest

from devpolicy import Accelerator, Host
from devpolicy.errors import SimulationDepthError
from devpolicy.testing import host_catalogue, simulate_host

torch = pytest.importorskip("torch")

CATALOGUE = host_catalogue()
EVERY_HOST = pytest.mark.parametrize("name", CATALOGUE)
TWO = Host([Accelerator("cuda", memory="24 GiB", free="20 GiB"), Accelerator("cuda", memory="8 GiB")], memory="64 GiB")


def expected_count(host: Host, type_: str) -> int:
    return len(host.devices(type_))


class TestQuestions:
    @EVERY_HOST
    def test_each_type_has_the_hosts_devices(self, name: str) -> None:
        with simulate_host(name) as host:
            for type_ in ("cuda", "xpu"):
                module = getattr(torch, type_)
                assert module.device_count() == expected_count(host, type_)
                assert module.is_available() == bool(expected_count(host, type_))
                assert not module.is_initialized()
            assert torch.backends.mps.is_available() == bool(host.devices("mps"))
            assert torch.mps.device_count() == len(host.devices("mps"))

    @EVERY_HOST
    def test_each_device_tells_the_hosts_facts_or_its_fault(self, name: str) -> None:
        with simulate_host(name) as host:
            for device in (*host.devices("cuda"), *host.devices("xpu")):
                module = getattr(torch, device.type)
                fault = host.fault(device.type) or device.fault
                if fault:
                    for ask in (module.mem_get_info, module.get_device_properties, module.set_device):
                        with pytest.raises(RuntimeError, match=fault[:20]):
                            ask(device.id)
                    continue
                assert module.mem_get_info(device.id) == (device.free, device.memory)
                properties = module.get_device_properties(f"{device.type}:{device.id}")
                assert (properties.name, properties.total_memory) == (device.name, device.memory)
                assert properties.is_integrated == device.unified
                assert module.get_device_name(torch.device(device.type, device.id)) == device.name
                if device.capability:
                    assert module.get_device_capability(device.id) == device.capability
                    assert (properties.major, properties.minor) == device.capability
                assert module.memory_allocated(device.id) == 0

    @EVERY_HOST
    def test_the_accelerator_is_the_type_of_its_torch(self, name: str) -> None:
        with simulate_host(name) as host:
            local = (host.version("torch") or "").partition("+")[2]
            wanted = "mps" if host.devices("mps") else {"cu1": "cuda", "roc": "cuda", "xpu": "xpu"}.get(local[:3])
            found = torch.accelerator.current_accelerator()
            assert (found and found.type) == wanted
            assert torch.accelerator.device_count() == len(host.accelerators)
            assert torch.accelerator.is_available() == bool(host.accelerators)
            assert (torch.accelerator.current_accelerator(check_available=True) is None) == (not host.accelerators)
            assert torch.get_device_module() is getattr(torch, wanted or "cpu")
            assert (torch.version.cuda is not None) == local.startswith("cu1")
            assert (torch.version.hip is not None) == local.startswith("rocm")

    def test_a_type_that_only_the_inner_host_has_is_seen_there_alone(self) -> None:
        seen = []
        with simulate_host("2x24gb"):
            for name in ("arc-a770", "macbook-m3-36gb"):
                seen.append((torch.xpu.is_available(), torch.backends.mps.is_available()))
                with simulate_host(name):
                    seen.append((torch.xpu.is_available(), torch.backends.mps.is_available()))
            seen.append((torch.xpu.is_available(), torch.backends.mps.is_available()))
        assert seen == [(False, False), (True, False), (False, False), (False, True), (False, False)]

    def test_hosts_of_two_types_may_be_left_in_any_order(self) -> None:
        original = torch.xpu.is_available
        cuda, xpu = simulate_host("2x24gb", scope="process"), simulate_host("arc-a770", scope="process")
        cuda.__enter__()
        xpu.__enter__()
        cuda.__exit__(None, None, None)
        assert torch.xpu.is_available()
        xpu.__exit__(None, None, None)
        assert torch.xpu.is_available is original

    def test_the_device_index_of_the_accelerator_is_the_types_own(self) -> None:
        with simulate_host("2x24gb"):
            torch.accelerator.set_device_index(1)
            assert torch.cuda.current_device() == torch.accelerator.current_device_index() == 1
            assert torch.accelerator.get_memory_info() == torch.cuda.mem_get_info(1)

    def test_the_current_device_is_each_threads_own(self) -> None:
        with simulate_host(TWO, scope="process"):
            torch.cuda.set_device(1)
            assert torch.cuda.mem_get_info() == (8 << 30, 8 << 30)
            with torch.cuda.device(0):
                assert torch.cuda.current_device() == 0
            assert torch.cuda.current_device() == 1
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.cuda.current_device).result() == 0
            with simulate_host(TWO):
                assert torch.cuda.current_device() == 0
            assert torch.cuda.current_device() == 1
        with simulate_host(TWO):
            assert torch.cuda.current_device() == 0

    def test_a_device_that_is_not_there_is_refused_in_torchs_words(self) -> None:
        with simulate_host(TWO):
            with pytest.raises(RuntimeError, match="invalid device ordinal"):
                torch.cuda.mem_get_info(2)
            with pytest.raises(AssertionError, match="Invalid device id"):
                torch.cuda.get_device_properties(2)
            with pytest.raises(ValueError, match="Expected a cuda device"):
                torch.cuda.mem_get_info("cpu")

    def test_a_gap_in_the_ids_is_counted_and_cannot_be_used(self) -> None:
        gap = Host([Accelerator("cuda", 0, memory="1 GiB"), Accelerator("cuda", 2, memory="1 GiB")], memory="4 GiB")
        with simulate_host(gap):
            assert torch.cuda.device_count() == 3
            assert torch.cuda.mem_get_info(2) == (1 << 30, 1 << 30)
            with pytest.raises(RuntimeError, match="busy or unavailable"):
                torch.cuda.mem_get_info(1)

    def test_without_cuda_torch_says_what_it_says_there(self) -> None:
        with simulate_host("cpu-only"), pytest.raises(AssertionError, match="not compiled with CUDA"):
            torch.zeros(1, device="cuda")
        with simulate_host("faulty/zero-devices"), pytest.raises(RuntimeError, match="No CUDA GPUs are available"):
            torch.zeros(1, device="cuda")

    def test_a_build_without_cuda_sees_none_of_the_hosts_gpus(self) -> None:
        with simulate_host(Host(TWO.accelerators, memory="64 GiB", versions={"torch": "2.13.0+cpu"})):
            assert not torch.cuda.is_available()
            assert torch.accelerator.current_accelerator() is None

    def test_an_amd_host_is_cuda_with_hip(self) -> None:
        with simulate_host(Host(TWO.accelerators, memory="64 GiB", versions={"torch": "2.9.1+rocm6.4"})):
            assert torch.cuda.device_count() == 2
            assert (torch.version.cuda, torch.version.hip) == (None, "6.4")

    def test_the_version_of_macos_is_the_hosts(self) -> None:
        mps = torch.backends.mps
        with simulate_host("macbook-m3-36gb"):
            asked = [(14, 0), (15, 5), (15, 6), (26, 0)]
            assert [mps.is_macos_or_newer(*version) for version in asked] == [True, True, False, False]
        with simulate_host("2x24gb"), pytest.raises(RuntimeError, match="without MPS backend"):
            mps.is_macos_or_newer(13, 0)
        unknown = Host([Accelerator("mps", memory="8 GiB")], memory="16 GiB")
        with simulate_host(unknown), pytest.raises(SimulationDepthError, match="is_macos_or_newer"):
            mps.is_macos_or_newer(14, 0)

    def test_a_function_taken_by_hand_follows_or_refuses(self) -> None:
        taken = {"there": torch.cuda.is_available, "count": torch.cuda.device_count, "free": torch.cuda.mem_get_info}
        with simulate_host(TWO):
            assert taken["there"]()
            assert taken["count"]() == 2
            with pytest.raises(SimulationDepthError):
                taken["free"](0)

    def test_seeding_leaves_nothing_queued(self) -> None:
        before = len(torch.cuda._queued_calls)
        with simulate_host(TWO):
            torch.cuda.manual_seed_all(1)
        with simulate_host("macbook-m3-36gb"):
            torch.mps.manual_seed(1)
        assert len(torch.cuda._queued_calls) == before


REFUSED: dict[str, list[Callable[[], Any]]] = {
    "2x24gb": [
        lambda: torch.zeros(1, device="cuda"),
        lambda: torch.tensor([0], device="cuda:1"),
        lambda: torch.ones(1).to("cuda"),
        lambda: torch.ones(1).cuda(),
        lambda: torch.nn.Linear(2, 2).to("cuda:1"),
        lambda: torch.Generator("cuda"),
        lambda: torch.Generator(device=torch.device("cuda", 1)),
        lambda: torch.cuda.Stream(),
        lambda: torch.cuda.Event(),
        lambda: torch.cuda.current_stream(),
        lambda: torch.cuda.get_rng_state(),
        lambda: torch.cuda.MemPool(),
        lambda: torch.cuda.FloatTensor(1),
        lambda: torch.Stream(),
    ],
    "arc-a770": [
        lambda: torch.zeros(1, device="xpu"),
        lambda: torch.Generator("xpu"),
        lambda: torch.xpu.Stream(),
        lambda: torch.xpu.get_device_capability(),
    ],
    "macbook-m3-36gb": [
        lambda: torch.zeros(1, device="mps"),
        lambda: torch.tensor([0], device=torch.device("mps")),
        lambda: torch.ones(1).to("mps"),
        lambda: torch.nn.Linear(2, 2).to("mps"),
        lambda: torch.Generator("mps"),
        lambda: torch.mps.Event(),
        lambda: torch.accelerator.get_memory_info(),
    ],
}


class TestRefusals:
    @pytest.mark.parametrize(("name", "ask"), [(name, ask) for name, asked in REFUSED.items() for ask in asked])
    def test_what_needs_a_real_device_is_refused_by_the_hosts_name(self, name: str, ask: Callable[[], Any]) -> None:
        with simulate_host(name), pytest.raises(SimulationDepthError, match=f"on the simulated host `{name}`"):
            ask()

    def test_what_needs_none_works(self) -> None:
        for name in ("2x24gb", "macbook-m3-36gb"):
            with simulate_host(name):
                assert torch.ones(2).to("cpu").sum().item() == 2
                assert torch.zeros(1, device="meta").device.type == "meta"
                generator = torch.Generator().manual_seed(3)
                assert isinstance(generator, torch.Generator)
                assert torch.rand(1, generator=generator).shape == (1,)
                assert torch.device("mps").type == "mps"

    def test_no_function_mode_is_left_whatever_order_they_end_in(self) -> None:
        before = torch._C._len_torch_function_stack()
        first, second = simulate_host("macbook-m3-36gb"), simulate_host("macbook-m3-36gb")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        with pytest.raises(SimulationDepthError):
            torch.zeros(1, device="mps")
        second.__exit__(None, None, None)
        assert torch._C._len_torch_function_stack() == before


class TestNvml:
    @EVERY_HOST
    def test_it_counts_the_drivers_devices(self, name: str) -> None:
        nvml = pytest.importorskip("pynvml")
        with simulate_host(name) as host:
            if host.fault("nvml"):
                with pytest.raises(nvml.NVMLError, match=host.fault("nvml")):
                    nvml.nvmlInit()
                return
            if not host.version("driver"):
                with pytest.raises(nvml.NVMLError_LibraryNotFound):
                    nvml.nvmlInit()
                return
            nvml.nvmlInit()
            assert nvml.nvmlSystemGetDriverVersion() == host.version("driver")
            for device in host.devices("cuda"):
                physical = device.id if device.physical is None else device.physical
                assert nvml.nvmlDeviceGetCount() > physical
                if device.fault:
                    with pytest.raises(nvml.NVMLError, match=device.fault):
                        nvml.nvmlDeviceGetHandleByIndex(physical)
                    continue
                handle = nvml.nvmlDeviceGetHandleByIndex(physical)
                assert nvml.nvmlDeviceGetName(handle) == device.name
                assert nvml.nvmlDeviceGetCudaComputeCapability(handle) == list(device.capability or ())
                if device.unified:
                    with pytest.raises(nvml.NVMLError_NotSupported):
                        nvml.nvmlDeviceGetMemoryInfo(handle)
                else:
                    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                    assert (memory.total, memory.free) == (device.memory, device.free)
            nvml.nvmlShutdown()

    def test_what_a_host_does_not_know_is_refused(self) -> None:
        nvml = pytest.importorskip("pynvml")
        with simulate_host("faulty/visible-gap"):
            nvml.nvmlInit()
            with pytest.raises(SimulationDepthError, match="does not describe"):
                nvml.nvmlDeviceGetHandleByIndex(1)
            with pytest.raises(SimulationDepthError, match="nvmlDeviceGetFanSpeed"):
                nvml.nvmlDeviceGetFanSpeed(nvml.nvmlDeviceGetHandleByIndex(0))

    def test_it_answers_once_initialised_and_then_on_each_host(self) -> None:
        pytest.importorskip("pynvml")
        code = """
            import pynvml
            from pynvml import nvmlDeviceGetCount as count
            from devpolicy.testing import simulate_host

            def asked():
                try:
                    return pynvml.nvmlDeviceGetCount()
                except pynvml.NVMLError as error:
                    return type(error).__name__

            before = pynvml.nvmlDeviceGetCount
            with simulate_host("2x24gb"):
                print(asked())
                pynvml.nvmlInit()
                print(asked())
                with simulate_host("8x80gb"):
                    print(asked())
                print(asked())
            print(pynvml.nvmlDeviceGetCount is before)
            with simulate_host("4x80gb"):
                print(asked())
            print(pynvml.nvmlDeviceGetCount is before)
        """
        done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["NVMLError_Uninitialized", "2", "8", "2", "True", "4", "True"]


class TestNeighbour:
    def test_each_question_finds_less_and_never_less_than_nothing(self) -> None:
        host = Host([Accelerator("cuda", memory="10 GiB", memory_pressure="4 GiB")], memory="8 GiB")
        with simulate_host(host):
            assert [torch.cuda.mem_get_info()[0] >> 30 for _ in range(4)] == [10, 6, 2, 0]
        with simulate_host(host):
            assert Host.probe() == host
            assert Host.probe().accelerators[0].free == 6 << 30
            assert torch.cuda.mem_get_info()[0] == 2 << 30

    def test_a_simulation_begins_with_what_the_file_says(self) -> None:
        for _ in range(2):
            with simulate_host("faulty/noisy-neighbour") as host:
                assert torch.cuda.mem_get_info(0)[0] == host.accelerators[0].free
                assert torch.cuda.mem_get_info(1)[0] == torch.cuda.mem_get_info(1)[0]

    def test_it_is_written_and_read_back(self) -> None:
        host = Host([Accelerator("cuda", memory="10 GiB", memory_pressure="4 GiB")], memory="8 GiB")
        assert 'memory_pressure = "4 GiB"' in host.to_toml()
        assert Host.parse(host.to_toml()) == host


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_says_which_host_it_left(method: str) -> None:
    with simulate_host("2x24gb"), ProcessPoolExecutor(1, mp_context=get_context(method)) as children:
        asked = (partial(torch.zeros, 1, device="cuda"), partial(torch.cuda.set_device, 1), torch.cuda.current_device)
        for ask in asked:
            with pytest.raises((AssertionError, AttributeError)) as failed:
                children.submit(ask).result()
            assert "left the simulated host `2x24gb`" in failed.value.__notes__[0]
        assert not children.submit(torch.cuda.is_available).result()
        assert not any("_left" in vars(process) for process in children._processes.values())
