"""What CUDA refuses, and its words."""

from __future__ import annotations

import torch
from tests.testing.silicon.checks import raises, raises_alone, two_gpus


@two_gpus
def test_cross_device_add():
    raises(
        RuntimeError,
        lambda: torch.ones(2, device="cuda:0") + torch.ones(2, device="cuda:1"),
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1!",
    )


def test_cross_device_matmul():
    raises(
        RuntimeError,
        lambda: torch.ones(2, 2, device="cuda:0") @ torch.ones(2, 2),
        "Expected all tensors to be on the same device",
    )


def test_zero_dim_cpu_ok():
    assert (torch.ones(2, device="cuda") * torch.tensor(2.0)).device.type == "cuda"


@two_gpus
def test_zero_dim_other_gpu():
    raises(RuntimeError, lambda: torch.ones(2, device="cuda:1") * torch.tensor(2.0, device="cuda:0"), "same device")


def test_index_cpu_on_cuda():
    assert torch.arange(5, device="cuda")[torch.tensor([1, 2])].device.type == "cuda"


def test_index_cuda_on_cpu():
    raises(
        RuntimeError,
        lambda: torch.arange(5)[torch.tensor([1, 2], device="cuda")],
        "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
    )


def test_embedding_cpu_idx():
    raises(RuntimeError, lambda: torch.nn.Embedding(4, 4).cuda()(torch.tensor([1])), "same device")


def test_embedding_out_of_range():
    raises_alone(
        torch.AcceleratorError,
        "torch.nn.Embedding(4, 4).cuda()(torch.tensor([9], device='cuda')).sum().item()",
        "device-side assert",
    )


def test_index_out_of_range():
    raises_alone(
        torch.AcceleratorError,
        "torch.arange(3, device='cuda')[torch.tensor([7], device='cuda')].cpu()",
        "device-side assert",
    )


def test_numpy_refused():
    raises(
        TypeError,
        lambda: torch.ones(2, device="cuda").numpy(),
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.",
    )


def test_np_asarray_refused():
    import numpy as np

    raises(TypeError, lambda: np.asarray(torch.ones(2, device="cuda")), "can't convert cuda:0")


def test_from_numpy_roundtrip():
    import numpy as np

    assert torch.from_numpy(np.ones(3)).cuda().cpu().tolist() == [1, 1, 1]


def test_bad_ordinal():
    raises((RuntimeError, torch.AcceleratorError), lambda: torch.ones(1, device="cuda:99"), "invalid device ordinal")


def test_int_matmul_missing():
    raises(
        RuntimeError,
        lambda: torch.ones(2, 2, device="cuda", dtype=torch.int64) @ torch.ones(2, 2, device="cuda", dtype=torch.int64),
        "addmm_cuda\" not implemented for 'Long'",
    )


def test_view_device_of_module():
    assert next(torch.nn.Linear(2, 2).to("cuda").parameters()).device == torch.device("cuda:0")


@two_gpus
def test_cuda_assign_int():
    assert torch.ones(1).to(1).device == torch.device("cuda:1")


def test_cuda_method():
    assert torch.ones(1).cuda(0).device == torch.device("cuda:0")
    assert torch.ones(1).cuda().is_cuda


@two_gpus
def test_get_device():
    assert torch.ones(1, device="cuda:1").get_device() == 1
    assert torch.ones(1).get_device() == -1


def test_legacy_types():
    assert torch.ones(1, device="cuda").type() == "torch.cuda.FloatTensor"
    torch.cuda.FloatTensor(3)
    assert torch.ones(1).type("torch.cuda.HalfTensor").dtype == torch.float16


def test_isinstance_cuda():
    assert isinstance(torch.ones(1, device="cuda"), torch.cuda.FloatTensor)


@two_gpus
def test_repr():
    assert repr(torch.ones(1, device="cuda:1")) == "tensor([1.], device='cuda:1')"
