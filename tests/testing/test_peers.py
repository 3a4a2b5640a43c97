"""What is held of other projects' suites: the page is what their files say, and what is odd in a run is told."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.peers import page, run
from tests.peers.run import judge, odd
from tests.peers.suites import HERE, Suite, read_suites

ALL = ["a.py"]


def result(outcome: str, why: str = "", *operations: int) -> dict[str, Any]:
    used = {f"cuda:{index}": count for index, count in enumerate(operations)}
    return {"outcome": outcome, "why": why, "operations": used}


def test_the_table_of_suites_is_current() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.with_table(text)


def test_numbers_are_of_files_and_hosts_that_a_suite_has() -> None:
    for suite in read_suites():
        for host in suite.hosts:
            assert (HERE / "hosts" / f"{host}.toml").is_file()
        for file, counts in suite.counts.items():
            assert file in suite.files
            assert set(counts) == {"here", *suite.hosts_of(file)}


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        (result("passed"), result("passed", "", 0, 0), False),
        (result("skipped", "requires a GPU"), result("passed", "", 3, 0), False),
        (result("skipped", "requires a GPU"), result("passed", "", 0, 0), True),
        (result("skipped", "requires multiple GPUs"), result("passed", "", 3, 0), True),
        (result("skipped", "requires multiple GPUs"), result("passed", "", 3, 1), False),
        (result("failed", "the hub"), result("failed", "the hub", 0, 0), False),
        (result("passed"), result("failed", "wrong", 3, 3), True),
    ],
)
def test_what_is_odd(here: dict[str, Any], there: dict[str, Any], told: bool) -> None:
    assert bool(odd({"a.py::test": here}, {"a.py::test": there})) == told


def test_a_deviation_needs_a_reason_and_has_to_occur() -> None:
    counts = {"a.py": {"here": [0, 0, 1], "two": [1, 0, 0]}}
    strange = {"two": {"a.py::test": "passed with operations on 0 devices, and asks for 1"}}

    def said(*deviations: dict[str, str]) -> list[str]:
        options: dict[str, Any] = {"package": "a", "what": "", "hosts": ["two"], "files": ALL, "counts": counts}
        return judge(Suite(path=HERE / "a.toml", deviation=list(deviations), **options), counts, strange)

    assert len(said()) == 1
    assert said({"test": "*::test", "reason": "it computes nothing"}) == []
    assert len(said({"test": "*::test", "reason": "", "host": "four"})) == 2


def test_the_hub_is_written_before_suites_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that import Transformers for the first time together find it half loaded.
    threads, seen = [], []

    def write(home: Path) -> None:
        threads.append(threading.current_thread())
        (home / "hub").mkdir()

    def ran(suite: Suite, folder: Path, files: list[str], host: str, hub: Path) -> dict[str, Any]:
        seen.append((hub / "hub").is_dir())
        return {}

    for name, value in (("write_hub", write), ("unpack", lambda suite, folder: folder), ("run", ran)):
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr("sys.argv", ["run"])
    with pytest.raises(SystemExit):
        run.main()
    assert threads == [threading.main_thread()]
    assert seen and all(seen)
