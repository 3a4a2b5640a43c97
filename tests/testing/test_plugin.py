"""The pytest plugin, in pytest runs of its own. What a user's suite sees of it is in tests/cases/plugin_suite."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

# `pytester` makes Python forget what a run inside this process imported. The simulation holds functions of modules that
# are then others, and torch does not survive being imported twice.
import devpolicy._core.host.probe
import devpolicy._core.simulation
import devpolicy.testing._suite
import devpolicy.testing.conformance
from devpolicy import Host

with suppress(ImportError):
    import torch  # noqa: F401

HEAVY = {"torch", "numpy", "hypothesis", "transformers", "accelerate", "haystack", "spacy", "rich", "click", "psutil"}

EACH = """
import pytest
from devpolicy import Host

@pytest.mark.hosts("cpu-only", "2x24gb", "8x80gb")
@pytest.mark.parametrize("turn", range(3))
def test_it_is_this_host(simulated_host, turn):
    assert Host.probe() == simulated_host

def test_it_is_this_machine():
    assert Host.probe().name is None
"""


def test_it_is_registered_where_devpolicy_is_installed() -> None:
    (entry,) = {entry for entry in entry_points(group="pytest11") if entry.name == "devpolicy"}
    assert entry.value == "devpolicy.testing.plugin", "reinstall the package: its entry points changed"


def test_loading_it_imports_pytest_and_three_small_modules() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import devpolicy.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["devpolicy", "devpolicy.testing", "devpolicy.testing.plugin"]


def test_a_run_that_names_no_host_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        import sys

        def test_what_is_loaded():
            ours = [name for name in sys.modules if name.startswith("devpolicy.")]
            assert sorted(ours) == ["devpolicy.testing", "devpolicy.testing.plugin"]
            assert not set({sorted(HEAVY)}) & set(sys.modules)
        """
    )
    # Hypothesis has a plugin of its own, and pytest-randomly imports numpy where it is installed.
    pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:randomly").assert_outcomes(passed=1)


def test_each_host_is_a_test_of_its_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(EACH)
    result = pytester.runpytest_inprocess("-v")
    result.assert_outcomes(passed=10)
    result.stdout.fnmatch_lines(["*test_it_is_this_host[[]8x80gb-2] PASSED*"])


def test_it_is_safe_with_workers(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(EACH, test_other=EACH)
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=20)


def test_nothing_is_left_behind_by_a_test_that_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from devpolicy import Host

        @pytest.fixture
        def broken(simulated_host):
            yield
            raise RuntimeError("in the teardown")

        @pytest.mark.host("8x80gb")
        def test_fails(broken):
            assert not Host.probe().accelerators

        def test_next():
            assert Host.probe().name is None
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(failed=1, errors=1, passed=1)


