"""What torch tells of CUDA and its libraries on a simulated device, and what is refused by name."""

from __future__ import annotations

import os
import uuid

import pytest

torch = pytest.importorskip("torch")

from devpolicy import Accelerator, Host  # noqa: E402
from devpolicy.errors import SimulationDepthError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402


@pytest.fixture
def rig():
    with simulate_host("2x24gb", depth="tensors") as host:
        yield host


# -- properties


@pytest.mark.parametrize("depth", ["probes", "tensors"])
def test_properties_follow_from_name_and_capability(depth):
    with simulate_host("8x80gb", depth=depth):
        told = torch.cuda.get_device_properties(3)
        assert (told.multi_processor_count, told.warp_size, told.L2_cache_size) == (132, 32, 50 << 20)
        assert (told.max_threads_per_multi_processor, told.max_threads_per_block) == (2048, 1024)
        assert (told.regs_per_multiprocessor, told.shared_memory_per_block_optin) == (65536, 227 << 10)
        assert (told.pci_bus_id, told.is_multi_gpu_board, told.gcnArchName) == (4, 0, told.name)
        assert repr(told).startswith(
            "_CudaDeviceProperties(name='NVIDIA H100 80GB HBM3', major=9, minor=0, total_memory="
        )


def test_properties_of_an_unknown_device_are_refused():
    with simulate_host(Host([Accelerator("cuda", memory="8 GiB", name="Prototype")], memory="8 GiB")):
        told = torch.cuda.get_device_properties(0)
        assert told.warp_size == 32
        with pytest.raises(SimulationDepthError, match=r"get_device_properties\(…\).multi_processor_count"):
            _ = told.multi_processor_count


def test_a_uuid_is_torchs_and_nvmls_and_the_same_each_time():
    pynvml = pytest.importorskip("pynvml")
    seen = []
    for _ in range(2):
        with simulate_host("2x24gb"):
            pynvml.nvmlInit()
            for index in range(2):
                of_torch = torch.cuda.get_device_properties(index).uuid
                of_nvml = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
                assert of_nvml == f"GPU-{of_torch}"
                assert bytes(of_torch.bytes) == uuid.UUID(str(of_torch)).bytes
                assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(of_nvml)) == index
                seen.append(of_nvml)
    assert seen[:2] == seen[2:]
    assert len(set(seen)) == 2


def test_what_torch_was_compiled_for_is_told(rig):
    assert "sm_90" in torch.cuda.get_arch_list()
    assert "compute=compute_90,code=sm_90" in torch.cuda.get_gencode_flags()
    shown = torch.__config__.show()
    assert "CUDA Runtime 13.0" in shown
    assert "CuDNN 9.15.1" in shown
    assert torch.backends.cudnn.is_available()
    assert torch.backends.cudnn.version() == 91501
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        torch.nn.Conv1d(2, 2, 1).cuda()(torch.ones(1, 2, 3, device="cuda"))


@pytest.mark.filterwarnings("error")
def test_a_recurrent_layer_does_not_miss_cudnn(rig):
    torch.nn.LSTM(3, 3).cuda()(torch.rand(2, 1, 3, device="cuda"))[0].sum().backward()


def test_plans_of_transforms_have_a_cache(rig):
    cache = torch.backends.cuda.cufft_plan_cache
    assert cache[0].max_size > 0
    cache[1].max_size = 7
    assert (cache[0].max_size != 7, cache[1].max_size, cache[0].size) == (True, 7, 0)
    cache[0].clear()


def test_a_tensor_of_xpu_is_printed():
    """torch asks whether the device has float64."""
    with simulate_host("arc-a770", depth="tensors"):
        assert repr(torch.ones(2, device="xpu")) == "tensor([1., 1.], device='xpu:0')"
        assert not torch.xpu.get_device_properties(0).has_fp64
        assert torch.ones(2, device="xpu").to_sparse()._nnz() == 2


# -- NVML


