"""Copies between devices and from pinned memory."""

from __future__ import annotations

import torch
from tests.testing.silicon.checks import last, raises, two_gpus


def test_pin():
    x = torch.ones(4).pin_memory()
    assert x.is_pinned()
    y = x.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    assert y.device.type == "cuda"
    assert torch.empty(3, pin_memory=True).is_pinned()


def test_pin_cuda_raises():
    raises(
        RuntimeError,
        lambda: torch.ones(1, device="cuda").pin_memory(),
        "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned",
    )
    raises(RuntimeError, lambda: torch.zeros(1, device="cuda", pin_memory=True), "Only dense CPU tensors can be pinned")
    raises(RuntimeError, lambda: torch.rand(1, device="cuda", pin_memory=True), "Only dense CPU tensors can be pinned")


def test_unpinned():
    assert not torch.ones(3).is_pinned()


def test_pinned_views():
    assert torch.ones(4).pin_memory()[1:].is_pinned()


def test_dataloader_pin():
    d = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(8.0)), batch_size=2, pin_memory=True)
    for (b,) in d:
        assert b.is_pinned()


def test_dataloader_pin_workers():
    d = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(8.0)), batch_size=2, pin_memory=True, num_workers=2
    )
    n = 0
    for (b,) in d:
        n += 1
        assert b.is_pinned()
        b.to(last(), non_blocking=True)
    assert n == 4


def test_dataloader_generator_cuda_default():
    torch.set_default_device("cuda")
    try:
        raises(
            RuntimeError,
            lambda: list(torch.utils.data.DataLoader(list(range(4)), shuffle=True)),
            "Expected a 'cuda' device type for generator but found 'cpu'",
        )
    finally:
        torch.set_default_device(None)


@two_gpus
def test_copy_between():
    a = torch.arange(4.0, device="cuda:0")
    b = torch.empty(4, device="cuda:1")
    b.copy_(a)
    assert b.tolist() == [0, 1, 2, 3]


def test_to_same_is_self():
    a = torch.ones(1, device="cuda:0")
    assert a.to("cuda:0") is a and a.to("cuda") is a and (a.cuda() is a)


@two_gpus
def test_comm_ops():
    from torch.cuda import comm

    o = comm.broadcast(torch.ones(4, device="cuda:0"), [0, 1])
    assert o[1].device.index == 1
    s = comm.scatter(torch.arange(4.0), [0, 1])
    assert s[1].tolist() == [2, 3]
    assert comm.gather(s, destination=0).tolist() == [0, 1, 2, 3]
    comm.reduce_add([torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")])


@two_gpus
def test_data_parallel():
    m = torch.nn.DataParallel(torch.nn.Linear(3, 2).cuda())
    y = m(torch.ones(4, 3, device="cuda"))
    y.sum().backward()
    assert m.module.weight.grad.device.index == 0
