"""The quick refusals of offloading and packing, against a search without them: what fits is never called hopeless."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, combinations
from unittest import mock

import pytest
from tests.placement.growth import listing
from tests.placement.optimum import SPLITS, drawn

from devpolicy import ModelTree, Unsatisfiable
from devpolicy._core.language.policy import Amount, ResolvedPolicy, Rule
from devpolicy._core.model.tree import Module, Tensor
from devpolicy._core.placement import overflow
from devpolicy._core.placement.candidates import Candidates, candidates_of
from devpolicy._core.placement.packing import Packing
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.placement.scatter import fit_in_any_order
from devpolicy._core.placement.search import Problem

MB = 1_000_000


def _varied(tree: ModelTree, random_: random.Random) -> ModelTree:
    """Return the model with buffers, and perhaps a tensor of the root and a tie."""
    root, listed, *layers = tree.modules
    buffers = [Tensor("table", (random_.choice((1, 5, 20)) * MB, 1), "int8", buffer=True) for _ in layers]
    given = [random_.random() < 0.3 for _ in layers]
    layers = [
        replace(one, tensors=(*one.tensors, table)) if has else one
        for one, table, has in zip(layers, buffers, given, strict=True)
    ]
    if random_.random() < 0.3:
        root = Module("", "Model", (Tensor("scale", (random_.choice((1, 5 * MB)), 1), "int8"),))
    ties = ()
    if random_.random() < 0.3:
        layers[-1] = replace(layers[-1], tensors=layers[0].tensors)
        ties = ((f"{layers[0].path}.weight", f"{layers[-1].path}.weight"),)
    return replace(tree, modules=(root, listed, *layers), ties=ties)


def _problems(random_: random.Random) -> Iterator[Problem]:
    """Yield what is to be placed of a small model, if it does not fit as it is."""
    world = drawn(random_, random_.choice((4, 5)), random_.choice((2, 3)))
    rules: tuple[Rule, ...] = listing(random_) if random_.random() < 0.5 else ()
    rules = tuple(rule for rule in rules if all((one.id or 0) < len(world.budgets) for one in rule.prefer))
    policy: ResolvedPolicy = world.policy(random_.choice(SPLITS), rules)
    reserve = Amount(random_.choice((0, 3, 15)) * MB)
    memory = (replace(one, activations=reserve) if one.term.type == "cuda" else one for one in policy.memory)
    found: list[Problem] = []

    def noted(problem: Problem) -> Candidates:
        found.append(problem)
        return candidates_of(problem)

    tree = _varied(world.tree(), random_)
    with mock.patch.object(overflow, "candidates_of", noted), suppress(Unsatisfiable):
        make_plan(replace(policy, memory=tuple(memory)), tree, world.host(), advise=False)
    yield from found[:1]


def _hopeless_ones_that_fit(problem: Problem) -> Iterator[object]:
    tried = overflow._Tried(problem, candidates_of(problem))
    order = tried.candidates.order
    for gone in chain.from_iterable(combinations(order, count) for count in range(1, len(order) + 1)):
        left = tried.without(gone, problem)
        if left is not None and tried.hopeless(gone) and fit_in_any_order(left) is not None:
            yield gone


@pytest.mark.parametrize("seed", range(4))
def test_what_fits_is_never_called_hopeless(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Packing] = []
    real = Packing.hopeless

    def hopeless(packing: Packing) -> bool:
        if real(packing) and all(packing.sizes):
            called.append(packing)
            assert packing.search() is None
            return False
        return not all(packing.sizes)

    monkeypatch.setattr(Packing, "hopeless", hopeless)
    problems = [one for at in range(12) for one in _problems(random.Random(f"{seed} {at} hopeless"))]
    assert len(problems) > 3
    for problem in problems:
        assert not [*_hopeless_ones_that_fit(problem)], problem
    assert called
