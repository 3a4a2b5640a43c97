"""Which hosts a test names, and what `vary` makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from devpolicy import Host
from devpolicy._core.host.catalogue import catalogue
from devpolicy._core.language.expectations import Dimension, Word
from devpolicy._core.review.hosts import Variant, find_hosts, varied
from devpolicy._core.sizes import GIB
from devpolicy.errors import Diagnostic

OWN = {"small": Host.parse('memory = "8 GiB"'), "2x24gb": Host.parse('memory = "1 GiB"')}


def found(*names: str, folder: Path | None = None) -> list[Variant]:
    findings: list[Diagnostic] = []
    hosts = find_hosts([Word(name) for name in names], OWN, folder, findings)
    assert not findings
    return hosts


def variants(host: str, *dimensions: tuple[str, str, tuple[int, ...]]) -> list[Variant]:
    findings: list[Diagnostic] = []
    made = varied([Variant(host, Host.load(host))], tuple(Dimension(*one) for one in dimensions), findings)
    assert not findings
    return made


def test_a_host_of_the_file_comes_before_one_of_the_catalogue() -> None:
    assert [one.host for one in found("2x24gb", "1x24gb")] == [OWN["2x24gb"], Host.load("1x24gb")]


def test_a_glob_takes_each_host_once() -> None:
    assert [one.name for one in found("?x24gb", "2x24gb")] == ["2x24gb", "1x24gb"]
    assert {one.name for one in found("*")} == {*OWN, *catalogue()}


def test_a_path_is_looked_for_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('memory = "3 GiB"\n')
    (lab,) = found("lab.toml", folder=tmp_path)
    assert lab.host.memory == 3 * GIB


@pytest.mark.parametrize(
    ("name", "help_"), [("2x24g", "did you mean `2x24gb`?"), ("smal", "did you mean `small`?"), ("x*y", "known are")]
)
def test_a_name_that_nothing_has_is_refused_with_the_likely_one(name: str, help_: str) -> None:
    findings: list[Diagnostic] = []
    assert find_hosts([Word(name)], OWN, None, findings) == []
    assert [(one.code, help_ in one.help) for one in findings] == [("DP202", True)]


def test_every_combination_is_a_host_of_its_own() -> None:
    made = variants("2x24gb", ("cuda", "free", (8 * GIB, 22 * GIB)), ("cuda", "count", (1, 2, 3)))
    shapes = [(len(one.host.accelerators), {device.free for device in one.host.accelerators}) for one in made]
    assert shapes == [(count, {free * GIB}) for free in (8, 22) for count in (1, 2, 3)]
    assert str(made[0]) == "2x24gb, cuda.free = 8 GiB, cuda.count = 1"


def test_further_devices_are_like_the_last_one() -> None:
    (made,) = variants("24-24-12-8", ("cuda", "count", (6,)))
    assert [device.id for device in made.host.accelerators] == list(range(6))
    assert made.host.accelerators[5].memory == made.host.accelerators[3].memory


def test_one_device_varies_alone() -> None:
    (made,) = variants("2x24gb", ("cuda:1", "free", (GIB,)))
    before = Host.load("2x24gb").accelerators
    assert [device.free for device in made.host.accelerators] == [before[0].free, GIB]


def test_of_another_total_as_much_is_taken_as_before() -> None:
    before = Host.load("2x24gb")
    (made,) = variants("2x24gb", ("", "memory", (64 * GIB,)))
    assert made.host.memory - made.host.free == before.memory - before.free
    (tiny,) = variants("2x24gb", ("", "memory", (GIB,)))
    assert tiny.host.free == 0


def test_more_free_than_there_is_in_total_is_left_out() -> None:
    made = variants("1x24gb", ("cuda", "free", (4 * GIB, 12 * GIB)), ("cuda", "memory", (8 * GIB, 16 * GIB)))
    assert [dict(one.varied) for one in made] == [
        {"cuda.free": "4 GiB", "cuda.memory": "8 GiB"},
        {"cuda.free": "4 GiB", "cuda.memory": "16 GiB"},
        {"cuda.free": "12 GiB", "cuda.memory": "16 GiB"},
    ]


def test_what_a_host_has_not_got_does_not_vary_on_it() -> None:
    findings: list[Diagnostic] = []
    base = [Variant(name, Host.load(name)) for name in ("cpu-only", "1x8gb")]
    made = varied(base, (Dimension("cuda", "count", (0, 1, 2)),), findings)
    assert [str(one) for one in made] == [
        "cpu-only",
        "1x8gb, cuda.count = 0",
        "1x8gb, cuda.count = 1",
        "1x8gb, cuda.count = 2",
    ]
    assert not findings


@pytest.mark.parametrize(
    ("host", "dimension", "said"),
    [
        ("cpu-only", Dimension("cuda", "free", (GIB,)), "none of these hosts has what `cuda.free` varies"),
        ("2x24gb", Dimension("cuda:7", "free", (GIB,)), "none of these hosts has what `cuda:7.free` varies"),
        ("1x8gb", Dimension("cuda", "free", (GIB, 90 * GIB)), "`cuda.free` is never 90 GiB"),
    ],
)
def test_a_variation_without_effect_is_an_error(host: str, dimension: Dimension, said: str) -> None:
    findings: list[Diagnostic] = []
    varied([Variant(host, Host.load(host))], (dimension,), findings)
    assert [one.code for one in findings] == ["DP106"]
    assert said in findings[0].message
