"""Compiled and traced programs, graphs, profilers and NVML."""

from __future__ import annotations

import pytest
import torch

# It imports setuptools, which refuses to where another test has taken its `distutils` away: before all tests.
from torch.utils.benchmark import Timer


def test_compile():
    f = torch.compile(lambda x: (x * 2).relu())
    assert f(torch.ones(2, device="cuda")).tolist() == [2, 2]


def test_compile_eager():
    f = torch.compile(lambda x: (x * 2).relu(), backend="eager", fullgraph=True)
    assert f(torch.ones(2, device="cuda")).tolist() == [2, 2]


def test_compile_aot():
    f = torch.compile(lambda x: (x * 2).relu(), backend="aot_eager")
    assert f(torch.ones(2, device="cuda", requires_grad=True)).sum().backward() is None


def test_compile_ro():
    f = torch.compile(torch.nn.Linear(2, 2).cuda(), mode="reduce-overhead")
    f(torch.ones(1, 2, device="cuda"))


def test_cuda_graph():
    g = torch.cuda.CUDAGraph()
    x = torch.ones(2, device="cuda")
    with torch.cuda.graph(g):
        x * 2
    g.replay()


def test_make_graphed():
    torch.cuda.make_graphed_callables(torch.nn.Linear(2, 2).cuda(), (torch.ones(1, 2, device="cuda"),))


def test_capturing():
    assert not torch.cuda.is_current_stream_capturing()


def test_jit_script():
    f = torch.jit.script(torch.nn.Linear(2, 2).cuda())
    f(torch.ones(1, 2, device="cuda"))


def test_jit_trace():
    torch.jit.trace(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).cuda(), torch.ones(1, 2, device="cuda")
    )(torch.ones(1, 2, device="cuda"))


def test_jit_trace_conv():
    torch.jit.trace(torch.nn.Conv2d(3, 4, 3).cuda(), torch.ones(1, 3, 8, 8, device="cuda"))


def test_export():
    torch.export.export(torch.nn.Linear(2, 2).cuda(), (torch.ones(1, 2, device="cuda"),)).module()(
        torch.ones(1, 2, device="cuda")
    )


def test_profiler_cuda():
    from torch.profiler import ProfilerActivity, profile, supported_activities

    assert ProfilerActivity.CUDA in supported_activities(), "CUDA not in supported_activities()"
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
        torch.ones(3, device="cuda") * 2
    ev = p.key_averages()
    assert any(e.device_time_total > 0 for e in ev), "no event has device time"


def test_profiler_runs():
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], profile_memory=True) as p:
        torch.ones(3, device="cuda") * 2
    p.key_averages().table(sort_by="cuda_time_total", row_limit=3)


def test_nvtx():
    torch.cuda.nvtx.range_push("a")
    torch.cuda.nvtx.range_pop()
    with torch.cuda.nvtx.range("x"):
        pass
    torch.cuda.nvtx.mark("m")


def test_cuda_profiler():
    torch.cuda.profiler.start()
    torch.cuda.profiler.stop()


def test_benchmark():
    Timer("x*2", globals={"x": torch.ones(3, device="cuda")}).timeit(10)


def test_sleep():
    torch.cuda._sleep(1000)


def test_pynvml():
    n = pytest.importorskip("pynvml")

    n.nvmlInit()
    assert n.nvmlDeviceGetCount() >= torch.cuda.device_count()
    h = n.nvmlDeviceGetHandleByIndex(0)
    n.nvmlDeviceGetMemoryInfo(h)
    n.nvmlDeviceGetName(h)
    n.nvmlDeviceGetUUID(h)
    n.nvmlDeviceGetUtilizationRates(h)
    n.nvmlDeviceGetCudaComputeCapability(h)
    n.nvmlSystemGetDriverVersion()
    n.nvmlSystemGetCudaDriverVersion()
    n.nvmlDeviceGetPciInfo(h)
    n.nvmlDeviceGetTemperature(h, 0)
    n.nvmlDeviceGetComputeRunningProcesses(h)


def test_collect_env():
    from torch.utils import collect_env as c

    s = c.get_pretty_env_info()
    assert "Is CUDA available: True" in s, [line for line in s.splitlines() if "CUDA" in line]


def test_torch_config_show():
    assert "CUDA" in torch.__config__.show()
