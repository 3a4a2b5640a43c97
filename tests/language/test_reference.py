import re
from pathlib import Path

import pytest
from tools.reference import PAGES, updated

from devpolicy._core.language.components import ComponentTable
from devpolicy._core.language.condition_keys import CONDITION
from devpolicy._core.language.devices import DeviceClassTable
from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.memory import DiskTable, MemoryTable, Reserve
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.rules import Rule
from devpolicy._core.language.suite import SuiteTable
from devpolicy._core.language.tests import CaseTable
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import fields_of
from devpolicy.errors import PolicyError

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
TEXT = PAGE.read_text(encoding="utf-8")
TABLES = (
    *(TopTable, ComponentTable, Rule, MemoryTable, DiskTable, Reserve, Workload, DeviceClassTable),
    *(CaseTable, SuiteTable),
)
FIELDS = [*CONDITION, *(field for table in TABLES for field in fields_of(table))]
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_is_up_to_date(page):
    text = PAGE.with_stem(page).read_text(encoding="utf-8")
    assert updated(text) == text, "python -m tools.reference"


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_policy_without_warnings(text):
    assert not Policy.parse(text).warnings


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_key_is_in_the_reference(field):
    assert f"`{field.name}`" in TEXT


def test_a_part_that_nobody_writes_is_refused():
    with pytest.raises(PolicyError, match="no generated part `x`"):
        updated("<!-- generated: x -->\n<!-- end -->")


def test_the_examples_of_the_error_grammar_are_what_is_printed():
    text = "\n" * 12 + '[[rule]]\nname = "big-experts"\nmatch = "**.experts"\n\nprefre = ["cuda:1"]\n'
    with pytest.raises(PolicyError) as refused:
        Policy.parse('prefer = "cuda"' + text, "policy.toml")
    assert str(refused.value) in TEXT
