"""What the allocator tells, and what happens when a device is full."""

from __future__ import annotations

import contextlib
import gc
import warnings

import pytest
import torch
from tests.testing.silicon.checks import last, raises


def test_memory_stats_keys():
    torch.zeros(3, device="cuda")
    k = set(torch.cuda.memory_stats())
    need = {
        "allocated_bytes.all.current",
        "allocated_bytes.all.peak",
        "allocated_bytes.all.allocated",
        "allocated_bytes.all.freed",
        "reserved_bytes.all.current",
        "reserved_bytes.all.peak",
        "active_bytes.all.current",
        "active_bytes.all.peak",
        "inactive_split_bytes.all.current",
        "inactive_split_bytes.all.peak",
        "num_alloc_retries",
        "num_ooms",
        "num_device_alloc",
        "num_device_free",
        "num_sync_all_streams",
        "allocation.all.current",
        "allocation.all.allocated",
        "segment.all.current",
        "active.all.current",
        "inactive_split.all.current",
        "requested_bytes.all.current",
        "oversize_allocations.current",
        "oversize_segments.current",
        "max_split_size",
        "allocated_bytes.small_pool.current",
        "allocated_bytes.large_pool.current",
        "allocation.large_pool.current",
        "segment.large_pool.peak",
    }
    assert need <= k, f"missing: {sorted(need - k)}"


def test_rounding_512():
    gc.collect()
    base = torch.cuda.memory_allocated()
    torch.zeros(1, device="cuda")
    assert torch.cuda.memory_allocated() - base == 512, "memory_allocated of one float"


def test_reserved_ge_2mb():
    torch.zeros(1, device="cuda")
    assert torch.cuda.memory_reserved() >= 2 << 20, f"memory_reserved {torch.cuda.memory_reserved()}"


def test_cache_kept_after_free():
    x = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    del x
    r = torch.cuda.memory_reserved()
    assert r >= 64 << 20, f"reserved after free {r}"
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < 64 << 20


def test_mem_get_info_after_free_before_empty_cache():
    torch.cuda.empty_cache()
    f0 = torch.cuda.mem_get_info()[0]
    x = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    del x
    f1 = torch.cuda.mem_get_info()[0]
    assert f0 - f1 >= 64 << 20, f"free went back at once ({f0 - f1}); the cache stores it on CUDA until empty_cache()"


def test_reset_peak():
    x = torch.zeros(8 << 20, dtype=torch.uint8, device="cuda")
    m = torch.cuda.max_memory_allocated()
    del x
    assert m >= 8 << 20
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == torch.cuda.memory_allocated()


def test_reset_max_memory_allocated():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.reset_max_memory_allocated()
        torch.cuda.reset_accumulated_memory_stats()


def test_num_alloc_grows():
    a = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.zeros(5, device="cuda")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == a + 1


def test_num_ooms():
    a = torch.cuda.memory_stats()["num_ooms"]
    with contextlib.suppress(torch.OutOfMemoryError):
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_stats()["num_ooms"] == a + 1, "num_ooms"


def test_memory_summary():
    s = torch.cuda.memory_summary()
    assert "PyTorch CUDA memory summary" in s


def test_memory_snapshot():
    s = torch.cuda.memory_snapshot()
    assert isinstance(s, list)


def test_record_memory_history():
    torch.cuda.memory._record_memory_history()
    torch.zeros(3, device="cuda")
    s = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    assert "segments" in s


def test_per_process_fraction():
    torch.cuda.set_per_process_memory_fraction(0.01, 0)
    try:
        n = int(torch.cuda.get_device_properties(0).total_memory * 0.02)
        raises(torch.OutOfMemoryError, lambda: torch.empty(n, dtype=torch.uint8, device="cuda:0"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_get_per_process_fraction():
    assert torch.cuda.get_per_process_memory_fraction(0) == 1.0


def test_oom_message():
    e = raises(
        torch.OutOfMemoryError,
        lambda: torch.empty(1 << 40, dtype=torch.uint8, device=last()),
        f"CUDA out of memory. Tried to allocate 1024.00 GiB. GPU {last().index} has a total capacity of",
    )
    for p in (
        "of which",
        "is free",
        "this process has",
        "memory in use",
        "allocated by PyTorch",
        "reserved by PyTorch but unallocated",
        "expandable_segments",
    ):
        assert p.lower() in str(e).lower(), f"message lacks {p!r}: {e}"


def test_oom_class():
    assert torch.cuda.OutOfMemoryError is torch.OutOfMemoryError and issubclass(torch.OutOfMemoryError, RuntimeError)


def test_find_executable():
    from accelerate.utils import find_executable_batch_size

    tried = []

    @find_executable_batch_size(starting_batch_size=1 << 13)
    def f(batch_size):
        tried.append(batch_size)
        torch.empty(batch_size << 20, dtype=torch.uint8, device="cuda")
        return batch_size

    found = f()
    assert len(tried) > 1 or found == 1 << 13, tried


def test_caching_allocator_alloc():
    p = torch.cuda.caching_allocator_alloc(1024)
    torch.cuda.caching_allocator_delete(p)


def test_mempool():
    p = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(p):
        torch.zeros(4, device="cuda")


def test_list_gpu_processes():
    pytest.importorskip("pynvml")
    s = torch.cuda.list_gpu_processes(0)
    assert s.startswith("GPU:0"), s


def test_memory_usage_util():
    pytest.importorskip("pynvml")
    torch.cuda.memory_usage()
    torch.cuda.utilization()
    torch.cuda.temperature()
    torch.cuda.power_draw()
    torch.cuda.clock_rate()


def test_allocator_backend():
    assert torch.cuda.get_allocator_backend() == "native"


def test_host_memory_stats():
    torch.cuda.host_memory_stats()


def test_device_memory_used():
    pytest.importorskip("pynvml")
    assert torch.cuda.device_memory_used(0) >= 0
