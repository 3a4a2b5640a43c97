"""One suite for a simulated device and for hardware: what CUDA does, held against whichever is here.

Where torch has a GPU the checks run on it. Elsewhere they run inside `simulate_host`, on two devices; `DIFFERS` lists
what a simulated device does otherwise, and each of these has to differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from devpolicy import Accelerator, Host
from devpolicy._core.simulator.loading import require_built
from devpolicy.errors import SimulationDepthError
from devpolicy.testing import simulate_host

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]

_GPU = Accelerator("cuda", memory="1536 MiB", free="1500 MiB", name="NVIDIA A100-SXM4-80GB", capability=(8, 0))
SIMULATED = Host(
    [_GPU, _GPU], memory="64 GiB", name="silicon", versions={"torch": "2.13.0+cu130", "driver": "580.95.05"}
)
"""Small, since some checks fill a GPU."""

ALLOCATOR = "what is counted is what tensors hold: nothing is rounded, cached or split"
REFUSED = "refused by name: a consumer would take an address of the CPU's for one of a GPU's"
DIFFERS = {
    "test_rounding_512": ALLOCATOR,
    "test_reserved_ge_2mb": ALLOCATOR,
    "test_cache_kept_after_free": ALLOCATOR,
    "test_mem_get_info_after_free_before_empty_cache": ALLOCATOR,
    "test_memory_snapshot": ALLOCATOR,
    "test_record_memory_history": ALLOCATOR,
    "test_caching_allocator_alloc": ALLOCATOR,
    "test_host_memory_stats": ALLOCATOR,
    "test_external_stream": REFUSED,
    "test_cuda_array_interface": REFUSED,
    "test_dlpack": REFUSED,
    "test_cuda_graph": REFUSED,
    "test_make_graphed": REFUSED,
    "test_jit_trace_conv": "`torch.jit.trace` checks the CPU's operator, which is another",
    "test_profiler_cuda": "no kernel runs on a device, so none has a time there",
    "test_fork_then_cuda_raises": "a forked process goes on with a copy of the simulated devices",
}
"""What a simulated device does otherwise, with the reason."""


def _is_hardware() -> bool:
    import torch

    return torch.version.cuda is not None and torch.cuda.is_available()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "two_gpus: the machine needs a second GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name != "silicon":
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        reason = DIFFERS.get(item.name)
        if reason is not None and not _is_hardware():
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(autouse=True)
def machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine with GPUs, or a simulated one."""
    if _is_hardware():
        import torch

        if request.node.get_closest_marker("two_gpus") and torch.cuda.device_count() < 2:
            pytest.skip("this machine has one GPU")
        yield
        return
    try:
        require_built("tensors")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))
    with simulate_host(SIMULATED, depth="tensors"):
        yield
