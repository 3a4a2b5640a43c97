"""Other projects' test suites on simulated GPUs: what they give, beside what was expected.

python -m tests.peers.run [NAME...] [--write]

Each suite is a file in `suites/`: a source package of PyPI, its test files, a host, and what is expected. The package
is downloaded in the version that is installed here, and its tests run twice, on this machine and on the host, where
children and their children are too. A run is right where

- each file has as many tests that pass, fail and are skipped on the host as its line says;
- each failure that this machine does not have, and each test that passes on the host alone without an operation on its
  devices, is explained by a `[[deviation]]` with a reason, and each deviation occurs.

`--write` puts the numbers that were found into the file. Reasons are written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT = 600
"""Seconds for one file of tests."""

Results = dict[str, dict[str, Any]]
Counts = dict[str, list[int]]


def source(package: str, folder: Path) -> Path:
    """Download a source package in the version that is installed, and return the folder of its files."""
    named = f"{package}=={version(package)}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*pip, named], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def run(suite: dict[str, Any], folder: Path, file: str, host: Path | None) -> Results:
    """Run one file of tests, on a host or on this machine."""
    target = folder / "results.json"
    target.unlink(missing_ok=True)
    on = [f"--devpolicy-host={host}", "--devpolicy-depth=tensors", "--devpolicy-children"] if host else []
    options = ["-q", "-p", "peers_record", "-p", "no:cacheprovider", "--no-header", *on, *suite.get("options", [])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DEVPOLICY_PEERS": str(target),
    }
    command = [sys.executable, "-m", "pytest", file, *options]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {file: {"outcome": "failed", "why": f"it did not end within {LIMIT} s", "operations": 0}}
    if not target.exists():
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return {file: {"outcome": "failed", "why": f"pytest gave {done.returncode}: {last}", "operations": 0}}
    results: Results = json.loads(target.read_text(encoding="utf-8"))
    return results


def counts(results: Results) -> list[int]:
    """Return how many passed, failed and were skipped."""
    outcomes = [result["outcome"] for result in results.values()]
    return [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]


def odd(here: Results, there: Results) -> dict[str, str]:
    """Return what has to be explained: failures on the host, and tests that pass there alone and use no device."""
    found: dict[str, str] = {}
    for name, result in there.items():
        before = here.get(name, {"outcome": "skipped"})["outcome"]
        alone = before != "passed"
        if result["outcome"] == "failed" and before != "failed":
            found[name] = f"failed: {result['why']}"
        if result["outcome"] == "passed" and alone and not result.get("operations"):
            found[name] = "passed without an operation on a device"
    return found


def judge(suite: dict[str, Any], found: Counts, strange: dict[str, str]) -> list[str]:
    """Return what is not as expected, as sentences."""
    said = [
        f"{file}: {there} passed, failed, skipped on the host, and {expected} were expected"
        for file, there in found.items()
        if (expected := suite.get("counts", {}).get(file)) != there
    ]
    deviations = suite.get("deviation", [])
    for name, what in strange.items():
        if not any(fnmatchcase(name, each["test"]) for each in deviations):
            said.append(f"{name}: {what}")
    for each in deviations:
        if not any(fnmatchcase(name, each["test"]) for name in strange):
            said.append(f"the deviation `{each['test']}` does not occur: take it out")
    return said


def write(path: Path, found: Counts) -> None:
    """Replace the table of counts, which ends the file."""
    head = path.read_text(encoding="utf-8").partition("\n[counts]")[0].rstrip()
    lines = [f'"{file}" = [{", ".join(map(str, numbers))}]' for file, numbers in found.items()]
    path.write_text("\n".join([head, "", "[counts]", *lines, ""]), encoding="utf-8")


def check(path: Path, *, writes: bool) -> list[str]:
    """Run one suite and return what is not as expected."""
    suite = tomllib.loads(path.read_text(encoding="utf-8"))
    host = HERE / "hosts" / suite["host"]
    found: Counts = {}
    strange: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = source(suite["package"], Path(temporary))
        for file in suite["files"]:
            here, there = run(suite, folder, file, None), run(suite, folder, file, host)
            found[file] = counts(there)
            new = odd(here, there)
            strange |= new
            print(f"{path.stem} {file}: {counts(here)} here, {found[file]} on the host", flush=True)
            for name, what in new.items():
                print(f"    {name}: {what}", flush=True)
    if writes:
        write(path, found)
        suite["counts"] = found
    return judge(suite, found, strange)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="suites, by the names of their files; all by default")
    parser.add_argument("--write", action="store_true", help="put the numbers that were found into the files")
    arguments = parser.parse_args()
    paths = sorted((HERE / "suites").glob("*.toml"))
    chosen = [path for path in paths if not arguments.names or path.stem in arguments.names]
    said = [f"{path.stem}: {each}" for path in chosen for each in check(path, writes=arguments.write)]
    print("\n".join(said) or "all as expected")
    raise SystemExit(bool(said))


if __name__ == "__main__":
    main()
