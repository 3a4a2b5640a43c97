"""Properties over an infinite host space: Hypothesis draws hosts, and models if wanted.

Owns the search. What it finds is shrunk by Hypothesis and then by `shrink`; what it does not find may be there all the
same. Hypothesis is imported here when something is drawn, and never before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.errors import MissingLibraryError
from devpolicy._core.language.properties import Property
from devpolicy._core.review.coverage import deciders
from devpolicy._core.review.evaluate import evaluate
from devpolicy._core.review.host_space import FINEST, HostSpace, accelerator, machine
from devpolicy._core.review.outcome import has_model
from devpolicy._core.review.shrink import Counterexample, smallest
from devpolicy._core.review.verify import Verdict

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.model.tree import ModelTree


class Example(NamedTuple):
    """One drawn example: a host, for `monotone` one with more memory, and a model."""

    tree: ModelTree | None
    host: Host
    larger: Host | None

    def __repr__(self) -> str:
        # Hypothesis prints examples, and a model's text is long.
        return "an example"


def search(
    policy: Policy,
    models: Sequence[ModelTree | None],
    space: HostSpace,
    wanted: Sequence[Property],
    *,
    trees: bool = False,
    examples: int = 200,
    seed: int = 0,
) -> list[Verdict]:
    """Draw up to `examples` hosts for each property and model, and return the verdicts.

    With `trees` models are drawn too. The same seed draws the same hosts. Raises `MissingLibraryError` without
    Hypothesis.
    """
    try:
        from hypothesis import strategies as st

        from devpolicy.testing.strategies import model_trees
    except ImportError:
        raise MissingLibraryError(
            "hosts of an infinite space are drawn by Hypothesis, which is not installed here: `pip install "
            "'devpolicy[testing]'`, or give `--memory` as a list instead of a range"
        ) from None
    kinds: list[tuple[str | None, st.SearchStrategy[Any]]] = [
        (tree.name if tree else None, st.just(tree)) for tree in models
    ]
    if trees:
        kinds.append(("drawn", model_trees().map(_enlarged)))
    verdicts: list[Verdict] = []
    for one in wanted:
        if one.name == "every_rule_reachable":
            drawn = _examples(space, st.one_of([kind for _, kind in kinds]), grow=False)
            able = deciders(policy, as_asked=True, overflow=trees or has_model(policy, models))
            verdicts.append(_reached(policy, able, drawn, examples * len(kinds), seed))
            continue
        for name, kind in kinds:
            drawn = _examples(space, kind, grow=one.name == "monotone")
            verdicts.append(_verdict(policy, one, name, drawn, examples, seed))
    return verdicts


def _verdict(
    policy: Policy, one: Property, name: str | None, drawn: st.SearchStrategy[Example], examples: int, seed: int
) -> Verdict:
    planned: list[Host] = []

    def breaks(example: Example) -> bool:
        planned.append(example.host)
        return bool(Counterexample(policy, example.tree, one, example.host, example.larger).why())

    found = _find(drawn, breaks, examples, seed)
    if found is None:
        return Verdict(one, name, "not refuted", len(planned))
    broken = smallest(Counterexample(policy, found.tree, one, found.host, found.larger))
    tree = broken.tree if name == "drawn" else None
    return Verdict(one, name, "broken", len(planned), broken.why(), broken.host, broken.larger, tree)


def _reached(
    policy: Policy, able: Sequence[str], drawn: st.SearchStrategy[Example], examples: int, seed: int
) -> Verdict:
    wanted = Property("every_rule_reachable")
    left = set(able)
    planned: list[Host] = []

    def all_decided(example: Example) -> bool:
        planned.append(example.host)
        left.difference_update(evaluate(policy, example.tree, example.host, []).fired)
        return not left

    if not left or _find(drawn, all_decided, examples, seed) is not None:
        return Verdict(wanted, None, "proved", len(planned))
    named = ", ".join(f"`{name}`" for name in able if name in left)
    return Verdict(wanted, None, "broken", len(planned), f"{named}: decided nothing on any host that was drawn")


def _find(
    drawn: st.SearchStrategy[Example], condition: Callable[[Example], bool], examples: int, seed: int
) -> Example | None:
    """Return the simplest example that meets a condition, `None` if none was found."""
    from hypothesis import HealthCheck, find, settings
    from hypothesis.errors import NoSuchExample

    # Planning is slow, so drawing is: no test is at fault.
    calm = [
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    asked = settings(max_examples=examples, database=None, deadline=None, suppress_health_check=calm)
    try:
        return find(drawn, condition, settings=asked, random=Random(seed))
    except NoSuchExample:
        return None


def _examples(space: HostSpace, trees: st.SearchStrategy[Any], *, grow: bool) -> st.SearchStrategy[Example]:
    from hypothesis import strategies as st

    hosts = _hosts(space)
    if not grow:
        return st.builds(lambda tree, host: Example(tree, host, None), trees, hosts)
    more = st.integers(1, max(1, (space.memory[-1] - space.memory[0]) // FINEST))
    return st.builds(_grown, trees, hosts, st.integers(-1, space.most - 1), more)


def _hosts(space: HostSpace) -> st.SearchStrategy[Host]:
    from hypothesis import strategies as st

    steps = st.integers(-(-space.memory[0] // FINEST), space.memory[-1] // FINEST)
    sizes = steps.map(lambda step: step * FINEST) if space.ranged else st.sampled_from(space.memory)
    # All of it free is the simplest.
    free = st.sampled_from(space.free[::-1])

    def racks(kinds: Sequence[str], most: int) -> st.SearchStrategy[list[tuple[str, int, int]]]:
        return st.lists(st.tuples(st.sampled_from(kinds), sizes, free), min_size=1, max_size=most)

    many = [kind for kind in space.types if kind != "mps"]
    groups: list[st.SearchStrategy[Any]] = [st.just([])]
    if space.most:
        groups += [racks(["mps"], 1)] if "mps" in space.types else []
        groups += [racks([kind], space.most) for kind in many]
        groups += [racks(many, space.most)] if space.mixed and len(many) > 1 else []

    def build(rack: list[tuple[str, int, int]], ram: int) -> Host:
        return machine([accelerator(kind, memory, percent, ram) for kind, memory, percent in rack], ram, space.disk)

    return st.builds(build, st.one_of(groups), st.sampled_from(space.ram))


def _grown(tree: ModelTree | None, host: Host, at: int, steps: int) -> Example:
    """Return an example with a second host, which has more memory on one device, or more RAM."""
    more = steps * FINEST
    devices = list(host.accelerators)
    if 0 <= at < len(devices) and not devices[at].unified:
        one = devices[at]
        devices[at] = replace(one, memory=one.memory + more, free=one.free + more)
        return Example(tree, host, replace(host, accelerators=tuple(devices)))
    return Example(tree, host, replace(host, memory=host.memory + more, free=host.free + more))


def _enlarged(tree: ModelTree) -> ModelTree:
    """Return a drawn model with tensors of the size of a device's memory: the strategies draw a few elements."""
    modules = [
        replace(module, tensors=tuple(replace(one, shape=(*one.shape, 1 << 24)) for one in module.tensors))
        for module in tree.modules
    ]
    return replace(tree, modules=tuple(modules))
