"""The one rule: exit status 0 to 3, no traceback, within time and memory, nothing touched outside of the folder.

Owns how a case is run: in a process that is forked for it, with limits, and with an audit hook that notes what it
opens for writing, connects to, starts, and imports. Some run as the installed command too, whose processes are guarded.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any, NamedTuple

from devpolicy._core.model.limits import LONGEST_BUILD, MOST_BUILD_MEMORY
from tests.attack.case import DRY_RUN_SECONDS, Case
from tests.attack.doors import DOORS
from tests.attack.guard.sitecustomize import changed, is_outside

SECONDS = 30
"""CPU time of one command."""
BUILT = {"config", "header", "index", "hub", "folder", "loading", "dry run"}
"""Doors where a model may be built, which takes as long as its limit says."""
MEMORY = 2 << 30
"""Bytes that one command may take beside what its libraries take."""
_GUARD = Path(__file__).parent / "guard"
_NEVER_MARKUP = {"img", "iframe", "object", "embed", "link", "base", "a", "image", "foreignobject"}
_SCRIPTS = 2
"""Of a page: its data and its own."""
_WALL = 240
"""Seconds after which a command hangs: it waits, and computes nothing."""

_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)
_NEVER = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "pty.spawn",
}


class Verdict(NamedTuple):
    """What a case came to: its faults, none where all is well."""

    door: str
    seed: int
    arguments: list[str]
    faults: list[str]
    seconds: float
    peak: int


def try_one(door: str, seed: int, folder: Path, *, installed: bool = False) -> Verdict:
    """Make one input and run its command. The folder of a case that broke the rule is kept."""
    case_folder = folder / f"{door.replace(' ', '-')}-{seed}"
    work = case_folder / "work"
    work.mkdir(parents=True)
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _in_child(door, seed, case_folder, installed=installed)
    status, peak = _wait(pid)
    seconds = time.monotonic() - begun
    faults = _faults(status, case_folder) + _of_memory(door, peak)
    arguments = (
        (case_folder / "arguments").read_text(errors="replace").split("\n")
        if (case_folder / "arguments").exists()
        else []
    )
    if not faults:
        shutil.rmtree(case_folder)
    return Verdict(door, seed, arguments, faults, seconds, peak)


def _wait(pid: int) -> tuple[int | str, int]:
    """Wait for a child, as long as one may take."""
    deadline = time.monotonic() + _WALL
    while time.monotonic() < deadline:  # ends: by the clock
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else signal.Signals(-code).name), usage.ru_maxrss
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hangs", 0


def _of_memory(door: str, peak: int) -> list[str]:
    """Return the fault of a case that took too much, whichever of its processes: the libraries are in this one too."""
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = libraries + ((MOST_BUILD_MEMORY if door in BUILT else MEMORY) >> 10)
    return [f"it takes {peak >> 10} MB of memory, more than {most >> 10} MB"] if peak > most else []


def _faults(status: int | str, folder: Path) -> list[str]:
    out, err, noted = (
        (folder / name).read_text(encoding="utf-8", errors="replace") if (folder / name).exists() else ""
        for name in ("out", "err", "noted")
    )
    faults = [] if status in (0, 1, 2, 3) else [f"exit status: {status}"]
    faults += [] if (folder / "arguments").exists() else ["no input was made"]
    faults += ["a traceback"] if "Traceback (most recent call last)" in out + err else []
    faults += noted.splitlines()
    faults += ["code of the input ran"] if (folder / "work" / "PWNED").exists() else []
    for page in (folder / "work").glob("r.*"):
        faults += _markup(page.read_text(encoding="utf-8", errors="replace"), _SCRIPTS if page.suffix == ".html" else 0)
    for policy in (folder / "work").rglob("policy.toml"):
        faults += _not_a_policy(policy)
    arguments = (folder / "arguments").read_text(errors="replace") if (folder / "arguments").exists() else ""
    rules = [] if "github" in arguments else [_COMMAND]
    rules += [] if any(form in arguments for form in ("github", "junit", "sarif", "json\n--")) else [_UNSEEN]
    faults += [f"not shown as text: {found[0]!a}" for rule in rules if (found := rule.search(out + err))]
    return list(dict.fromkeys(faults))[:8]


class _Page(HTMLParser):
    """The markup of a page that its own text cannot have."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        odd = tag in _NEVER_MARKUP or any(key.startswith("on") or key in ("src", "href") for key, _ in attrs)
        self.found += [f"markup of the input: <{tag}>"] if odd else []

    def handle_comment(self, data: str) -> None:
        self.found.append("a comment of the input")


def _not_a_policy(path: Path) -> list[str]:
    from devpolicy import Policy
    from devpolicy.errors import DevPolicyError

    try:
        Policy.load(path)
    except DevPolicyError as refused:
        return [f"a policy that was written is none: {refused}"[:200]]
    return []


def _markup(page: str, scripts: int) -> list[str]:
    parser = _Page()
    parser.feed(page)
    parser.close()
    return parser.found + ([f"{parser.scripts} scripts"] if parser.scripts != scripts else [])


