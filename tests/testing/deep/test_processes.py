"""Processes: how one ends, what its children see, and in which order it imports."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devpolicy.errors import SimulationDepthError
from devpolicy.testing import simulate_host, simulated_device

torch = pytest.importorskip("torch")

MIB = 1 << 20


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


BACKWARD = """
import torch
from devpolicy.testing import simulate_host
with simulate_host("2x24gb", depth="tensors"):
    x = torch.ones(3, device="cuda:0", requires_grad=True)
    (x * 2).sum().backward()
"""


def test_a_process_that_ends_after_a_backward_does_not_abort():
    assert [run(BACKWARD).returncode for _ in range(4)] == [0, 0, 0, 0]  # without a remedy 7 of 10 do


def test_autograd_has_a_thread_for_each_device_and_no_more():
    counted = run(f"""{BACKWARD}
import os, time

def named():
    tasks = os.listdir("/proc/self/task")
    return sum(open(f"/proc/self/task/{{task}}/comm").read().startswith("pt_autograd") for task in tasks)

for _ in range(100):  # a thread names itself once it runs
    if named() >= 2:
        break
    time.sleep(0.1)
print(named())
""")
    assert counted.stdout.strip() == "2", counted.stderr


def test_a_backward_on_the_cpu_keeps_no_device_from_its_own():
    code = "import torch\nx = torch.ones(3, requires_grad=True)\n(x * 2).sum().backward()\n" + BACKWARD
    done = run(code + "    print(x.grad.tolist())")
    assert done.stdout.strip() == "[2.0, 2.0, 2.0]", done.stderr


@pytest.mark.parametrize("first", ["torch", "transformers", "accelerate"])
def test_a_host_entered_before_a_library_answers_the_same(first: str):
    pytest.importorskip(first)
    done = run(
        f"""
from devpolicy.testing import simulate_host, simulated_device
with simulate_host("2x24gb", depth="tensors"):
    import {first}
    import torch
    a = torch.zeros(12, device="cuda")
    assert torch.cuda.memory_allocated() == torch.cuda.max_memory_allocated() == 48
    assert torch.cuda.memory_stats()["allocated_bytes.all.current"] == simulated_device("cuda:0").allocated == 48
    assert "48" in torch.cuda.memory_summary()
assert not torch.cuda.is_available()
"""
    )
    assert done.returncode == 0, done.stderr


# Children.


def test_children_are_on_the_host_and_it_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = dict(os.environ)
    ask = "import torch; print(torch.cuda.get_device_name(1), torch.ones(2, device='cuda:1').sum().item())"
    through = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}])"
    with simulate_host("2x24gb", depth="tensors", children=True):
        assert run(ask).stdout.split("\n")[:2] == ["the other one", "NVIDIA GeForce RTX 4090 2.0"]
        assert "NVIDIA GeForce RTX 4090 2.0" in run(through).stdout
        assert "torch" not in run("import sys; print(*sys.modules)").stdout.split()
        folder = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])
    assert dict(os.environ) == before
    assert not folder.exists()
    assert run("import torch; print(torch.cuda.device_count())").stdout.split()[-1] == "0"


def test_a_child_enters_a_host_of_its_own_before_it_has_torch():
    code = """
from devpolicy.testing import simulate_host
with simulate_host("8x80gb", depth="tensors", children=True):
    import torch
    assert (torch.cuda.device_count(), torch.ones(2, device="cuda:7").sum().item()) == (8, 2)
