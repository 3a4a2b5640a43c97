"""All patterns together match what each matches alone."""

from __future__ import annotations

import dataclasses

from hypothesis import event, example, given
from hypothesis import strategies as st
from tests import oracle

from devpolicy._core.language.comparisons import SizeTest
from devpolicy._core.language.matcher import Intervals, Matcher
from devpolicy._core.language.patterns import Pattern, PatternError
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy, Rule
from devpolicy._core.placement.lint import lint
from devpolicy._core.placement.matching import match, numbers
from devpolicy._core.strategies.policies import patterns
from devpolicy.testing.strategies import model_trees

NAMES = st.sampled_from(["a", "b", "layers", "0", "1", "7", "12", "007", "x1", "q_proj", "é", "a b", "9" * 30, "²"])
PATHS = st.lists(NAMES, max_size=5).map(".".join)
PIECES = st.sampled_from(
    [
        "**",
        "*",
        "a",
        "0",
        "1*",
        "*1",
        "*_*",
        "{0..7}",
        "{1..}",
        "x{0..3}",
        "{0..9}*",
        "q_{1..}p",
        "*{2..12}",
        "é*",
        "l*s",
    ]
)


def readable(text: str) -> bool:
    try:
        Pattern.parse(text)
    except PatternError:
        return False
    return True


WRITTEN = st.lists(PIECES | NAMES, min_size=1, max_size=5).map(".".join).filter(readable).map(Pattern)


def together(given_: list[Pattern], path: str) -> list[int]:
    matcher = Matcher(given_)
    state = matcher.start
    for segment in path.split(".") if path else []:
        state = matcher.step(state, segment)
    return list(matcher.matched(state))


@given(st.lists(WRITTEN | patterns(), max_size=8), st.lists(PATHS, min_size=1, max_size=6))
@example([Pattern("**.**"), Pattern("a.**.**.b"), Pattern("**")], ["", "a.b", "a", "a.x.b"])
@example([Pattern("{0..3}"), Pattern("{2..}"), Pattern("{3..3}")], ["3", "4", "03", "9" * 25])
def test_patterns_together_match_what_each_matches_alone(given_, paths):
    for path in paths:
        alone = [number for number, pattern in enumerate(given_) if pattern.matches(path)]
        assert together(given_, path) == alone


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8), st.lists(st.integers(0, 30), min_size=1)
)
def test_intervals_hold_the_numbers_between_their_ends(intervals, asked):
    held = Intervals((least, greatest, 1 << at) for at, (least, greatest) in enumerate(intervals))
    for number in asked:
        wanted = [at for at, (least, greatest) in enumerate(intervals) if least <= number <= greatest]
        assert list(numbers(held.at(number))) == wanted


@st.composite
def ruled_trees(draw):
    tree = draw(model_trees(hostile=draw(st.booleans())))
    paths = [module.path for module in tree.modules if module.path] or ["model"]
    classes = sorted({module.class_name for module in tree.modules})
    tests = st.builds(SizeTest, st.sampled_from([">=", "<=", ">", "<", "=="]), st.integers(0, 300))
    rules = st.builds(
        Rule,
        st.just("r"),
        match=st.lists(patterns(modules=paths), max_size=2).map(tuple),
        module_class=st.lists(st.sampled_from([*classes, "*", "*a*", "?*"]), max_size=1).map(tuple),
        size=st.none() | tests,
        on_exhausted=st.sampled_from(["error", "error", "next"]),
    )
    return tree, draw(st.lists(rules.filter(lambda rule: rule.match or rule.module_class or rule.size), max_size=5))


@given(ruled_trees())
def test_rules_together_match_what_each_matches_alone(world):
    tree, rules = world
    sizes = [oracle.subtree(tree, module.path) for module in tree.modules]
    natural = [oracle.is_unit(tree, module.path) for module in tree.modules]
    found = match(tree, rules, sizes, natural)
    for position, module in enumerate(tree.modules):
        alone = [number for number, rule in enumerate(rules) if oracle.matches(rule, tree, module.path)]
        assert list(numbers(found.own[position])) == alone
    assert found.counts == {
        number: count for number in range(len(rules)) if (count := sum(mask >> number & 1 for mask in found.own))
    }


@given(ruled_trees())
def test_a_rule_is_shadowed_where_earlier_ones_decide_all(world):
    tree, rules = world
    tree = dataclasses.replace(tree, ties=())
    rules = [dataclasses.replace(rule, name=f"{number}") for number, rule in enumerate(rules)]
    holding = [module.path for module in tree.modules if module.tensors]
    spoken = {
        rule.name: [path for path in holding if any(oracle.matches(rule, tree, a) for a in oracle.ancestors(path))]
        for rule in rules
    }
    final = [rule for rule in rules if rule.on_exhausted == "error"]
    wanted = [
        rule.name
        for number, rule in enumerate(rules)
        if spoken[rule.name]
        and all(any(path in spoken[one.name] for one in final if int(one.name) < number) for path in spoken[rule.name])
    ]
    event(f"{len(wanted)} shadowed")
    found = lint(ResolvedPolicy(prefer=(DeviceSelector("cuda"),), rules=tuple(rules)), tree)
    assert [finding.message.split("`")[1] for finding in found if finding.code == "DP502"] == wanted
