"""The pytest plugin: tests that run on hosts which do not exist.

    @pytest.mark.host("2x24gb")                   the whole test runs on this host
    @pytest.mark.hosts("cpu-only", "8x80gb")      once on each; the names are the ids
    def test_it(simulated_host): ...              the fixture is the `Host`; unmarked tests take --devpolicy-host
    pytest --devpolicy-real                       adds the conformance checks of this machine
    pytest policy/                                runs the `[[test]]`s of the policies there

Owns how a test says its host, and when the simulation begins and ends. pytest loads this module in every run where
devpolicy is installed: it imports nothing but pytest until a test names a host.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from devpolicy._core.host import Host

MARKS = ("host", "hosts")
SHOWN = ("torch", "transformers", "accelerate", "haystack-ai", "sentence-transformers", "spacy")
"""The libraries whose versions stand in the header: those that ask a machine for its devices."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The host that a test asked for, by what name, and at which depth it is simulated."""

    name: str
    host: Host
    depth: str = "probes"


HOST = pytest.StashKey[Asked]()
"""The host of a test that runs on one, in the item's stash."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("devpolicy", "simulated hosts (devpolicy)")
    group.addoption(
        "--devpolicy-host",
        metavar="NAME",
        help="the host of tests that take the fixture `simulated_host` and have no mark: a catalogue name or a file",
    )
    group.addoption(
        "--devpolicy-real",
        action="store_true",
        help="also check this machine: what devpolicy finds here obeys what every host obeys, and agrees with torch",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marks, and refuse an unknown default host at once."""
    config.addinivalue_line("markers", "host(name, *, depth='probes'): run the test on a simulated host")
    config.addinivalue_line("markers", "hosts(*names, depth='probes'): run the test on each of these simulated hosts")
    name = config.getoption("devpolicy_host")
    if name is not None:
        try:
            config.stash[_DEFAULT] = _load(name, config.invocation_params.dir)
        except ValueError as refused:
            raise pytest.UsageError(f"--devpolicy-host: {refused}") from None


_DEFAULT = pytest.StashKey["Host"]()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect policies with tests and files of tests; other TOML is left alone."""
    if file_path.suffix != ".toml" or not _holds_tests(file_path):
        return None
    from devpolicy.testing._policies import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


def _holds_tests(path: Path) -> bool:
    """Ask cheaply first, so that a project full of other TOML pays for nothing."""
    from devpolicy._core.errors import DevPolicyError
    from devpolicy._core.files import LARGEST_FILE, read_file

    try:
        content = read_file(path, DevPolicyError, most=LARGEST_FILE)
    except DevPolicyError:
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
    default = config.getoption("devpolicy_host")
    hosts = [f"simulated host: {default}, for tests that name none"] if default else []
    return [f"devices: {', '.join(found)}", *hosts]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its hosts: those of its nearest mark, else the default where it takes `simulated_host`."""
    test, wanted = metafunc.definition, "simulated_host" in metafunc.fixturenames
    hosts = _marked(test) or (_default(test.config) if wanted else [])
    if not hosts:
        return
    names = [asked.name for asked in hosts]
    if wanted:
        fixtures, values = "_devpolicy_simulation, simulated_host", [(asked, asked) for asked in hosts]
        metafunc.parametrize(fixtures, values, indirect=True, ids=names, scope="function")
    else:
        metafunc.parametrize("_devpolicy_simulation", hosts, indirect=True, ids=names)


