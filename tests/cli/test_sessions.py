"""Recorded sessions and the page of the commands: what is printed today is what they say."""

import re

import pytest
from tests.cli.harness import CASES, PAGE, replayed, replayed_page

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


def test_every_example_of_the_page_prints_what_it_says(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    assert replayed_page(text, tmp_path) == text, HOW


def test_the_page_has_a_section_for_every_command():
    sections = re.findall(r"^## ([\w-]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(app.list_commands(None))