def test_the_report_of_a_failure_shows_the_host_and_its_devices(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.host("faulty/ecc-on-query")
        def test_fails():
            assert False
        """
    )
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines(
        [
            "*test_fails[[]faulty/ecc-on-query]*",
            "*- simulated host -*",
            "faulty/ecc-on-query: linux x86_64, 512.0 GiB (480.0 GiB free) of RAM",
            "cuda:2  NVIDIA A100-SXM4-80GB, 80.0 GiB (0 B free), faulty: CUDA error: uncorrectable ECC error*",
        ]
    )


def test_a_failure_names_processes_that_left_the_host(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import multiprocessing
        import subprocess
        import sys

        import pytest

        def ask():
            pass

        @pytest.mark.host("2x24gb")
        @pytest.mark.parametrize("method", ["spawn", "fork"])
        def test_fails(method):
            subprocess.run([sys.executable, "-c", ""], check=True)
            process = multiprocessing.get_context(method).Process(target=ask, name="asker")
            process.start()
            process.join()
            assert not "reached"

        @pytest.mark.host("2x24gb", children=True)
        def test_on_it():
            subprocess.run([sys.executable, "-c", ""], check=True)
            assert not "reached"

        def test_after():
            assert not hasattr(subprocess.Popen.__init__, "__wrapped__")
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=3, passed=1)
    found = [line for line in result.stdout.lines if "that the test started" in line]
    python = Path(sys.executable).name
    assert found == [
        f"2 processes that the test started left `2x24gb` for the real machine: `{python}`, `asker`",
        f"1 process that the test started left `2x24gb` for the real machine: `{python}`",
    ]
    result.stdout.fnmatch_lines(["with `--devpolicy-children`, or `children=True` in the mark, *"])


# How a test says its host.


def test_the_option_is_the_host_before_the_collection(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from devpolicy import Host\nSEEN = Host.probe().name")
    pytester.makepyfile(
        """
        import pytest
        import conftest
        from devpolicy import Host

        @pytest.mark.skipif(not Host.probe().devices("cuda"), reason="there is no GPU")
        def test_conditions():
            assert conftest.SEEN == Host.probe().name == "2x24gb"

        @pytest.mark.parametrize("device", [each.id for each in Host.probe().devices("cuda")])
        def test_parameters(device):
            pass

        @pytest.fixture(scope="module")
        def wide(simulated_host):
            return simulated_host

        def test_fixture(simulated_host, wide):
            assert simulated_host is wide
            assert wide.name == "2x24gb"

        @pytest.mark.host("1x8gb")
        def test_marked(simulated_host):
            assert Host.probe().name == simulated_host.name == "1x8gb"
        """
    )
    result = pytester.runpytest_inprocess("--devpolicy-host", "2x24gb", "-v")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["simulated host: 2x24gb at depth probes, for the whole run", "*test_fixture PASSED*"])
    assert Host.probe().name is None


def test_the_configuration_file_may_give_the_host_of_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ndevpolicy_host = rig.toml\ndevpolicy_depth = value")
    (pytester.path / "rig.toml").write_text(Host.load("1x24gb").to_toml(), encoding="utf-8")
    pytester.makepyfile("from devpolicy import Host\nSEEN = Host.probe()\ndef test_it(): assert SEEN.devices('cuda')")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["simulated host: rig at depth value, for the whole run"])


def test_the_whole_run_is_on_the_host_with_workers_too(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import pytest
        from devpolicy import Host

        SEEN = Host.probe().name

        @pytest.mark.parametrize("turn", range(6))
        def test_it(turn):
            assert SEEN == Host.probe().name == "8x80gb"
        """
    )
    pytester.runpytest_subprocess("-n", "2", "--devpolicy-host", "8x80gb").assert_outcomes(passed=6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--devpolicy-host", "2x24gb", "--devpolicy-depth", "deep"], "*ERROR: --devpolicy-host: *`deep`*"),
        (["--devpolicy-host", "2x24gb", "--devpolicy-real"], "ERROR: --devpolicy-real checks this machine, and*"),
    ],
)
def test_options_that_cannot_be_followed_end_the_run_at_once(
    pytester: pytest.Pytester, options: list[str], told: str
) -> None:
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


SKIPPED = """
import unittest
import pytest
from devpolicy import Host

none = not Host.probe().devices("xpu")
require_xpu = unittest.skipIf(none, "there is no XPU")

@pytest.mark.skipif(none, reason="there is no such device")
@pytest.mark.hosts("arc-a770")
def test_mark():
    pass

@pytest.mark.host("arc-a770")
@require_xpu
def test_function():
    pass

@pytest.mark.host("arc-a770")
class TestCase(unittest.TestCase):
    @require_xpu
    def test_method(self):
        pass

@pytest.mark.host("arc-a770")
def test_asks_inside():
    pytest.skip("this is no day for it")

@pytest.mark.skip
@pytest.mark.host("arc-a770")
def test_never():
    pass
"""


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_test_skipped_before_its_host_is_named(pytester: pytest.Pytester, workers: list[str]) -> None:
    pytester.makepyfile(SKIPPED)
    result = pytester.runpytest_subprocess(*workers)
    result.assert_outcomes(skipped=5)
    result.stdout.fnmatch_lines(
        [
            "skipped before they were on their hosts, by a condition that was evaluated on this machine:",
            "  *::test_mark[[]arc-a770]: there is no such device",
            "  *::test_function[[]arc-a770]: there is no XPU",
            "  *::TestCase::test_method: there is no XPU",
            "ask inside the test, or run them with `--devpolicy-host arc-a770`, which comes before the conditions",
        ]
    )
    result.stdout.no_fnmatch_line("  *::test_never*")
    result.stdout.no_fnmatch_line("  *::test_asks_inside*")
    for_all = pytester.runpytest_subprocess("--devpolicy-host", "arc-a770")
    for_all.assert_outcomes(passed=3, skipped=2)
    for_all.stdout.no_fnmatch_line("skipped before*")
    other = pytester.runpytest_subprocess("--devpolicy-host", "2x24gb")
    other.stdout.fnmatch_lines(["skipped before*, by a condition that was evaluated on the host `2x24gb`:"])