@pytest.fixture(autouse=True)
def _devpolicy_simulation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test on its host. Autouse fixtures come first, so that the others of the function see the host too."""
    asked: Asked | None = getattr(request, "param", None)
    callspec = getattr(request.node, "callspec", None)
    if any(mark.name in MARKS for mark in getattr(callspec, "marks", ())):
        _refuse(request.node, "a mark of a parameter gives no host: mark the test, or enter `simulate_host` in it")
    if asked is None and callspec is None:
        # Methods of `unittest.TestCase` cannot be parametrized: their mark is read here.
        marked = _marked(request.node)
        if len(marked) > 1:
            _refuse(request.node, "pytest runs a `unittest.TestCase` once: mark it with one `host`")
        asked = marked[0] if marked else None
    if asked is None:
        yield
        return
    from devpolicy._core.errors import DevPolicyError
    from devpolicy.testing import simulate_host

    request.node.stash[HOST] = asked
    try:
        # One test at a time runs in a process, and its threads and event loops belong to it.
        simulation = simulate_host(asked.host, depth=asked.depth, scope="process")
    except DevPolicyError as refused:
        _refuse(request.node, f"`@pytest.mark.host`: {refused}")
    with simulation:
        yield


# Of the session, and set up for each test by its parameter: Hypothesis refuses arguments of function scope, whose
# values would be shared by the examples of a test. A host is a value, so sharing it is right.
@pytest.fixture(scope="session")
def simulated_host(request: pytest.FixtureRequest) -> Host:
    """The `Host` that the test runs on: of its mark `host` or `hosts`, else of --devpolicy-host."""
    asked: Asked | None = getattr(request, "param", None)
    if asked is None:
        pytest.fail(
            'which host? mark the test, as in `@pytest.mark.host("2x24gb")`, or give --devpolicy-host; and name '
            "`simulated_host` among the arguments of the test, or of a fixture that it takes",
            pytrace=False,
        )
    return asked.host


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the host beside the failure."""
    report = yield
    asked = item.stash.get(HOST, None)
    if report.failed and asked is not None:
        from devpolicy._core.simulation.describe import describe

        report.sections.append(("simulated host", describe(asked.host)))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the checks of this machine before the tests, where they are asked for."""
    if config.getoption("devpolicy_real"):
        from devpolicy.testing._real import Machine

        checks = Machine.from_parent(session, name="devpolicy", nodeid="devpolicy").collect()
        # So that pytest counts them among what was collected.
        config.hook.pytest_collectreport(report=pytest.CollectReport("devpolicy", "passed", None, [*checks]))
        items[:0] = checks


def _marked(test: Any) -> list[Asked]:
    """Return the hosts of the nearest mark: the function's, before its class's, before its module's."""
    nearest: tuple[Any, pytest.Mark] | None = None
    for node, mark in test.iter_markers_with_node():
        if mark.name not in MARKS:
            continue
        if nearest is None:
            nearest = node, mark
        elif nearest[0] is node:
            _refuse(test, "it has two marks of hosts: write one `hosts` that names them all")
    return [] if nearest is None else _hosts(test, nearest[1])


def _hosts(test: Any, mark: pytest.Mark) -> list[Asked]:
    depth = mark.kwargs.get("depth", "probes")
    if set(mark.kwargs) - {"depth"} or not mark.args or (mark.name == "host" and len(mark.args) > 1):
        example = 'host("2x24gb")' if mark.name == "host" else 'hosts("cpu-only", "8x80gb")'
        _refuse(test, f"write `@pytest.mark.{example}`, with names of the catalogue, files or hosts")
    return [_asked(test, mark, given, depth, number) for number, given in enumerate(mark.args)]


def _asked(test: Any, mark: pytest.Mark, given: Any, depth: str, number: int) -> Asked:
    from devpolicy._core.host import Host

    if isinstance(given, Host):
        return Asked(given.name or f"{mark.name}{number}", given, depth)
    try:
        return Asked(_short(given), _load(given, test.config.rootpath), depth)
    except ValueError as refused:
        return _refuse(test, f"`@pytest.mark.{mark.name}`: {refused}")


def _default(config: pytest.Config) -> list[Asked]:
    host = config.stash.get(_DEFAULT, None)
    return [] if host is None else [Asked(_short(config.getoption("devpolicy_host")), host)]


def _short(name: Any) -> str:
    return Path(name).stem if str(name).endswith(".toml") else str(name)


def _load(name: Any, folder: Path) -> Host:
    """Return a host by catalogue name, or from a file that a relative path names from `folder`. Raises `HostError`."""
    from devpolicy._core.host import Host

    is_file = isinstance(name, Path) or (isinstance(name, str) and name.endswith(".toml"))
    return Host.load(folder / name if is_file else name)


def _refuse(test: Any, message: str) -> NoReturn:
    """Make it an error of the collection, without a traceback."""
    raise pytest.fail.Exception(f"{test.nodeid}: {message}", pytrace=False) from None
