"""The conformance kit holds our targets, and finds those that drop or claim what is not so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devpolicy._core.abilities import registry
from devpolicy._core.cli.output_formats import OUTPUT_FORMATS
from devpolicy.targets import Abilities, Target, target_of, targets
from devpolicy.testing.conformance import ConformanceError, check_target, try_target

# A component's dtype is written into its own parameters; spaCy has one number for the GPU of either kind; and a
# pipeline's form has objects of libraries.
SAYS_LESS = ("haystack", "spacy", "pipeline")


@pytest.mark.parametrize("name", list(targets()))
def test_our_targets_conform(name):
    forms = {form: one.of_plan for form, one in OUTPUT_FORMATS.items() if one.target == name and form not in SAYS_LESS}
    target = replace(target_of(name), forms=forms)
    assert any(one.plan for one in try_target(target).tries)
    check_target(target)


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))
    return Target("mine", Abilities(types=frozenset({"cuda", "cpu"}), carries=frozenset()))


def device(plan, host):
    return plan.device.to_torch_str()


def test_a_target_of_one_device_conforms(mine):
    check_target(replace(mine, forms={"mine": device}))


def test_a_form_that_drops_the_device_is_found(mine):
    with pytest.raises(ConformanceError, match="nothing_is_dropped"):
        check_target(replace(mine, forms={"mine": lambda plan, host: "cuda"}))


def test_a_form_that_raises_or_is_no_data_is_found(mine):
    with pytest.raises(ConformanceError, match="forms_are_data"):
        check_target(replace(mine, forms={"mine": lambda plan, host: plan.device}))
    with pytest.raises(ConformanceError, match="KeyError"):
        check_target(replace(mine, forms={"mine": lambda plan, host: {}["x"]}))


def test_a_form_that_changes_is_found(mine):
    seen = []

    def changing(plan, host):
        seen.append(plan)
        return len(seen)

    with pytest.raises(ConformanceError, match="another form the second time"):
        check_target(replace(mine, forms={"mine": changing}))
