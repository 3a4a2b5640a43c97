"""`pytest policy/`: tests of policies as pytest items, in pytest runs of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

POLICY = """
prefer = ["cuda", "mps"]

[offload]
lm_head = "disk"

[[test]]
name   = "the head goes to disk"
host   = "2x24gb"
model  = "llama-3.1-8b"
expect = { lm_head = "disk" }

[[test]]
name   = "and runs on the first GPU"
host   = "2x24gb"
model  = "llama-3.1-8b"
expect = { lm_head = { runs_on = "cuda:1" } }
"""
BESIDE = 'policy = "head.toml"\n[[test]]\nname = "t"\nhost = "2x24gb"\nexpect = "cuda:0"\n'
CARGO = '[package]\nname = "x"\n\n[[test]]\nname = "integration"\npath = "tests/it.rs"\n'


@pytest.fixture
def policies(pytester: pytest.Pytester) -> pytest.Pytester:
    folder = pytester.mkdir("policy")
    (folder / "head.toml").write_text(POLICY)
    (folder / "head.test.toml").write_text(
        'policy = "head.toml"\n[[test]]\nname = "t"\nhost="2x24gb"\nexpect="cuda:0"\n'
    )
    (folder / "Cargo.toml").write_text(CARGO)
    (folder / "pyproject.toml").write_text('[dependency-groups]\ntest = ["pytest"]\n')
    (folder / "other.toml").write_text("[tool]\nx = 1\n")
    return pytester


def test_each_test_is_an_item_that_fails_with_its_place(policies: pytest.Pytester) -> None:
    # In the order in which they are written, also where a plugin shuffles.
    result = policies.runpytest_subprocess("policy", "-v", "-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "policy/head.test.toml::t PASSED*",
            "policy/head.toml::the head goes to disk PASSED*",
            "policy/head.toml::and runs on the first GPU FAILED*",
            "*error[[]DP511[]]: `and runs on the first GPU` fails on 2x24gb: `lm_head` is executing on `cuda:0`*",
            "*head.toml:17:*",
            "*decided by `offload.lm_head`*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_an_item_is_chosen_by_its_name(policies: pytest.Pytester) -> None:
    policies.runpytest_subprocess("policy", "-k", "disk").assert_outcomes(passed=1, deselected=2)
    policies.runpytest_subprocess("policy/head.toml::the head goes to disk").assert_outcomes(passed=1)


def test_they_run_on_workers(policies: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    policies.runpytest_subprocess("policy", "-n", "2").assert_outcomes(passed=2, failed=1)


def test_a_policy_that_cannot_be_read_fails_the_collection(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("p.toml").write_text('prefer = "cuda"\n[[test]]\nname = "t"\nhst = "2x24gb"\nexpect="cpu"\n')
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*error[[]DP103[]]: unknown key `hst`*", "*did you mean `host`?"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_project_with_other_toml_loads_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("settings.toml").write_text("[tool]\nx = 1\n")
    pytester.path.joinpath("plain.toml").write_text('prefer = "cuda"\n')
    pytester.makepyfile(
        """
        import sys

        def test_what_is_loaded():
            ours = [name for name in sys.modules if name.startswith("devpolicy.")]
            assert sorted(ours) == ["devpolicy.testing", "devpolicy.testing.plugin"]
        """
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_collecting_tests_of_policies_imports_no_heavy_library(policies: pytest.Pytester) -> None:
    code = (
        "import sys, pytest;"
        "pytest.main(['policy', '--collect-only', '-q', '-p', 'no:hypothesispytest', '-p', 'no:randomly']);"
        "print('HEAVY', set(sys.modules) & {'torch', 'numpy', 'hypothesis', 'rich', 'click', 'psutil'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=policies.path)
    assert "HEAVY set()" in run.stdout


def test_tests_that_are_written_inline_are_items_too(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", p='prefer = "cpu"\ntest = [{ name = "t", host = "cpu-only", expect = "cpu" }]\n')
    pytester.runpytest_subprocess("p.toml").assert_outcomes(passed=1)
