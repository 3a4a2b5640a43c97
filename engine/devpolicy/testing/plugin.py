"""The pytest plugin: tests that run on hosts which do not exist.

    @pytest.mark.host("2x24gb")                   the whole test runs on this host
    @pytest.mark.hosts("cpu-only", "faulty/*")    once on each; the names are the ids
    def test_it(simulated_host): ...              the fixture is the `Host`
    pytest --devpolicy-host 2x24gb                the whole run is on this host, from before the collection
    pytest --devpolicy-real                       adds the conformance checks of this machine
    pytest policy/                                runs the `[[test]]`s of the policies there

Owns pytest's hooks: when the simulation of a test begins and ends. pytest loads this module in every run where
devpolicy is installed: it imports nothing but pytest until a test names a host.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy.testing._marks import Asked

MARKS = ("host", "hosts")
SHOWN = ("torch", "transformers", "accelerate", "haystack-ai", "sentence-transformers", "spacy")
"""The libraries whose versions stand in the header: those that ask a machine for its devices."""

HOST = pytest.StashKey["Asked"]()
"""The host that a test is on, in the item's stash once it is there."""
SKIPPED_BEFORE = "devpolicy_skipped_before"
"""On the report of a test that was skipped before it was on its host: the options for it. xdist carries it over."""
_OF_RUN = pytest.StashKey["Asked"]()
"""The host that the whole run is on."""
_LEFT = pytest.StashKey[list[str]]()
"""The processes that a test started, and which are not on its host."""
_REFUSED = pytest.StashKey[str]()
"""What is wrong with the mark of a test's parameter."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, of the command line and of the configuration file."""
    group = parser.getgroup("devpolicy", "simulated hosts (devpolicy)")
    group.addoption("--devpolicy-host", metavar="NAME", help=_HOST)
    group.addoption("--devpolicy-depth", metavar="DEPTH", help=_DEPTH)
    group.addoption("--devpolicy-children", action="store_true", help=_CHILDREN)
    group.addoption(
        "--devpolicy-real",
        action="store_true",
        help="also check this machine: what devpolicy finds here obeys what every host obeys, and agrees with torch",
    )
    parser.addini("devpolicy_host", _HOST, default="")
    parser.addini("devpolicy_depth", _DEPTH, default="")
    parser.addini("devpolicy_children", _CHILDREN, type="bool", default=False)


_HOST = "the host that the whole run is on, from before the collection: a name of the catalogue, or a file"
_DEPTH = "probes (the default), phantom or tensors: of that host, and of marks that say none"
_CHILDREN = "child processes are on the host too"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Enter the host of the run, before a `conftest.py` or a test module asks about devices."""
    options = early_config.known_args_namespace
    name = options.devpolicy_host or early_config.getini("devpolicy_host")
    if not name or options.help:
        return
    if options.devpolicy_real:
        raise pytest.UsageError("--devpolicy-real checks this machine, and --devpolicy-host hides it: give one")
    from devpolicy.testing._suite import enter

    depth = options.devpolicy_depth or early_config.getini("devpolicy_depth") or "probes"
    children = options.devpolicy_children or early_config.getini("devpolicy_children")
    early_config.stash[_OF_RUN] = enter(early_config, name, depth, children=children)


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marks."""
    config.addinivalue_line("markers", "host(name, *, depth=…, children=…): run the test on a simulated host")
    config.addinivalue_line("markers", "hosts(*names, depth=…, children=…): run the test on each; names may be globs")


_LARGEST = 4 << 20
"""Bytes of a policy, as `devpolicy._core.files` has them, which a project without policies need not import."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect policies with tests and files of tests; other TOML is left alone."""
    if file_path.suffix != ".toml" or not _holds_tests(file_path):
        return None
    from devpolicy.testing._policies import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


def _holds_tests(path: Path) -> bool:
    """Ask cheaply first, so that a project full of other TOML pays for nothing."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    top = content.partition(b"\n[")[0]
    if b"test" not in content or (b"[[" not in content and b"test" not in top):
        return False
    from devpolicy._core.language.suite import holds_tests

    return holds_tests(content.decode("utf-8", "replace"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which versions a result is about. None of the libraries is imported."""
    from importlib.metadata import PackageNotFoundError, version

    from devpolicy import __version__

    found = [f"devpolicy {__version__}"]
    for library in SHOWN:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    of_run = config.stash.get(_OF_RUN, None)
    children = " and its children" if of_run and of_run.children else ""
    hosts = [f"simulated host: {of_run.name} at depth {of_run.depth}, for the whole run{children}"] if of_run else []
    return [f"devices: {', '.join(found)}", *hosts]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test the hosts of its nearest mark."""
    test = metafunc.definition
    if not any(mark.name in MARKS for mark in test.iter_markers()):
        return
    from devpolicy.testing._marks import marked

    hosts = marked(test)
    names = [asked.name for asked in hosts]
    if "simulated_host" in metafunc.fixturenames:
        fixtures, values = "_devpolicy_simulation, simulated_host", [(asked, asked) for asked in hosts]
        metafunc.parametrize(fixtures, values, indirect=True, ids=names, scope="function")
    else:
        metafunc.parametrize("_devpolicy_simulation", hosts, indirect=True, ids=names)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put a test on the host of its parameter's mark, as if the host had been another parameter."""
    callspec = getattr(item, "callspec", None)
    marks = [mark for mark in getattr(callspec, "marks", ()) if mark.name in MARKS]
    if callspec is None or not marks:
        return
    from devpolicy.testing._marks import of_parameter

    try:
        asked = of_parameter(item, marks, also="_devpolicy_simulation" in callspec.params)
    except pytest.fail.Exception as refused:
        # An exception here would end the session. It is this test's error.
        item.stash[_REFUSED] = str(refused)
        return
    scope = next(iter(callspec._arg2scope.values()))
    for fixture in ("_devpolicy_simulation", "simulated_host"):
        callspec.params[fixture] = asked
        callspec.indices[fixture] = 0
        callspec._arg2scope[fixture] = type(scope).Function