def test_the_way_out_of_a_skip_names_the_depth_of_the_mark(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.skipif(True, reason="there is no such device")
        @pytest.mark.host("2x24gb", depth="tensors")
        def test_it():
            pass
        """
    )
    line = "ask inside the test, or run them with `--devpolicy-host 2x24gb --devpolicy-depth tensors`, which*"
    pytester.runpytest_inprocess().stdout.fnmatch_lines([line])


def test_a_star_names_hosts_of_the_catalogue_and_files(pytester: pytest.Pytester) -> None:
    for name in ("one", "two"):
        (pytester.mkdir(f"rigs_{name}") / "rig.toml").write_text(Host.load("1x24gb").to_toml(), encoding="utf-8")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.hosts("faulty/ecc-*", "rigs_*/*.toml", "2x24gb", "[1]x8gb")
        def test_it(simulated_host):
            pass

        @pytest.mark.hosts("*")
        def test_star(simulated_host):
            assert "/" not in simulated_host.name

        @pytest.mark.hosts("faulty/*")
        def test_faulty(simulated_host):
            assert simulated_host.name.startswith("faulty/")
        """
    )
    result = pytester.runpytest_inprocess("-v")
    result.stdout.fnmatch_lines_random(
        [f"*test_it[[]{name}] PASSED*" for name in ("faulty/ecc-on-query", "rig0", "rig1", "2x24gb", "1x8gb")]
    )
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert outcomes["passed"] > 20


def test_indirect_values_and_marks_of_parameters_are_hosts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from devpolicy import Host

        @pytest.mark.parametrize("simulated_host", ["2x24gb", Host(memory="1 GiB", name="bare")], indirect=True)
        def test_indirect(simulated_host):
            assert Host.probe() == simulated_host

        @pytest.fixture
        def size(request, simulated_host):
            return request.param, simulated_host.name

        @pytest.mark.hosts("1x8gb", "2x24gb")
        @pytest.mark.parametrize("size", [1, 2], indirect=True)
        def test_beside_others(size, simulated_host):
            assert size[1] == simulated_host.name == Host.probe().name

        on = pytest.mark.host

        @pytest.mark.parametrize(
            ("count", "size"), [(0, 0), pytest.param(2, 1, marks=on("2x24gb")), pytest.param(8, 1, marks=on("8x80gb"))]
        )
        def test_marks(count, size):
            assert len(Host.probe().devices("cuda")) == count

        @pytest.fixture
        def through(simulated_host):
            return simulated_host

        @pytest.mark.parametrize("turn", [pytest.param(n, marks=pytest.mark.host(n)) for n in ("2x24gb", "1x8gb")])
        def test_fixture(turn, through, simulated_host):
            assert through is simulated_host
            assert turn == through.name == Host.probe().name
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=11)


def test_without_the_option_a_test_without_a_name_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_default(simulated_host): pass\ndef test_other(): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(
        ['which host? mark the test, as in `@pytest.mark.host("2x24gb")`, or give --devpolicy-*']
    )


def test_a_host_may_be_a_file_or_a_value(pytester: pytest.Pytester) -> None:
    inner = pytester.mkdir("inner")
    (pytester.path / "rig.toml").write_text(Host.load("1x24gb").to_toml(), encoding="utf-8")
    (inner / "test_it.py").write_text(
        """
import pytest
from devpolicy import Accelerator, Host

OWN = Host([Accelerator("xpu", memory="16 GiB")], memory="32 GiB")

@pytest.mark.hosts("rig.toml", OWN, Host(memory="1 GiB", name="bare"))
def test_it(simulated_host, request):
    assert request.node.name.removeprefix("test_it") in ("[rig]", "[hosts1]", "[bare]")
""",
        encoding="utf-8",
    )
    pytester.makepyprojecttoml("[tool.pytest.ini_options]")
    pytester.runpytest_inprocess("inner").assert_outcomes(passed=3)


MISTAKES = {
    "host('2x24g')": "`@pytest.mark.host`: error[DP202]: no host is named `2x24g` = help: did you mean `2x24gb`?",
    "hosts('faulti/*')": "`faulti/*` matches no host: `devpolicy host list` names them",
    "hosts('rigs/*.toml')": "`rigs/*.toml` matches no host",
    "hosts('cpu-only', 'ecc-on-query')": "did you mean `faulty/ecc-on-query`?",
    "host('no/such.toml')": "no/such.toml",
    "host(24)": "`@pytest.mark.host`: a host is loaded by name or path, not by a value of type int",
    "host()": 'write `@pytest.mark.host("2x24gb")`',
    "hosts()": 'write `@pytest.mark.hosts("cpu-only", "8x80gb")`',
    "host('cpu-only', '2x24gb')": 'write `@pytest.mark.host("2x24gb")`',
    "host('cpu-only', dept='probes')": 'write `@pytest.mark.host("2x24gb")`',
    "hosts('cpu-only')\n@pytest.mark.host('2x24gb')": "two marks of hosts: write one `hosts` that names them all",
}


