"""Properties of numbers on simulated devices: states of generators bring them back, and phantoms keep small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from devpolicy.testing import simulate_host  # noqa: E402

DRAWS: dict[str, Callable[[Any, int], Any]] = {
    "rand": lambda generator, count: torch.rand(count, device=generator.device, generator=generator),
    "randn": lambda generator, count: torch.randn(count, device=generator.device, generator=generator),
    "randint": lambda generator, count: torch.randint(9, (count,), device=generator.device, generator=generator),
    "randperm": lambda generator, count: torch.randperm(count, device=generator.device, generator=generator),
    "bernoulli": lambda generator, count: torch.empty(count, device=generator.device).bernoulli_(generator=generator),
}
drawn = st.lists(st.tuples(st.sampled_from(sorted(DRAWS)), st.integers(0, 2000)), max_size=5)


def draw(generator: Any, draws: list[tuple[str, int]]) -> list[Any]:
    return [DRAWS[name](generator, count).cpu() for name, count in draws]


@given(seed=st.integers(0, 2**63 - 1), before=drawn, after=drawn)
def test_a_device_draws_the_cpus_numbers_and_keeps_its_state(seed, before, after):
    here = torch.Generator().manual_seed(seed)
    expected = draw(here, before)
    with simulate_host("1x24gb", depth="tensors"):
        there = torch.Generator("cuda").manual_seed(seed)
        assert all(map(torch.equal, draw(there, before), expected))
        state = there.get_state()
        assert state.numel() == 16
        first = draw(there, after)
        assert all(map(torch.equal, first, draw(here, after)))
        if any(name == "randn" and count % 2 for name, count in before[:-1]):
            return  # 16 bytes do not hold half of a pair of normal numbers that other draws followed
        another = torch.Generator("cuda")
        another.set_state(state)
        assert all(map(torch.equal, draw(another, after), first))


STEPS: dict[str, Callable[[Any, int], Any]] = {
    "add": lambda tensor, number: tensor + number,
    "times": lambda tensor, number: tensor * number,
    "flip": lambda tensor, number: tensor.flip(0),
    "sum": lambda tensor, number: tensor.sum(-1, keepdim=True),
    "cumsum": lambda tensor, number: tensor.cumsum(0),
    "compare": lambda tensor, number: (tensor > number).long(),
    "cat": lambda tensor, number: torch.cat([tensor, tensor]),
    "where": lambda tensor, number: tensor.where(tensor > number, tensor.new_zeros(())),
    "nonzero": lambda tensor, number: tensor.nonzero().flatten(),
    "chosen": lambda tensor, number: tensor[tensor != number],
    "put": lambda tensor, number: tensor.clone().masked_fill_(tensor == number, 1),
    "in place": lambda tensor, number: tensor.clone().add_(number),
    "sorted": lambda tensor, number: tensor.sort().values,
}
steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(-3, 3)), max_size=6)


@given(numbers=st.lists(st.integers(-5, 5), max_size=8), chosen=steps)
def test_small_phantoms_compute_what_the_cpu_computes(numbers, chosen):
    here = torch.tensor(numbers, dtype=torch.long)
    with simulate_host("1x24gb", depth="phantom"):
        there = here.cuda()
        for name, number in chosen:
            here, there = STEPS[name](here, number), STEPS[name](there, number)
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), here)
