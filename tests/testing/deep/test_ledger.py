"""The ledger against a model of it: allocate, move, view, grow, free, fail, in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

torch = pytest.importorskip("torch")

from devpolicy import Accelerator, Host  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

CAPACITY = 1000
DEVICES = ("cuda:0", "cuda:1", "cuda:2")
HOST = Host([Accelerator("cuda", memory=CAPACITY) for _ in DEVICES], memory="1 GiB")
gpus = st.sampled_from(DEVICES)
sizes = st.integers(0, 400)


class Storage:
    """What the model knows of an allocation: its device, its bytes, and the tensors that keep it."""

    def __init__(self, device: str, tensor: Any) -> None:
        self.device, self.tensors = device, [tensor]

    @property
    def bytes(self) -> int:
        return int(self.tensors[0].untyped_storage().nbytes())


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.simulation = simulate_host(HOST, depth=self.depth)
        self.simulation.__enter__()
        self.storages: list[Storage] = []
        self.capacity = dict.fromkeys(DEVICES, CAPACITY)
        self.refused_from = dict.fromkeys(DEVICES, 10_000)
        self.peak = dict.fromkeys(DEVICES, 0)
        self.failures = dict.fromkeys(DEVICES, 0)

    depth = "tensors"

    def used(self, device: str) -> int:
        return sum(storage.bytes for storage in self.storages if storage.device == device)

    def make(self, device: str, size: int, function: Any) -> Any:
        """Run what allocates `size` bytes, and expect what the model expects."""
        used = self.used(device)
        fits = used + size <= self.capacity[device] and size < self.refused_from[device]
        try:
            made = function()
        except torch.OutOfMemoryError as error:
            assert not fits
            assert f"GPU {device[-1]} " in str(error)
            self.failures[device] += 1
            return None
        assert fits
        self.peak[device] = max(self.peak[device], used + size)
        return made

    def pick(self, data: st.DataObject) -> Storage:
        return self.storages[data.draw(st.integers(0, len(self.storages) - 1), label="storage")]

    @rule(device=gpus, size=sizes)
    def allocate(self, device: str, size: int) -> None:
        made = self.make(device, size, lambda: torch.empty(size, dtype=torch.uint8, device=device))
        if made is not None:
            self.storages.append(Storage(device, made))

    @precondition(lambda self: self.storages)
    @rule(device=gpus, data=st.data())
    def move(self, device: str, data: st.DataObject) -> None:
        tensor = self.pick(data).tensors[0]
        made = self.make(device, tensor.nbytes, lambda: tensor.to(device, copy=True))
        if made is not None:
            self.storages.append(Storage(device, made))

    @precondition(lambda self: self.storages)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        storage = self.pick(data)
        storage.tensors.append(storage.tensors[0][: data.draw(st.integers(0, 10))].view(-1, 1).t())

    @precondition(lambda self: self.storages)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        storage = self.pick(data)
        made = self.make(storage.device, storage.tensors[0].nbytes, lambda: storage.tensors[0] | 1)
        if made is not None:
            self.storages.append(Storage(storage.device, made))

    @precondition(lambda self: self.storages)
    @rule(data=st.data(), size=sizes)
    def grow(self, data: st.DataObject, size: int) -> None:
        storage = self.pick(data)
        before = storage.bytes
        if size <= before:
            storage.tensors[0].resize_(size)
            assert storage.bytes == before
        else:
            self.make(storage.device, size, lambda: storage.tensors[0].resize_(size))

    @precondition(lambda self: self.storages)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.storages.remove(self.pick(data))

    @rule(device=gpus, size=st.integers(0, 300))
    def neighbour(self, device: str, size: int) -> None:
        simulated_device(device).take(size)
        self.capacity[device] = max(0, self.capacity[device] - size)

    @rule(device=gpus, size=st.none() | sizes)
    def refuse(self, device: str, size: int | None) -> None:
        simulated_device(device).fail_allocations(size)
        self.refused_from[device] = 10_000 if size is None else size

    @rule(device=gpus)
    def reset(self, device: str) -> None:
        torch.cuda.reset_peak_memory_stats(device)
        self.peak[device] = self.used(device)

    @invariant()
    def agrees(self) -> None:
        for device in DEVICES:
            told, used = simulated_device(device), self.used(device)
            assert (told.allocated, told.peak, told.capacity) == (used, self.peak[device], self.capacity[device])
            assert torch.cuda.mem_get_info(device) == (max(0, self.capacity[device] - used), CAPACITY)

    def teardown(self) -> None:
        try:
            for device in DEVICES:
                stats = torch.cuda.memory_stats(device)
                assert stats["allocated_bytes.all.peak"] == self.peak[device]
                assert stats["num_ooms"] == self.failures[device]
            self.storages.clear()
            assert [torch.cuda.memory_allocated(device) for device in DEVICES] == [0, 0, 0]
        finally:
            self.simulation.__exit__(None, None, None)


class PhantomLedger(Ledger):
    depth = "phantom"


# With the profile `dev`, 200 runs of up to 50 steps: 10,000.
TestLedger = Ledger.TestCase
TestLedger.settings = settings(stateful_step_count=50)
TestPhantomLedger = PhantomLedger.TestCase