print(torch.cuda.device_count(), torch.ones(2, device="cuda:1").device)
"""
    with simulate_host("2x24gb", depth="tensors", children=True):
        done = run(code)
    assert done.stdout == "2 cuda:1\n", done.stderr


def hold(queue, leave):
    values = torch.ones(MIB, device="cuda:1")
    queue.put((torch.cuda.memory_allocated(1), torch.cuda.mem_get_info(1)[0], values.sum().item()))
    leave.wait(60)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes_share_the_memory_of_devices(method: str):
    context = multiprocessing.get_context(method)
    with simulate_host("2x24gb", depth="tensors", children=True):
        own = torch.ones(MIB, device="cuda:1")
        capacity = simulated_device("cuda:1").capacity
        queue, leave = context.Queue(), context.Event()
        child = context.Process(target=hold, args=(queue, leave))
        child.start()
        allocated, free, total = queue.get(timeout=120)
        assert total == MIB
        assert free == capacity - 2 * own.nbytes == torch.cuda.mem_get_info(1)[0]
        assert torch.cuda.memory_allocated(1) == own.nbytes
        assert allocated == own.nbytes * (2 if method == "fork" else 1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(free + 1, dtype=torch.uint8, device="cuda:1")
        leave.set()
        child.join(60)
        assert torch.cuda.mem_get_info(1)[0] == capacity - own.nbytes
        assert simulated_device("cuda:1").operations_of_all > simulated_device("cuda:1").operations


def test_a_fork_is_none_that_lost_its_devices():
    with simulate_host("2x24gb", depth="tensors", children=True):
        code = "import torch; assert torch._C._cuda_isInBadFork() is torch.cuda._is_in_bad_fork() is False"
        done = run(code)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_batch_on_a_device_is_refused_in_a_worker(method: str):
    with simulate_host("2x24gb", depth="tensors", children=True):
        loader = torch.utils.data.DataLoader(OnDevice(), num_workers=1, multiprocessing_context=method, timeout=60)
        with pytest.raises(SimulationDepthError, match=r"`cuda:0` cannot be handed to another process"):
            next(iter(loader))


class OnDevice:
    """Batches that are made on a device, in the process of a worker."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"made": torch.ones(2, device="cuda:0") * index}


def test_what_a_killed_process_held_is_given_back():
    with simulate_host("2x24gb", depth="tensors", children=True):
        capacity = simulated_device("cuda:0").capacity
        code = "import torch, os; x = torch.ones(1000, device='cuda'); os.kill(os.getpid(), 9)"
        assert run(code).returncode == -9
        assert torch.cuda.mem_get_info(0)[0] == capacity


def test_a_python_without_devpolicy_says_so_and_goes_on():
    with simulate_host("2x24gb", children=True):
        # Without site-packages: `site` is what would run the hook, so it is run by hand.
        hook = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0]) / "sitecustomize.py"
        done = subprocess.run([sys.executable, "-I", "-S", str(hook)], capture_output=True, text=True, check=True)
    assert "sees the real machine, since it cannot import devpolicy" in done.stderr


class TestFakeTensors:
    """torch's fake tensors have a device on a machine without one, and so on every host."""

    CODE = """
import sys
from contextlib import nullcontext
from devpolicy.testing import simulate_host
depth, host = sys.argv[1:]
with simulate_host(host, depth=depth) if depth != "none" else nullcontext():
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        a = torch.randn(3, 4, device="cuda")
        b = torch.tensor([1.0, 2.0], device="cuda:0")
        y = a @ torch.ones(4, 2, device="cuda")
        print([x.device for x in (a, b, y, torch.arange(3, device="cuda:0"))], tuple(y.shape))
        try:
            a + torch.zeros(3, 4)
        except Exception as error:
            print(type(error).__name__)
if depth != "none":
    with simulate_host("2x24gb", depth="tensors"):
        torch.cuda.set_device(1)
        assert torch.ones(2, device="cuda").device.index == 1
"""

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> str:
        """What the machine itself says, asked once."""
        return run(cls.CODE, "none", "-").stdout

    @pytest.mark.parametrize(
        ("depth", "host"),
        [("probes", "2x24gb"), ("tensors", "2x24gb"), ("phantom", "2x24gb"), ("tensors", "macbook-m3-36gb")],
    )
    def test_they_are_as_on_a_bare_machine(self, depth: str, host: str, bare: str):
        here = run(self.CODE, depth, host)
        assert here.returncode == 0, here.stderr
        assert here.stdout == bare


def test_a_backward_on_ever_larger_hosts_comes_back() -> None:
    # In a process of its own, which has no thread of autograd yet; it was chance whether torch waited for ever.
    code = """
import torch
from devpolicy.testing import simulate_host
for name in ("1x24gb", "2x24gb", "4x80gb", "8x80gb"):
    with simulate_host(name, depth="tensors"):
        (torch.ones(2, device="cuda:0", requires_grad=True) * 2).sum().backward()
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