@pytest.fixture(autouse=True)
def _devpolicy_simulation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test on its host. Autouse fixtures come first, so that the others of the function see the host too."""
    item = request.node
    if _REFUSED in item.stash:
        pytest.fail(item.stash[_REFUSED], pytrace=False)
    asked = _asked(item, getattr(request, "param", None))
    of_run = request.config.stash.get(_OF_RUN, None)
    if asked is None or asked == of_run:
        if of_run is None:
            yield
            return
        item.stash[HOST] = of_run
        with _children(item, of_run):
            yield
        return
    from devpolicy._core.errors import DevPolicyError
    from devpolicy.testing import simulate_host
    from devpolicy.testing._marks import refuse

    try:
        # One test at a time runs in a process, and its threads and event loops belong to it.
        simulation = simulate_host(asked.host, depth=asked.depth, scope="process", children=asked.children)
        simulation.__enter__()
    except DevPolicyError as refused:
        refuse(item, f"`@pytest.mark.host`: {refused}")
    item.stash[HOST] = asked
    try:
        with _children(item, asked):
            yield
    finally:
        simulation.__exit__(None, None, None)


@contextmanager
def _children(item: Any, asked: Asked) -> Iterator[None]:
    """Notice the processes that a test starts, where they are not on its host."""
    if asked.children:
        yield
        return
    from devpolicy.testing._left import noticed

    with noticed() as item.stash[_LEFT]:
        yield


def _asked(item: Any, given: Asked | None) -> Asked | None:
    """Return the host that a test asks for itself: by a mark, or as the value of `simulated_host`."""
    callspec = getattr(item, "callspec", None)
    if given is not None:
        return given
    if callspec is not None and "simulated_host" in callspec.params:
        from devpolicy.testing._marks import of_value

        return of_value(item, callspec.params["simulated_host"])
    # Methods of `unittest.TestCase` cannot be parametrized: their mark is read here.
    if callspec is not None or not any(mark.name in MARKS for mark in item.iter_markers()):
        return None
    from devpolicy.testing._marks import marked, refuse

    hosts = marked(item)
    if len(hosts) > 1:
        refuse(item, "pytest runs a `unittest.TestCase` once: mark it with one `host`")
    return hosts[0]


# Of the session, and set up for each test by its parameter: Hypothesis refuses arguments of function scope, whose
# values would be shared by the examples of a test. A host is a value, so sharing it is right.
@pytest.fixture(scope="session")
def simulated_host(request: pytest.FixtureRequest) -> Host:
    """The `Host` that the test runs on: of its mark `host` or `hosts`, else that of the whole run."""
    given: Any = getattr(request, "param", None) or request.config.stash.get(_OF_RUN, None)
    if given is None:
        pytest.fail(
            'which host? mark the test, as in `@pytest.mark.host("2x24gb")`, or give --devpolicy-host; and name '
            "`simulated_host` among the arguments of the test, or of a fixture that it takes",
            pytrace=False,
        )
    from devpolicy.testing._marks import of_value

    return of_value(request.node, given).host


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the host beside the failure, and note a test that was skipped before it was there."""
    report = yield
    asked = item.stash.get(HOST, None)
    if report.failed and asked is not None:
        from devpolicy._core.simulation.describe import describe

        report.sections.append(("simulated host", describe(asked.host)))
        left = item.stash.get(_LEFT, [])
        if left:
            from devpolicy.testing._left import sentence

            report.sections.append(("processes that left the simulated host", sentence(left, asked.name)))
    if report.skipped and any(mark.name in MARKS for mark in item.iter_markers()):
        from devpolicy.testing._suite import skipped_before

        options = skipped_before(item, report, entered=asked is not None, of_run=item.config.stash.get(_OF_RUN, None))
        if options is not None:
            setattr(report, SKIPPED_BEFORE, options)
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the tests that were skipped before they were on their hosts."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if hasattr(report, SKIPPED_BEFORE)]
    if skipped:
        from devpolicy.testing._suite import tell

        tell(terminalreporter, skipped, config.stash.get(_OF_RUN, None))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the checks of this machine before the tests, where they are asked for."""
    if config.getoption("devpolicy_real"):
        from devpolicy.testing._real import Machine

        checks = Machine.from_parent(session, name="devpolicy", nodeid="devpolicy").collect()
        # So that pytest counts them among what was collected.
        config.hook.pytest_collectreport(report=pytest.CollectReport("devpolicy", "passed", None, [*checks]))
        items[:0] = checks
