import re
from pathlib import Path

import pytest

from devpolicy._core.language.condition_keys import CONDITION
from devpolicy._core.language.devices import DEVICE_CLASS
from devpolicy._core.language.fields import COMPONENT, DISK, MEMORY, RESERVE, RULE, TOP, WORKLOAD
from devpolicy._core.language.policy import Policy
from devpolicy._core.language.reference import updated
from devpolicy._core.language.suite import SUITE
from devpolicy._core.language.tests import TEST
from devpolicy.errors import PolicyError

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
TEXT = PAGE.read_text(encoding="utf-8")
FIELDS = [*TOP, *COMPONENT, *RULE, *MEMORY, *DISK, *RESERVE, *WORKLOAD, *DEVICE_CLASS, *CONDITION, *TEST, *SUITE]
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["language", "testing-policies"])
def test_the_reference_is_up_to_date(page):
    text = PAGE.with_stem(page).read_text(encoding="utf-8")
    assert updated(text) == text, f"python -m devpolicy._core.language.reference docs/{page}.md"


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
