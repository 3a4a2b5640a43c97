"""Optimizers, autocast and scaled gradients."""

from __future__ import annotations

import torch
from tests.testing.silicon.checks import raises


def test_fused_adam():
    m = torch.nn.Linear(2, 2).cuda()
    o = torch.optim.AdamW(m.parameters(), fused=True)
    m(torch.ones(1, 2, device="cuda")).sum().backward()
    o.step()
    assert o.state[m.weight]["step"].device.type == "cuda"


def test_capturable_adam():
    m = torch.nn.Linear(2, 2).cuda()
    o = torch.optim.Adam(m.parameters(), capturable=True)
    m(torch.ones(1, 2, device="cuda")).sum().backward()
    o.step()


def test_foreach_default():
    from torch.optim.optimizer import _default_to_fused_or_foreach

    p = [torch.nn.Parameter(torch.ones(2, device="cuda"))]
    assert _default_to_fused_or_foreach(p, False) == (False, True), "foreach is the default on CUDA"


def test_autocast_dtypes():
    a = torch.randn(4, 4, device="cuda")
    with torch.autocast("cuda"):
        assert (a @ a).dtype == torch.float16
        assert torch.nn.functional.softmax(a @ a, -1).dtype == torch.float32
        assert (a + a).dtype == torch.float32
        assert torch.nn.functional.layer_norm(a @ a, [4]).dtype == torch.float32
        assert (a @ a).sum().dtype == torch.float32, "sum"
        assert torch.nn.functional.linear(a, a).dtype == torch.float16
        assert (a @ a).exp().dtype == torch.float32
        assert torch.nn.functional.mse_loss(a @ a, a @ a).dtype == torch.float32
        assert torch.nn.functional.gelu(a @ a).dtype == torch.float16
        assert torch.nn.functional.conv1d(a[None], torch.randn(4, 4, 1, device="cuda")).dtype == torch.float16
        assert torch.einsum("ij,jk->ik", a, a).dtype == torch.float16
        assert (
            torch.nn.functional.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None]).dtype
            == torch.float16
        )
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with torch.amp.autocast("cuda", enabled=False):
        assert (a @ a).dtype == torch.float32


def test_autocast_bce_raises():
    with torch.autocast("cuda"):
        raises(
            RuntimeError,
            lambda: torch.nn.functional.binary_cross_entropy(
                torch.rand(2, device="cuda"), torch.rand(2, device="cuda")
            ),
            "unsafe to autocast",
        )


def test_autocast_query():
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")


def test_autocast_cpu_tensors_untouched():
    with torch.autocast("cuda"):
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.float32


def test_grad_scaler():
    m = torch.nn.Linear(4, 4).cuda()
    o = torch.optim.SGD(m.parameters(), 0.1)
    s = torch.amp.GradScaler("cuda", init_scale=1024.0)  # in float16 the default overflows here
    assert s.is_enabled()
    with torch.autocast("cuda"):
        loss = m(torch.ones(2, 4, device="cuda")).float().sum()
    s.scale(loss).backward()
    s.unscale_(o)
    s.step(o)
    s.update()
    assert s.get_scale() == 1024.0


def test_grad_scaler_inf():
    m = torch.nn.Linear(4, 4).cuda()
    o = torch.optim.SGD(m.parameters(), 0.1)
    s = torch.amp.GradScaler("cuda")
    w = m.weight.clone()
    s.scale((m(torch.ones(2, 4, device="cuda")) * float("inf")).sum()).backward()
    s.step(o)
    s.update()
    assert s.get_scale() == 32768.0
    assert torch.equal(w, m.weight)
