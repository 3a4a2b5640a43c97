"""The search over wishes, held against every combination."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.planning.worlds import CUDA, World, every_choice, level, one_way, searched, wishing_worlds

from devpolicy import Unsatisfiable
from devpolicy._core.planning.search import STEP, Contexts, largest


@given(wishing_worlds())
def test_brute_force_agrees(world: World) -> None:
    """No combination has given way less; and few plans are made for that."""
    try:
        wishes, every = world.wishes(), world.wishes()
        choice = searched(wishes)
    except Unsatisfiable as refused:
        assume(refused.code != "DP307")
        raise
    assume(one_way(every))
    fitting = [one for one in every_choice(every) if every.away(one) is not None]
    best = min((level(every, one) for one in fitting), default=None)
    assert (None if choice is None else level(every, choice)) == best
    pairs = len(world.trees) * len(world.policy.loading.quantization)
    # Where another wish gives way after the terms, each of them is looked at.
    terms = 1 if not world.policy.relax or world.policy.relax[-1] == "prefer" else len(world.policy.prefer)
    present = len(world.policy.prefer) if terms == 1 else terms
    assert len(wishes.made) <= 2 * pairs * max(terms, present) + 10


@given(wishing_worlds(terms=(CUDA,)), st.integers(1, 4000))
def test_more_memory_takes_nothing_back(world: World, more: int) -> None:
    """For one component, one term, and no rule that names another device."""
    try:
        before, after = (one.wishes() for one in (world, world.grown(more)))
        choices = searched(before), searched(after)
    except Unsatisfiable as refused:
        assume(refused.code != "DP307")
        raise
    if choices[0] is not None:
        assert choices[1] is not None
        assert level(after, choices[1]) <= level(before, choices[0])


@given(st.integers(1, 3000), st.integers(0, 3000))
def test_contexts_are_both_ends_and_multiples_between(least: int, more: int) -> None:
    contexts = Contexts(least, least + more)
    expected = sorted({least, least + more, *(at for at in range(least, least + more) if at % STEP == 0)})
    assert [contexts[at] for at in range(len(contexts))] == expected
    for number, tokens in enumerate(expected):
        assert contexts.number(tokens) == number


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 60), st.none() | st.integers(-5, 70))
def test_the_largest_that_fits(low: int, more: int, most: int, guess: int | None) -> None:
    high = low + more
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= most

    assert largest(low, high, fits, guess) == max(low, min(high, most))
    if guess == most and low < most < high:
        assert tried == [most, most + 1]
