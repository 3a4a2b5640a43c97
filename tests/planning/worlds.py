"""Small worlds with wishes: models of a few blocks, budgets of their size, and every combination planned.

The dtype stands for the scheme: what a scheme does to bytes is tested where schemes are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from hypothesis import strategies as st
from tests.worlds import block_trees

from devpolicy import Accelerator, Host, ModelTree, ResolvedPolicy
from devpolicy._core.language.policy import Amount, ContextRange, DeviceSelector, LoadingTable, MemoryRule, Workload
from devpolicy._core.language.wishes import WISHES, Wish
from devpolicy._core.planning.search import Candidate, Choice, Search
from devpolicy._core.planning.wishes import Models, Wishes

CPU, CUDA = DeviceSelector("cpu"), DeviceSelector("cuda")
DTYPES = ("float32", "bfloat16")
Level = tuple[object, ...]


class DtypeWishes(Wishes):
    """Wishes whose schemes are dtypes."""

    def fixed(self, choice: Choice) -> ResolvedPolicy:
        fixed = super().fixed(choice)
        dtype = self.policy.loading.quantization[choice.candidate.quantization]
        return replace(fixed, loading=LoadingTable(), workload=replace(fixed.workload, dtype=dtype))


@dataclass(frozen=True)
class World:
    policy: ResolvedPolicy
    trees: tuple[ModelTree, ...]
    host: Host

    def wishes(self) -> DtypeWishes:
        names = tuple(f"model {at}" for at in range(len(self.trees)))
        return DtypeWishes(self.policy, Models(names, lambda number: self.trees[number]), self.host)

    def grown(self, more: int) -> World:
        """Return the world with more memory on each accelerator."""
        memory = tuple(
            replace(rule, cap=Amount(size=rule.cap.size + more)) if rule.term == CUDA and rule.cap else rule
            for rule in self.policy.memory
        )
        return replace(self, policy=replace(self.policy, memory=memory))


@st.composite
def wishing_worlds(draw: st.DrawFn, *, terms: tuple[DeviceSelector, ...] | None = None) -> World:
    trees = tuple(
        replace(draw(block_trees()), context=draw(st.sampled_from((None, 768, 2048))), ties=())
        for _ in range(draw(st.integers(1, 3)))
    )
    least = draw(st.sampled_from((256, 300, 512)))
    most = draw(st.sampled_from((None, 600, 1500, 2048)))
    largest = max(tree.bytes_as() for tree in trees)
    cached = max(sum(cache.values for cache in tree.kv_cache) for tree in trees) * 4
    budgets = st.integers(10, 150).map(lambda share: Amount(size=(largest + cached * 1000) * share // 100))
    count = draw(st.integers(1, 2))
    prefer = terms or draw(st.sampled_from(((CUDA,), (CUDA, CPU), (CPU, CUDA))))
    relax = tuple(draw(st.permutations(WISHES)))
    policy = ResolvedPolicy(
        prefer=prefer,
        overflow=draw(st.sampled_from(((), (CPU,), (CPU, DeviceSelector("disk"))))),
        split=draw(st.sampled_from(("when-needed", "never", "balanced"))),
        memory=(
            MemoryRule(CUDA, "total", draw(budgets), Amount(size=0), activations=Amount(size=0)),
            MemoryRule(CPU, "total", draw(budgets), Amount(size=0), activations=Amount(size=0)),
        ),
        disk_path="offload",
        workload=Workload(context=ContextRange(least, most) if draw(st.booleans()) else least),
        loading=LoadingTable(quantization=DTYPES[: draw(st.integers(1, 2))]),
        relax=relax if draw(st.booleans()) else (),
    )
    host = Host([Accelerator("cuda", memory="64 GiB") for _ in range(count)], memory="64 GiB", disk="1 TiB")
    return World(policy, trees, host)


def level(wishes: DtypeWishes, choice: Choice) -> Level:
    """Return how far each wish has given way, the one that is to give way last first."""
    away = wishes.away(choice)
    one = choice.candidate
    levels: dict[Wish, object] = {
        "model": one.model,
        "quantization": one.quantization,
        "prefer": one.prefer,
        "context": -(choice.context or 0),
        "overflow": away if away and any(away) else (0,) * len(wishes.places),
    }
    return tuple(levels[wish] for wish in reversed(wishes.relax))


def searched(wishes: DtypeWishes) -> Choice | None:
    """Return the choice of the search, and nothing of its words."""
    return Search(wishes.options, wishes.away, wishes.guess).run()


def every_choice(wishes: DtypeWishes) -> Iterator[Choice]:
    options = wishes.options
    for one, overflow in product(options.candidates, (False, True) if options.overflow else (False,)):
        contexts = options.contexts.get(one.model)
        for context in [None] if contexts is None else [contexts[at] for at in range(len(contexts))]:
            yield Choice(one, context, overflow)


def one_way(wishes: DtypeWishes) -> bool:
    """Whether fewer tokens never need more than more tokens: what a search by halving relies on."""
    last: dict[tuple[Candidate, bool], tuple[int, ...] | None] = {}
    for choice in every_choice(wishes):
        key, away = (choice.candidate, choice.overflow), wishes.away(choice)
        if key in last and away is not None:
            before = last[key]
            if before is None or before > away:
                return False
        last[key] = away
    return True