def test_nvml_answers_what_monitors_ask(rig):
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 13000
    assert pynvml.nvmlSystemGetDriverVersion() == "580.95.05"
    assert pynvml.nvmlDeviceGetPciInfo(handle).bus == 2
    assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 0
    assert pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) > 0
    assert pynvml.nvmlDeviceGetPowerUsage(handle) > 0
    assert torch.cuda.utilization(1) == torch.cuda.memory_usage(1) == 0
    assert torch.cuda.temperature(1) > 0
    assert torch.cuda.clock_rate(1) > 0
    affinity = pynvml.nvmlDeviceGetCpuAffinity(handle, 2)
    assert [cpu for cpu in range(128) if affinity[cpu // 64] >> cpu % 64 & 1] == sorted(os.sched_getaffinity(0))
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    held = torch.ones(256, device="cuda:1")
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), held.nbytes)
    assert f"process {os.getpid():>10d} uses" in torch.cuda.list_gpu_processes(1)
    with pytest.raises(SimulationDepthError, match="nvmlDeviceGetFanSpeed"):
        pynvml.nvmlDeviceGetFanSpeed(handle)


# -- the runtime, NVTX, profilers, pools


def test_the_runtimes_functions(rig):
    runtime = torch.cuda.cudart()
    assert runtime.cudaMemGetInfo(0) == torch.cuda.mem_get_info(0)
    assert runtime.cudaGetErrorString(runtime.cudaError.success) == "no error"
    torch.cuda.check_error(0)
    with pytest.raises(torch.cuda.CudaError):
        torch.cuda.check_error(1)
    with torch.cuda.profiler.profile():
        torch.ones(1, device="cuda")
    with pytest.raises(SimulationDepthError, match=r"torch.cuda.cudart\(\).cudaMalloc"):
        runtime.cudaMalloc(8)


def test_ranges_of_nvtx_are_taken(rig):
    nvtx = torch.cuda.nvtx
    assert (nvtx.range_push("one"), nvtx.range_push("two"), nvtx.range_pop(), nvtx.range_pop()) == (0, 1, 1, 0)
    nvtx.mark("here")
    nvtx.range_end(nvtx.range_start("three"))
    with nvtx.range("four"), torch.autograd.profiler.emit_nvtx():
        assert (torch.ones(1, device="cuda") * 2).item() == 2


def test_nvtx_is_missing_where_it_was_missing():
    with simulate_host("2x24gb", depth="tensors"):
        torch.cuda.nvtx.mark("here")
    with pytest.raises(RuntimeError, match="NVTX functions not installed"):
        torch.cuda.nvtx.mark("here")


def test_profilers_know_of_cuda(rig):
    assert torch.profiler.ProfilerActivity.CUDA in torch.profiler.supported_activities()


def test_pools_are_taken(rig):
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        torch.zeros(4, device="cuda")
    assert torch.cuda.MemPool().id != pool.id
    assert pool.snapshot() == []
    with pytest.raises(SimulationDepthError, match="graph_pool_handle"):
        torch.cuda.graph_pool_handle()


def test_a_stream_has_the_priority_that_it_was_made_with(rig):
    assert torch.cuda.Stream.priority_range() == (0, -3)
    stream = torch.cuda.Stream(priority=-1)
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream().priority == stream.priority == -1
    assert torch.cuda.Stream().priority == torch.cuda.current_stream().priority == 0
    assert torch.cuda.Stream(priority=-9).priority == -3


# -- typed constructors, and storages


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_typed_constructors_make_tensors_of_a_gpu(rig):
    assert torch.cuda.FloatTensor(2, 3).shape == (2, 3)
    made = torch.cuda.LongTensor([[1, 2]])
    assert (made.dtype, made.device.type, made.tolist()) == (torch.int64, "cuda", [[1, 2]])
    assert torch.cuda.HalfTensor().shape == (0,)
    assert torch.cuda.FloatTensor(torch.Size([4])).shape == (4,)
    assert isinstance(made, torch.cuda.LongTensor)
    assert not isinstance(made.cpu(), torch.cuda.LongTensor)
    assert torch.ones(1).type(torch.cuda.HalfTensor).dtype == torch.float16
    assert torch.ones(1).type("torch.cuda.FloatTensor").is_cuda
    with torch.cuda.device(1):
        assert torch.cuda.FloatTensor(1).device.index == 1
    sparse = torch.cuda.sparse.FloatTensor(torch.zeros(1, 1, device="cuda").long(), torch.ones(1, device="cuda"), (3,))
    assert (sparse.is_sparse, sparse.to_dense().tolist()) == (True, [1, 0, 0])


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type:UserWarning")
def test_a_default_type_of_a_gpu(rig):
    torch.set_default_tensor_type(torch.cuda.DoubleTensor)
    assert torch.ones(1).type() == "torch.cuda.DoubleTensor"
    torch.set_default_tensor_type(torch.FloatTensor)
    assert torch.ones(1).type() == "torch.FloatTensor"
    torch.set_default_tensor_type("torch.cuda.HalfTensor")
    assert torch.ones(1).type() == "torch.cuda.HalfTensor"


