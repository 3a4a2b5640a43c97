"""Generators, their states and seeds."""

from __future__ import annotations

import torch
from tests.testing.silicon.checks import raises, two_gpus


def test_gen_cuda():
    g = torch.Generator(device="cuda")
    g.manual_seed(3)
    a = torch.rand(3, device="cuda", generator=g)
    g.manual_seed(3)
    assert torch.equal(a, torch.rand(3, device="cuda", generator=g))
    assert g.device == torch.device("cuda:0")


def test_gen_wrong_device():
    raises(
        RuntimeError,
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        "Expected a 'cuda' device type for generator but found 'cpu'",
    )


def test_gen_cpu_for_cuda_gen():
    raises(
        RuntimeError,
        lambda: torch.rand(3, generator=torch.Generator(device="cuda")),
        "Expected a 'cpu' device type for generator but found 'cuda'",
    )


def test_gen_state_size():
    assert torch.cuda.get_rng_state().numel() == 16, "philox state is 16 bytes"
    assert torch.cuda.get_rng_state().device.type == "cpu"


@two_gpus
def test_rng_state_roundtrip():
    s = torch.cuda.get_rng_state(1)
    a = torch.rand(3, device="cuda:1")
    torch.cuda.set_rng_state(s, 1)
    assert torch.equal(a, torch.rand(3, device="cuda:1"))
    torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())


@two_gpus
def test_seeds_per_device():
    torch.manual_seed(0)
    a, b = (torch.rand(3, device="cuda:0").cpu(), torch.rand(3, device="cuda:1").cpu())
    assert torch.equal(a, b), "same seed gives the same stream on each GPU"
    torch.cuda.manual_seed(5)
    c = torch.rand(3, device="cuda:0").cpu()
    torch.cuda.manual_seed_all(5)
    assert torch.equal(c, torch.rand(3, device="cuda:1").cpu())
    assert torch.cuda.initial_seed() == 5


@two_gpus
def test_fork_rng():
    with torch.random.fork_rng(devices=[0, 1]):
        torch.rand(1, device="cuda")


def test_gen_offset():
    g = torch.Generator(device="cuda")
    g.manual_seed(1)
    assert g.get_offset() == 0
    g.set_offset(4)
    assert g.get_offset() == 4


def test_gen_clone():
    torch.Generator(device="cuda").clone_state()
    torch.Generator(device="cuda").graphsafe_get_state()


def test_cpu_rng_untouched():
    torch.manual_seed(1)
    a = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(5, device="cuda")
    assert torch.equal(a, torch.rand(1))
