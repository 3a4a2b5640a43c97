"""The names that `devpolicy` gives, which are imported when they are first used."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import devpolicy


@pytest.mark.parametrize("name", devpolicy.__all__)
def test_every_public_name_is_there_and_says_where_it_comes_from(name: str) -> None:
    value = getattr(devpolicy, name)
    assert value is getattr(devpolicy, name)
    assert value.__module__.startswith("devpolicy")
    assert name in dir(devpolicy)


@pytest.mark.parametrize(
    "name", ["devpolicy", "devpolicy.errors", "devpolicy.fleet", "devpolicy.haystack", "devpolicy.testing"]
)
def test_dir_shows_public_names_only(name: str) -> None:
    module = import_module(name)
    shown = set(dir(module)) - {"__version__"}
    submodules = {one for one in shown if isinstance(getattr(module, one), ModuleType)}
    assert shown - submodules == set(module.__all__)
    assert all(getattr(module, one).__name__ == f"{name}.{one}" for one in submodules)


def test_public_modules_need_no_import_of_their_own() -> None:
    code = "import devpolicy; print(devpolicy.errors.PolicyError.__name__, devpolicy.testing.strategies.__name__)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == "PolicyError devpolicy.testing.strategies\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'devpolicy' has no attribute 'Polcy'"):
        _ = devpolicy.Polcy


def test_every_error_is_ours_and_survives_a_worker_process() -> None:
    with pytest.raises(devpolicy.DevPolicyError) as refused:
        devpolicy.Policy.parse('prefre = "cuda"')
    again = pickle.loads(pickle.dumps(refused.value))
    assert type(again) is devpolicy.PolicyError
    assert isinstance(again, ValueError)
    assert str(again) == str(refused.value)
    assert again.diagnostics == refused.value.diagnostics


def test_the_names_for_tests_are_there_for_help() -> None:
    from devpolicy import testing

    assert sorted(testing.__all__) == sorted(testing._WHERE)
    assert all(getattr(testing, name) for name in testing.__all__)