def _in_child(door: str, seed: int, folder: Path, *, installed: bool) -> None:
    status = 99
    try:
        os.setsid()
        home = folder / "home"
        home.mkdir()
        os.environ |= dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"), str(home))
        tempfile.tempdir = str(home)  # it was asked for before
        sys.dont_write_bytecode = True  # what is imported first would be compiled beside its source
        os.chdir(folder / "work")
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.RLIM_INFINITY))  # to make the input
        case = DOORS[door](Random(f"{door} {seed}"))
        # What no shell can hand over: a NUL, and half of a character.
        case = case._replace(arguments=[one.replace("\0", "").replace("\ud800", "\udcff") for one in case.arguments])
        (folder / "arguments").write_text("\n".join(case.arguments), errors="replace")
        noted = os.open(folder / "noted", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, name in ((0, os.devnull), (1, folder / "out"), (2, folder / "err")):
            opened = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - they have no path
            for number, mode in enumerate("rww")
        )
        os.environ |= case.environment
        spent = round(time.process_time())  # to make the input
        limit = spent + SECONDS + (LONGEST_BUILD if door in BUILT else 0)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        if case.packages:
            sys.path.insert(0, str(Path(case.packages).absolute()))
        outside = case.outside or (installed and case.answer is None)
        status = _run_installed(case, folder) if outside else _run_here(case, folder, noted)
    except BaseException:  # noqa: BLE001 - whatever it is, it is judged
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_installed(case: Case, folder: Path) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    command = Path(sys.executable).with_name("devpolicy")
    path = [str(_GUARD), *([str(Path(case.packages).absolute())] if case.packages else [])]
    guarded = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ATTACK_FOLDER": os.path.realpath(folder),
        "ATTACK_NOTED": str(folder / "noted"),
    }
    environment = os.environ | guarded
    done = subprocess.run([command, *case.arguments], stdin=subprocess.DEVNULL, env=environment, check=False)
    return done.returncode if done.returncode >= 0 else 98


def _run_here(case: Case, folder: Path, noted: int) -> int:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.addaudithook(_Watch(os.path.realpath(folder), noted, case.server, case.packages))
    if case.answer is not None:
        return _asked(*case.answer)
    from devpolicy._core.cli import main

    sys.argv = ["devpolicy", *case.arguments]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 97


def _asked(question: str, given: Any) -> int:
    from devpolicy.errors import DevPolicyError

    try:
        print(ascii(_QUESTIONS[question](given)))
    except DevPolicyError as error:
        print(error)
        return error.exit_status
    return 0


def _device(given: Any) -> object:
    import devpolicy

    return devpolicy.ComponentDevice.from_dict(given).to_dict()


def _dry_run(_: Any) -> object:
    """What the child of a dry run does, in this process, which is watched."""
    import devpolicy
    from devpolicy._core.dry_run import checkpoint, configured, verb
    from devpolicy.errors import DevPolicyError

    checkpoint._MEMORY = Path("no such place")  # but the folder, where its files are seen
    # The one that asks ends a child at its limit.
    Timer(DRY_RUN_SECONDS, os._exit, [DevPolicyError.exit_status]).start()
    tree = devpolicy.ModelTree.load("config.json")
    host = devpolicy.Host.load("1x24gb")
    plan = devpolicy.plan("prefer-accelerator", tree, host)
    request = replace(verb.request_of(plan, tree, host, (1, 32, 4, 1)), folder=".")
    return configured.run_configured(request, lambda done, of: None).to_dict()


_QUESTIONS: dict[str, Callable[[Any], object]] = {"device": _device, "dry run": _dry_run}


class _Watch:
    """Notes what is done outside of a folder, and what is never done, and keeps it from being done."""

    def __init__(self, folder: str, noted: int, server: str | None, packages: str | None) -> None:
        self.folder, self.noted, self.server = folder, noted, server
        self.packages = os.path.realpath(packages) if packages else None

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        for path in changed(event, args):
            if is_outside(path, self.folder):
                self._note(f"{event} {path!a}")
        if event == "import" and isinstance(args[1], str) and self._is_of_the_input(args[1]):
            self._note(f"imports {args[1]!a}")
        elif event in _NEVER and not self._is_server(event, args):
            self._note(f"{event} {args[0]!a}"[:200])

    def _is_server(self, event: str, args: tuple[Any, ...]) -> bool:
        if self.server is None or not event.startswith("socket."):
            return False
        host, _, port = self.server.removeprefix("http://").partition(":")
        asked = args[1][:2] if event == "socket.connect" else args[:2]
        return tuple(map(str, asked)) == (host, port)

    def _is_of_the_input(self, file: str) -> bool:
        return not is_outside(file, self.folder) and (self.packages is None or is_outside(file, self.packages))

    def _note(self, what: str) -> None:
        os.write(self.noted, f"{what}\n".encode())
        raise PermissionError(f"an attack {what}")
