"""Recorded sessions: what is printed today is what they say."""

import pytest
from tests.cli.harness import CASES, replayed, shortened
from tools.commands import USED_ON

from devpolicy._core.cli.app import app

HOW = "python -m tests.cli.harness records it anew"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_recorded_session_prints_the_same_today(case, tmp_path):
    ctx = case.read_text(encoding="utf-8")
    assert replayed(ctx, tmp_path) == ctx, HOW


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_recorded_session_fits_eighty_columns(case):
    lines = case.read_text(encoding="utf-8").splitlines()
    # What the user wrote, and what is copied, has the width that it has.
    assert [line for line in lines if len(line) > 80 and not line.startswith(("#", "$", "error", "    '"))] == []


RECORDED = "  host    RAM\n...\n  1x24gb  24 GiB\n...\n"


def test_lines_that_a_recording_leaves_out_are_left_out_again():
    printed = "  host    RAM\n  t4      15 GiB\n  1x24gb  25 GiB\n  h100  80 GiB\n"
    assert shortened(printed, like=RECORDED) == "  host    RAM\n...\n  1x24gb  25 GiB\n...\n"


@pytest.mark.parametrize("printed", ["", "  host    RAM\n", "  node    RAM\n  1x24gb  24 GiB\n", "  1x24gb  24 GiB\n"])
def test_an_output_of_another_shape_is_recorded_whole(printed):
    assert shortened(printed, like=RECORDED) == printed


def test_an_output_that_goes_on_is_recorded_whole():
    assert shortened("a\nb\n", like="a\n") == "a\nb\n"
    assert shortened("a\nb\nc\n", like="a\n...\nb\n") == "a\nb\nc\n"


def test_every_command_is_shown_in_use():
    assert sorted(USED_ON) == sorted(app.list_commands(None))