@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type:UserWarning")
def test_a_default_type_ends_with_the_simulation():
    with simulate_host("2x24gb", depth="tensors"):
        torch.set_default_tensor_type(torch.cuda.DoubleTensor)
    assert torch.ones(1).type() == "torch.FloatTensor"
    with pytest.raises(TypeError, match="not compiled with CUDA"):
        torch.cuda.FloatTensor(1)


def test_a_storage_is_freed_and_comes_back(rig):
    tensor = torch.arange(4.0, device="cuda:1")
    storage = tensor.untyped_storage()
    assert storage.resize_(0) is storage
    assert (storage.nbytes(), storage.data_ptr(), simulated_device("cuda:1").allocated) == (0, 0, 0)
    storage.resize_(16)
    assert simulated_device("cuda:1").allocated == 16
    tensor.copy_(torch.arange(4.0))
    storage.resize_(32)
    assert tensor.tolist() == [0, 1, 2, 3]
    simulated_device("cuda:1").fail_allocations(at_least=64)
    with pytest.raises(torch.OutOfMemoryError):
        storage.resize_(64)
    assert storage.nbytes() == 32
    assert torch.ones(3).untyped_storage().resize_(0).nbytes() == 0


def test_storages_are_made_on_a_device(rig):
    made = torch.UntypedStorage(8, device="cuda:1")
    assert (made.device, made.nbytes()) == (torch.device("cuda:1"), 8)
    assert torch.UntypedStorage([1, 2], device="cuda").tolist() == [1, 2]
    assert torch.UntypedStorage(8).device.type == "cpu"


def test_classes_of_torch_are_what_they_were_after_it():
    before = [vars(owner).get(name) for owner in (torch.UntypedStorage,) for name in ("__new__", "resize_")]
    with simulate_host("2x24gb", depth="tensors"):
        torch.UntypedStorage(8, device="cuda")
    assert [vars(torch.UntypedStorage).get(name) for name in ("__new__", "resize_")] == before == [None, None]
    assert torch.UntypedStorage(3).resize_(0).nbytes() == 0
    assert torch.cuda.FloatTensor.__module__ == "torch.cuda"


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.cuda.memory_snapshot(),
        lambda: torch.cuda.memory._record_memory_history(),
        lambda: torch.cuda.caching_allocator_alloc(1024),
        lambda: torch.cuda.host_memory_stats(),
        lambda: torch.cuda.ExternalStream(0),
        lambda: torch.cuda.CUDAGraph(),
        lambda: torch.cuda.current_blas_handle(),
        lambda: torch.cuda.MemPool(allocator=object()),
    ],
)
def test_what_stays_out_is_refused_by_name(rig, ask):
    with pytest.raises(SimulationDepthError, match="cannot be answered on the simulated host `2x24gb`"):
        ask()


def test_what_is_given_back_at_the_end_was_never_kept(rig):
    """Lightning empties both caches when a trainer is done; a profiler switches off what it did not switch on."""
    held = torch.ones(4, device="cuda")
    before = simulated_device("cuda:0").allocated
    torch.cuda.empty_cache()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.memory._record_memory_history(enabled=None)
    assert simulated_device("cuda:0").allocated == before == held.nbytes
    with pytest.raises(SimulationDepthError, match="_record_memory_history"):
        torch.cuda.memory._record_memory_history()


def test_an_event_for_another_process_is_refused_by_name(rig):
    with pytest.raises(SimulationDepthError, match=r"torch.cuda.Event\(interprocess=True\)"):
        torch.cuda.Event(interprocess=True)
    with pytest.raises(SimulationDepthError, match="from_ipc_handle"):
        torch.cuda.Event.from_ipc_handle(torch.device("cuda:0"), b"")
