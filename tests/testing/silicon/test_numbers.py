"""Dtypes, layers and gradients."""

from __future__ import annotations

import threading
import warnings

import torch
from tests.testing.silicon.checks import last, raises, two_gpus


def test_fp8_cast():
    torch.ones(2, device="cuda").to(torch.float8_e4m3fn).float()


def test_scaled_mm():
    a = torch.ones(16, 16, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones((), device="cuda")
    if torch.cuda.get_device_capability() < (8, 9):
        raises(RuntimeError, lambda: torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one))
    else:
        torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one)


def test_half_matmul():
    assert (
        torch.ones(4, 4, device="cuda", dtype=torch.float16) @ torch.ones(4, 4, device="cuda", dtype=torch.float16)
    ).dtype == torch.float16


def test_sparse_ok():
    torch.eye(3, device="cuda").to_sparse()


def test_nonzero_item():
    assert torch.tensor([0, 1, 2], device="cuda").nonzero().tolist() == [[1], [2]]


def test_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        raises(
            RuntimeError,
            lambda: torch.bincount(torch.tensor([1, 1], device="cuda"), weights=torch.ones(2, device="cuda")),
            "deterministic",
        )
    finally:
        torch.use_deterministic_algorithms(False)


def test_sync_debug_mode():
    torch.cuda.set_sync_debug_mode("error")
    try:
        raises(RuntimeError, lambda: torch.ones(1, device="cuda").item(), "called a synchronizing CUDA operation")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_data_ptr():
    assert torch.ones(1, device="cuda").data_ptr() != 0


def test_untyped_storage():
    s = torch.ones(3, device=last()).untyped_storage()
    assert s.device == last()
    assert s.nbytes() == 12
    s.resize_(0)


def test_share_memory_noop():
    t = torch.ones(1, device="cuda")
    assert t.is_shared()
    t.share_memory_()


def test_cuda_array_interface():
    assert torch.ones(1, device="cuda").__cuda_array_interface__["shape"] == (1,)


def test_dlpack():
    torch.utils.dlpack.from_dlpack(torch.ones(2, device="cuda"))


def test_channels_last_conv():
    torch.nn.Conv2d(3, 4, 3).cuda().to(memory_format=torch.channels_last)(torch.ones(1, 3, 8, 8, device="cuda"))


def test_conv_transpose_etc():
    torch.nn.ConvTranspose2d(3, 4, 3).cuda()(torch.ones(1, 3, 8, 8, device="cuda"))
    torch.nn.BatchNorm2d(3).cuda()(torch.rand(2, 3, 8, 8, device="cuda"))
    torch.nn.SyncBatchNorm(3)


def test_lstm():
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        torch.nn.LSTM(3, 3).cuda()(torch.rand(2, 1, 3, device="cuda"))[0].sum().backward()
    assert not w, [str(each.message)[:120] for each in w]


def test_ctc_loss():
    torch.nn.functional.ctc_loss(
        torch.randn(50, 2, 5, device="cuda").log_softmax(2),
        torch.randint(1, 5, (2, 10), device="cuda"),
        torch.tensor([50, 50]),
        torch.tensor([10, 10]),
    )


def test_linalg():
    a = torch.randn(3, 3, device="cuda")
    torch.linalg.svd(a)
    torch.linalg.qr(a)
    torch.linalg.eigh(a @ a.T)
    torch.linalg.inv(a)
    torch.fft.rfft(a)


def test_linalg_eig():
    torch.linalg.eig(torch.randn(3, 3, device="cuda"))


def test_checkpoint():
    from torch.utils.checkpoint import checkpoint as checkpoint

    m = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)).to(last())

    def gradient(run):
        given = torch.ones(4, 3, device=last(), requires_grad=True)
        torch.manual_seed(1)
        run(given).sum().backward()
        return given.grad

    # What is computed again drops what was dropped before.
    torch.testing.assert_close(gradient(lambda x: checkpoint(m, x, use_reentrant=False)), gradient(m))
    torch.testing.assert_close(gradient(lambda x: checkpoint(m, x, use_reentrant=True)), gradient(m))


def test_save_on_cpu():
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        (torch.ones(3, device="cuda", requires_grad=True) ** 2).sum().backward()


def test_functorch():
    m = torch.nn.Linear(3, 1).cuda()
    torch.func.vmap(lambda x: m(x))(torch.ones(2, 3, device="cuda"))
    torch.func.grad(lambda x: (x**2).sum())(torch.ones(2, device="cuda"))


def test_custom_function():
    class F(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    F.apply(torch.ones(2, device=last(), requires_grad=True)).sum().backward()


def test_custom_op():
    @torch.library.custom_op("devpolicy_silicon::twice", mutates_args=())
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert f(torch.ones(1, device="cuda")).device.type == "cuda"

    @f.register_kernel("cuda")
    def _(x):
        return x * 3

    assert f(torch.ones(1, device="cuda")).item() == 3.0, "the CUDA kernel of a custom op is the one called"


def test_parametrize():
    torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2).cuda())(torch.ones(1, 2, device="cuda"))
    torch.nn.utils.clip_grad_norm_(torch.nn.Linear(2, 2).cuda().parameters(), 1.0)


@two_gpus
def test_clip_grad_two_devices():
    a, b = (torch.nn.Linear(2, 2).cuda(0), torch.nn.Linear(2, 2).cuda(1))
    a(torch.ones(1, 2, device="cuda:0")).sum().backward()
    b(torch.ones(1, 2, device="cuda:1")).sum().backward()
    torch.nn.utils.clip_grad_norm_([*a.parameters(), *b.parameters()], 1.0)


def test_backward_thread_device():
    seen = []
    x = torch.ones(2, device=last(), requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: seen.append((g.device.index, torch.cuda.current_device())))
    y.sum().backward()
    assert seen == [(last().index, last().index)], "hook of a gradient runs with its device current"


def test_hook_thread():
    seen = []
    x = torch.ones(2, device="cuda:0", requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: seen.append(threading.current_thread() is threading.main_thread()))
    y.sum().backward()
    assert seen == [False], "hooks of CUDA grads run in the device's thread"