@pytest.mark.parametrize("mark", MISTAKES)
def test_a_mark_that_fails_is_an_error_of_the_collection(pytester: pytest.Pytester, mark: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it():\n    pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    text = " ".join(str(result.stdout).split())
    assert MISTAKES[mark] in text
    assert ".py::test_it: " in text
    assert "Traceback" not in text
    assert "another exception" not in text


def test_a_mark_of_a_parameter_that_fails_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.host("1x8gb")
        @pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.host("2x24gb"))])
        def test_both(count):
            pass

        @pytest.mark.parametrize("count", [0, pytest.param(2, marks=pytest.mark.hosts("2x24gb", "1x8gb"))])
        def test_several(count):
            pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_both[[]*: both the test and its parameter have a mark of hosts: leave one of them out",
            "*::test_several[[]2]: a parameter is on one host: give it one mark, as in*",
        ]
    )


def test_an_unknown_default_host_ends_the_run_at_once(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--devpolicy-host", "macbook")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --devpolicy-host: error?DP202?: no host is named `macbook`"])


@pytest.mark.parametrize("depth", ["phantom", "probe"])
def test_a_depth_that_there_is_not_is_an_error_of_the_test(pytester: pytest.Pytester, depth: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.host('2x24gb', depth='{depth}')\ndef test_it():\n    pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    # pytester has a home of its own, where no simulator is built.
    lacks_torch = depth == "phantom" and find_spec("torch") is None
    result.stdout.fnmatch_lines(
        [f"*::test_it*: `@pytest.mark.host`: *{'torch is not installed' if lacks_torch else depth}*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_test_case_of_unittest_takes_one_host_and_not_several(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import unittest
        import pytest
        from devpolicy import Host

        class TestIt(unittest.TestCase):
            @pytest.mark.host("2x24gb")
            def test_one(self):
                self.assertEqual(Host.probe().name, "2x24gb")

            @pytest.mark.hosts("2x24gb", "1x8gb")
            def test_two(self):
                pass
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pytest runs a `unittest.TestCase` once: mark it with one `host`"])


# Under other conditions.


def test_the_header_names_versions_and_imports_none_of_them(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines([f"devices: devpolicy {devpolicy.__version__}*"])


def test_it_works_where_torch_is_absent(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nsys.modules['torch'] = None")
    pytester.makepyfile(EACH)
    pytester.runpytest_subprocess().assert_outcomes(passed=10)


def test_a_simulation_inside_the_test_is_nearer(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from devpolicy import Host
        from devpolicy.testing import simulate_host

        @pytest.mark.host("2x24gb")
        def test_it():
            with simulate_host("1x8gb"):
                assert Host.probe().name == "1x8gb"
            assert Host.probe().name == "2x24gb"
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


# This machine.


def test_the_real_machine_is_checked_where_that_is_asked_for(pytester: pytest.Pytester) -> None:
    conformance = devpolicy.testing.conformance
    checks = len([*conformance.HOST_CHECKS, *conformance.MACHINE_CHECKS, *conformance.DEVICE_CHECKS])
    result = pytester.runpytest_inprocess("--devpolicy-real", "-v")
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) + outcomes.get("skipped", 0) == checks == sum(outcomes.values())
    result.stdout.fnmatch_lines(["devpolicy::reads_back *PASSED*"])


def test_what_is_asked_of_devices_is_skipped_where_none_works(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from devpolicy import Accelerator, Host

        lost = Accelerator("cuda", memory="8 GiB", fault="CUDA error: GPU is lost")
        Host.probe = classmethod(lambda cls: Host([lost], memory="8 GiB"))
        """
    )
    result = pytester.runpytest_subprocess("--devpolicy-real", "-rs", "-k", "seeds_repeat or torch_names_the_same")
    result.assert_outcomes(skipped=2)
    reason = "no accelerator that works was found here" if find_spec("torch") else "torch is not installed"
    result.stdout.fnmatch_lines(["collected * items / * deselected / 2 selected", f"SKIPPED*{reason}"])


def test_a_machine_that_breaks_a_property_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from devpolicy import Host

        count = iter(range(9))
        Host.probe = classmethod(lambda cls: Host(memory=(1 + next(count)) << 30))
        """
    )
    result = pytester.runpytest_subprocess("--devpolicy-real", "-k", "same_machine_each_time")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*but these changed: `memory`, 1073741824 and 2147483648*"])
    result.stdout.no_fnmatch_line("*Traceback*")
