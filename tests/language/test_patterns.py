import pickle
import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from devpolicy._core.language.patterns import LONGEST, Pattern, PatternError
from devpolicy.errors import DevPolicyError

# The oracle: what a pattern means, stated naively. It reads well-formed patterns only.


def matches_naively(pattern: str, path: str) -> bool:
    segments = re.findall(r"(?:\{\d*\.\.\d*\}|[^.])+", pattern)
    return match_segments(segments, path.split(".") if path else [])


def match_segments(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(match_segments(pattern[1:], path[skipped:]) for skipped in range(len(path) + 1))
    return bool(path) and match_name(pattern[0], path[0], "") and match_segments(pattern[1:], path[1:])


def match_name(pattern: str, name: str, before: str) -> bool:
    """Whether a segment's rest matches a name's rest; `before` is the character of the name just before."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(match_name(pattern[1:], name[n:], (before + name[:n])[-1:]) for n in range(len(name) + 1))
    if pattern[0] == "{":
        bounds, _, rest = pattern[1:].partition("}")
        low, _, high = bounds.partition("..")
        number = re.match("0|[1-9][0-9]*", name)
        if number is None or before in set("0123456789") or name[number.end() : number.end() + 1] in set("0123456789"):
            return False
        inside = int(low) <= int(number[0]) and (not high or int(number[0]) <= int(high))
        return inside and match_name(rest, name[number.end() :], number[0][-1])
    return name[:1] == pattern[0] and match_name(pattern[1:], name[1:], name[0])


NAMES = st.text("ab01_", min_size=1, max_size=4) | st.integers(0, 120).map(str)
PATHS = st.lists(NAMES, max_size=5).map(".".join)
RANGES = st.tuples(st.integers(0, 130), st.none() | st.integers(0, 200)).map(
    lambda ends: f"{{{ends[0]}..}}" if ends[1] is None else f"{{{min(ends)}..{max(ends)}}}"
)
SEGMENTS = st.just("**") | st.lists(NAMES | st.just("*") | RANGES, min_size=1, max_size=4).map("".join)
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join)


def parsed(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except PatternError:
        assume(False)
        raise


@given(PATTERNS, PATHS)
@example("**", "")
@example("*", "")
@example("a.**", "a")
@example("a.**.**", "a")
@example("**.a.**.b", "a.b")
@example("{0..}*{0..}", "1_1")
@example("*a*a*", "aa")
@example("*{0..9}a", "1a2a3a")
def test_a_pattern_means_what_the_naive_matcher_says(text, path):
    assert parsed(text).matches(path) == matches_naively(text, path)


@given(PATTERNS, st.data())
def test_a_pattern_matches_what_is_made_from_it(text, data):
    pattern = parsed(text)
    path = re.sub(r"(^|\.)\*\*(?=\.|$)", lambda found: found[1] + data.draw(PATHS), text)
    path = re.sub(r"\{(\d+)\.\.\d*\}", r"\1", path)
    path = ".".join(part for part in path.replace("*", "b").split(".") if part)
    assert pattern.matches(path) == matches_naively(text, path)


@given(st.text())
def test_any_text_is_a_pattern_or_refused_at_a_place(text):
    try:
        assert Pattern.parse(text).text == text
    except PatternError as refused:
        assert isinstance(refused, DevPolicyError)
        assert 0 <= refused.offset <= max(0, len(text) - 1)
        assert refused.offset + refused.length <= max(1, len(text))


@given(st.text(alphabet=st.characters(blacklist_characters=".*{}"), min_size=1, max_size=20), PATHS)
def test_what_is_no_wildcard_means_itself(name, path):
    pattern = Pattern.parse(f"a.{name}")
    assert pattern.matches(f"a.{name}")
    assert pattern.matches(path) == (path == f"a.{name}")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6))
def test_a_range_has_both_its_ends(one, other, number):
    low, high = sorted([one, other])
    assert Pattern.parse(f"{{{low}..{high}}}").matches(str(number)) == (low <= number <= high)
    assert Pattern.parse(f"{{{low}..}}").matches(str(number)) == (low <= number)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", "lm_head.weight", False),
        ("a.b", "axb", False),
        ("model.layers.*", "model.layers.0", True),
        ("model.layers.*", "model.layers.0.mlp", False),
        ("model.layers.*", "model.layers", False),
        ("**.self_attn.q_*", "model.layers.0.self_attn.q_proj", True),
        ("**.self_attn.q_*", "self_attn.q_", True),
        ("model.**", "model", True),
        ("model.**", "models", False),
        ("layers.{16..}", "layers.16", True),
        ("layers.{16..}", "layers.15", False),
        ("layers.{0..15}", "layers.05", False),
        ("layers.{0..15}", "layers.٣", False),
        ("layer{0..3}*", "layer3_norm", True),
        ("layer{0..3}*", "layer31", False),
        ("h[0].(a|b)+$", "h[0].(a|b)+$", True),
        ("h[0]", "h0", False),
        ("a.*", "a.\n", True),
    ],
)
def test_a_pattern_matches_these_paths_and_not_those(pattern, path, expected):
    assert Pattern.parse(pattern).matches(path) is expected
    assert matches_naively(pattern, path) is expected


@pytest.mark.parametrize(
    ("text", "offset", "length", "help_"),
    [
        ("", 0, 1, "write `**` for the whole model"),
        ("a.", 1, 1, "did you mean `a`?"),
        (".a", 0, 1, "did you mean `a`?"),
        ("a..b", 1, 1, "did you mean `a.b`?"),
        ("layers.{5..3}", 7, 6, "did you mean `layers.{3..5}`?"),
        ("layers.{00..15}.mlp", 7, 8, "did you mean `layers.{0..15}.mlp`?"),
        ("layers.{..5}", 7, 5, "did you mean `layers.{0..5}`?"),
        ("layers.{7}", 7, 3, "did you mean `layers.7`?"),
        ("layers.{0 .. 15}", 7, 9, "did you mean `layers.{0..15}`?"),
        ("{attn,mlp}", 0, 10, "write a list of patterns, one for each alternative"),
        ("a**", 1, 2, "`*` matches any characters within one segment"),
    ],
)
def test_a_malformed_pattern_is_refused_with_its_place(text, offset, length, help_):
    with pytest.raises(PatternError) as refused:
        Pattern.parse(text)
    assert (refused.value.offset, refused.value.length, refused.value.help) == (offset, length, help_)


@pytest.mark.parametrize("text", [None, 3, b"lm_head", ["lm_head"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(PatternError, match="a pattern is text"):
        Pattern.parse(text)


def test_a_pattern_has_a_longest_length():
    assert Pattern.parse("a" * LONGEST).matches("a" * LONGEST)
    with pytest.raises(PatternError, match="characters"):
        Pattern.parse("a" * (LONGEST + 1))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("**." * 200 + "b", "a." * 5_000 + "a"),
        ("**.a." * 150 + "**.b", "a." * 5_000 + "a"),
        ("*a" * 300 + "*b", "a" * 10_000),
        ("**.*a*a*a*b." * 60 + "c", ("a" * 100 + ".") * 100 + "d"),
        ("**.{0..}*x", "1234567890." * 1_000 + "y"),
        ("{0..}_*" * 100 + "x", "1_" * 5_000),
    ],
)
def test_no_pattern_is_slow_on_a_hostile_path(text, path):
    pattern = Pattern.parse(text)
    start = time.process_time()
    assert not pattern.matches(path)
    assert time.process_time() - start < 1


def test_a_hundred_thousand_paths_are_matched_in_a_blink():
    paths = [
        f"model.layers.{i}.mlp.experts.{j}.{name}" for i in range(100) for j in range(500) for name in ("up", "down")
    ]
    pattern = Pattern.parse("model.layers.{16..31}.**.up")
    start = time.process_time()
    assert sum(map(pattern.matches, paths)) == 16 * 500
    assert time.process_time() - start < 2


def test_a_long_range_is_read_at_once():
    start = time.process_time()
    for low in range(200):
        assert Pattern.parse(f"**.{{{low}..899999999999}}.*").matches("a.899999999999.b")
    assert time.process_time() - start < 2


def test_patterns_are_values():
    pattern = Pattern.parse("model.layers.{0..3}.*")
    again = pickle.loads(pickle.dumps(pattern))
    assert again == pattern
    assert hash(again) == hash(pattern)
    assert again.matches("model.layers.3.mlp")
    assert {pattern, again, Pattern.parse("model")} == {pattern, Pattern.parse("model")}
    assert str(pattern) == "model.layers.{0..3}.*"
    assert not pattern.literal
    assert Pattern.parse("lm_head").literal


def test_the_refusal_of_a_pattern_goes_to_another_process():
    with pytest.raises(PatternError) as refused:
        Pattern.parse("a.{5..3}")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.offset, again.help) == (str(refused.value), 2, "did you mean `a.{3..5}`?")
