"""The pages for people who change devpolicy, and the glossary."""

from __future__ import annotations

import re

from devpolicy._core.cli.memory_bars import PARTS
from devpolicy._core.language.schema import policy_schema
from tests.architecture import PAGE, with_table
from tests.test_imports import CORE

GLOSSARY = PAGE.with_name("glossary.md").read_text("utf-8")
TERMS = [row.partition("|")[2].partition("|")[0].strip() for row in GLOSSARY.splitlines() if row.startswith("| ")][1:]
PLAIN = [term.strip("`").lower() for term in TERMS]


def test_rooms_are_those_of_the_import_table():
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page, "run `python -m tests.architecture`"


def test_files_that_the_page_names_exist():
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml)|(?:[a-z_]+/)+)`", PAGE.read_text("utf-8"))
    roots = (PAGE.parents[1], CORE)
    places = [name for name in named if not name.startswith("devpolicy/")]
    assert len(places) > 8
    assert [name for name in places if not any((root / name).exists() for root in roots)] == []


def test_terms_are_defined_once_in_order():
    assert sorted(set(PLAIN)) == PLAIN


def test_every_key_of_a_policy_is_a_term():
    # `devices` and `component` and `host` are terms in the singular or in other words.
    words = set(PLAIN) | {"devices"}
    assert set(policy_schema()["properties"]) - words == set()


def test_every_figure_of_a_ledger_is_a_term():
    assert {part.label.lower() for part in PARTS.values()} - set(PLAIN) - {"free"} == set()


def test_terms_that_are_referred_to_are_defined():
    assert [name for name in re.findall(r"see \*([a-z ]+)\*", GLOSSARY) if name not in PLAIN] == []
