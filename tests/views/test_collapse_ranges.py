"""Folding paths into patterns: nothing is lost, and a pattern means in a policy what it means here."""

import re
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core.language.patterns import Pattern
from devpolicy._core.views.collapse_ranges import collapse_ranges

SEGMENTS = st.sampled_from(["a", "b", "layer_1", "01", "0", "1", "2", "3", "4", "10", "11"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
PLACED = st.dictionaries(PATHS, st.integers(0, 1), max_size=40)


@given(PLACED)
def test_every_path_is_in_exactly_one_row_with_its_key(placed):
    rows = collapse_ranges(placed.items())
    told = [(path, row.key) for row in rows for path in row.paths]
    assert sorted(told) == sorted(placed.items())


@given(PLACED)
def test_a_pattern_matches_its_paths_and_no_others(placed):
    for row in collapse_ranges(placed.items()):
        pattern = Pattern(row.pattern)
        assert {path for path in placed if pattern.matches(path)} == set(row.paths)
        widths = [int(last) - int(first) + 1 for first, last in re.findall(r"\{(\d+)\.\.(\d+)\}", row.pattern)]
        assert prod(widths) == len(row.paths), "it would match modules that are not there"


@given(PLACED)
def test_rows_and_their_paths_keep_the_order(placed):
    place = {path: at for at, path in enumerate(placed)}
    rows = collapse_ranges(placed.items())
    assert [row.paths[0] for row in rows] == sorted((row.paths[0] for row in rows), key=place.__getitem__)
    for row in rows:
        assert list(row.paths) == sorted(row.paths, key=place.__getitem__)


def test_experts_of_all_layers_are_one_row():
    paths = [f"layers.{layer}.experts.{expert}.w1" for layer in range(32) for expert in range(8)]
    assert [row.pattern for row in collapse_ranges((path, "cpu") for path in paths)] == [
        "layers.{0..31}.experts.{0..7}.w1"
    ]


def test_blocks_on_two_devices_are_two_rows():
    placed = [(f"h.{at}", "cuda:0" if at < 5 else "cuda:1") for at in range(12)]
    assert [(row.pattern, row.key) for row in collapse_ranges(placed)] == [
        ("h.{0..4}", "cuda:0"),
        ("h.{5..11}", "cuda:1"),
    ]


def test_a_gap_is_not_covered():
    assert [row.pattern for row in collapse_ranges((f"h.{at}", 0) for at in (0, 1, 3))] == ["h.{0..1}", "h.3"]
