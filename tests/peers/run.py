"""Other projects' test suites on simulated GPUs: what they give, beside what was expected.

python -m tests.peers.run [SUITE...] [--files GLOB...] [--hosts HOST...] [--write]

Each suite is a file in `suites/`: a source package of PyPI, its files of tests, and what is expected. The package is
downloaded in the version that is installed here. Its tests run on this machine and on every host of the suite, where
children and their children are too. A run is right where

- each file has as many tests that pass, fail and are skipped as its line says, here and on each host;
- each failure that this machine does not have, and each test that passes on a host alone and runs no operation on as
  many devices as it asks for, is explained by a `[[deviation]]` with a reason, and each deviation occurs.

`--write` puts the numbers that were found into the file, and `python -m tests.peers.page` those into the page. Reasons
are written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.peers.hub import write_hub
from tests.peers.suites import HERE, Counts, Suite, read_suites, unpack, write_counts

LIMIT = 3600
"""Seconds for one run."""
OF_TEST = 600
"""Seconds for one test, with the processes that it starts."""
THIS_MACHINE = "here"

Results = dict[str, dict[str, Any]]
"""By test: its `outcome`, `why`, and the `operations` that ran on each device meanwhile."""


def run(suite: Suite, folder: Path, files: list[str], host: str, hub: Path) -> Results:
    """Run files of tests in one process, as their maintainers do, on a host or on this machine."""
    on = [f"--devpolicy-host={HERE / 'hosts' / host}.toml", "--devpolicy-depth=tensors", "--devpolicy-children"]
    options = ["-q", "-p", "peers_record", "-p", "no:cacheprovider", "--no-header", f"--timeout={OF_TEST}"]
    options += suite.options
    command = [sys.executable, "-m", "pytest", *files, *options, *(on if host != THIS_MACHINE else [])]
    with tempfile.NamedTemporaryFile(suffix=".json") as target:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE / "plugin"), os.environ.get("PYTHONPATH", "")]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HF_HOME": str(hub),
            "DEVPOLICY_PEERS": target.name,
        }
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return {file: {"outcome": "failed", "why": f"they did not end within {LIMIT} s"} for file in files}
        written = Path(target.name).read_text(encoding="utf-8")
    if not written:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return {file: {"outcome": "failed", "why": f"pytest gave {done.returncode}: {last}"} for file in files}
    results: Results = json.loads(written)
    return results


def counts(results: Results, file: str) -> Counts:
    """Return how many tests of a file passed, failed and were skipped."""
    outcomes = [result["outcome"] for name, result in results.items() if name.partition("::")[0] == file]
    return [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]


def odd(here: Results, there: Results) -> dict[str, str]:
    """Return what has to be explained: failures on the host, and tests that pass there alone without its devices.

    What a test asks for is in the reason why it is skipped on a machine without devices.
    """
    found: dict[str, str] = {}
    for name, result in there.items():
        before = here.get(name, {"outcome": "skipped", "why": ""})
        if result["outcome"] == "failed" and before["outcome"] != "failed":
            found[name] = f"failed: {result['why']}"
        if result["outcome"] == "passed" and before["outcome"] != "passed":
            asked = 2 if "multi" in before["why"].lower() else 1
            used = sum(1 for operations in result.get("operations", {}).values() if operations)
            if used < asked:
                found[name] = f"passed with operations on {used} devices, and asks for {asked}"
    return found


def judge(suite: Suite, found: dict[str, dict[str, Counts]], strange: dict[str, dict[str, str]]) -> list[str]:
    """Return what is not as expected, as sentences."""
    said = [
        f"{file}, {host}: {numbers} passed, failed, skipped, and {expected or 'no numbers'} were expected"
        for file, row in found.items()
        for host, numbers in row.items()
        if (expected := suite.counts.get(file, {}).get(host)) != numbers
    ]
    occurred: set[int] = set()
    for host, tests in strange.items():
        for name, what in tests.items():
            reasons = {
                index
                for index, each in enumerate(suite.deviation)
                if fnmatchcase(name, each["test"]) and each.get("host", host) == host
            }
            occurred |= reasons
            if not reasons:
                said.append(f"{name}, {host}: {what}")
    if len(found) == len(suite.files) and not suite.partly:
        gone = [each["test"] for index, each in enumerate(suite.deviation) if index not in occurred]
        said.extend(f"the deviation `{each}` does not occur: take it out" for each in gone)
    return said


def check(suite: Suite, files: list[str], hosts: list[str] | None, hub: Path, *, writes: bool) -> list[str]:
    """Run one suite, or a part of it, and return what is not as expected."""
    if hosts is not None:
        suite = replace(suite, hosts=[host for host in suite.hosts if host in hosts], partly=True)
    chosen = [file for file in suite.files if any(fnmatchcase(file, glob) for glob in files)]
    found: dict[str, dict[str, Counts]] = {file: {} for file in chosen}
    strange: dict[str, dict[str, str]] = {}
    here: Results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = unpack(suite, Path(temporary))
        for host in (THIS_MACHINE, *suite.hosts):
            files_here = [file for file in chosen if host == THIS_MACHINE or host in suite.hosts_of(file)]
            if not files_here:
                continue
            results = run(suite, folder, files_here, host, hub)
            here = here or results
            strange[host] = odd(here, results)
            for file in files_here:
                found[file][host] = counts(results, file)
                print(f"{suite.name} {file} {host}: {found[file][host]}", flush=True)
            print(*(f"    {name}: {what}" for name, what in strange[host].items()), sep="\n", flush=True)
    said = judge(suite, found, strange)
    if writes:
        write_counts(suite, found)
    return [f"{suite.name}: {each}" for each in said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SUITE", help="suites, by the names of their files; all by default")
    parser.add_argument("--files", nargs="+", default=["*"], metavar="GLOB", help="the files of tests to run")
    parser.add_argument("--hosts", nargs="+", metavar="HOST", help="the hosts to run on; all of a suite by default")
    parser.add_argument("--write", action="store_true", help="put the numbers that were found into the files")
    arguments = parser.parse_args()
    suites = [suite for suite in read_suites() if not arguments.names or suite.name in arguments.names]
    # Tests of one suite share ports and folders; two suites do not.
    with tempfile.TemporaryDirectory() as hub, ThreadPoolExecutor(os.cpu_count()) as pool:
        write_hub(Path(hub))  # here, because Transformers cannot be imported by two threads at once
        done = pool.map(
            lambda suite: check(suite, arguments.files, arguments.hosts, Path(hub), writes=arguments.write), suites
        )
        said = [each for some in done for each in some]
    print("\n".join(said) or "all as expected")
    raise SystemExit(bool(said))


if __name__ == "__main__":
    main()
