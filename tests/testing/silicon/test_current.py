"""Which device is current, and where tensors are made by default."""

from __future__ import annotations

import threading
import warnings

import torch
from tests.testing.silicon.checks import two_gpus


@two_gpus
def test_current_device_rule():
    torch.cuda.set_device(1)
    try:
        assert torch.ones(1).to("cuda").device == torch.device("cuda:1")
        assert torch.ones(1, device="cuda:0").to("cuda").device == torch.device("cuda:1"), (
            "cuda:0 tensor .to('cuda') with current 1"
        )
        assert torch.ones(1, device="cuda").device.index == 1
        assert torch.ones(1).cuda().device.index == 1
        assert torch.nn.Linear(1, 1, device="cuda").weight.device.index == 1
    finally:
        torch.cuda.set_device(0)


@two_gpus
def test_nested_device():
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1
        with torch.cuda.device(0):
            assert torch.cuda.current_device() == 0
        assert torch.cuda.current_device() == 1
        with torch.cuda.device_of(torch.ones(1, device="cuda:0")):
            assert torch.cuda.current_device() == 0
    assert torch.cuda.current_device() == 0


@two_gpus
def test_device_per_thread():
    torch.cuda.set_device(1)
    got = []
    t = threading.Thread(target=lambda: got.append(torch.cuda.current_device()))
    t.start()
    t.join()
    torch.cuda.set_device(0)
    assert got == [0], "current device in a new thread"


@two_gpus
def test_torch_device_ctx():
    with torch.device("cuda:1"):
        assert torch.ones(2).device.index == 1
        assert torch.nn.Linear(2, 2).weight.device.index == 1
        assert torch.tensor([1]).device.index == 1


@two_gpus
def test_set_default_device():
    torch.set_default_device("cuda:1")
    try:
        assert torch.ones(1).device.index == 1
        assert torch.get_default_device() == torch.device("cuda:1")
    finally:
        torch.set_default_device(None)


@two_gpus
def test_torch_device_int():
    assert torch.device(1) == torch.device("cuda:1"), "torch.device(1)"


def test_default_tensor_type():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_tensor_type(torch.cuda.FloatTensor)
        try:
            assert torch.ones(1).device.type == "cuda"
        finally:
            torch.set_default_tensor_type(torch.FloatTensor)


def test_accelerator_api():
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.accelerator.device_count() == torch.cuda.device_count()
    torch.accelerator.synchronize()
