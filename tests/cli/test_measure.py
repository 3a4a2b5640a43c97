"""`host measure`: what is measured is written, whole or not at all; the benchmarks themselves are made short here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cli.harness import invoke

from devpolicy import Host
from devpolicy._core.host.probe import measure as module
from devpolicy._core.host.probe.measure import measure
from devpolicy.errors import HostError


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILE", 1 << 20)
    monkeypatch.setattr(module, "_TENSOR", 3 << 18)  # the last one is shorter
    monkeypatch.setattr(module, "_COPIED", 1 << 20)
    try:
        from devpolicy._core.host.probe import torch_rates
    except ImportError:
        return
    for name, value in (("_READ", 1 << 20), ("_SIDE", 64), ("_RUNS", 1)):
        monkeypatch.setattr(torch_rates, name, value)


def test_without_torch_ram_and_the_disk_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    told: list[str] = []
    done = measure(Host(memory="8 GiB", speed={"link": 5}), folder=tmp_path, progress=told.append)
    assert {name for name, _ in done.host.speed} == {"ram", "disk", "link"}
    assert (dict(done.host.speed)["link"], told) == (5, ["the disk", "RAM"])
    assert "for want of torch" in done.left_out[0]
    assert list(tmp_path.iterdir()) == []


def test_each_accelerator_and_each_dtype_of_the_cpu_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from devpolicy import Accelerator

    host = Host([Accelerator("cuda", memory="8 GiB")], memory="8 GiB")
    done = measure(host, folder=tmp_path)
    names = {name for name, _ in done.host.speed}
    assert names == {
        "disk", "call_ns", "ram", "ram_bfloat16", "ram_float16", "matmul_float32", "matmul_bfloat16", "matmul_float16",
        *(("onload_ns",) if find_spec("transformers") and find_spec("accelerate") else ()),
    }  # fmt: skip
    assert all(value > 0 for _, value in done.host.speed)
    assert done.host.measured
    # No GPU here: it says so, and what is known of it stays.
    assert done.left_out == ("`cuda:0`: torch sees no `cuda` device",)
    assert done.host.accelerators == host.accelerators
    assert Host.parse(done.host.to_toml()) == done.host


def test_a_folder_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="the disk cannot be measured"):
        measure(Host(memory="8 GiB"), folder=tmp_path / "no")


def test_what_is_written_is_not_replaced_without_force(tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    done = invoke("host", "measure", "--output", str(file))
    assert (done.stdout, done.status) == ("", 0)
    assert "measuring the disk" in done.stderr
    written = file.read_bytes()
    host = Host.load(file)
    assert host.measured
    assert dict(host.speed)["disk"] > 0
    again = invoke("host", "measure", "--output", str(file))
    assert again.status == 2
    assert "is there already, and is not replaced" in again.stderr
    assert "measuring" not in again.stderr
    assert file.read_bytes() == written
    assert invoke("host", "capture", "--measure", "--force", "--output", str(file)).status == 0
    planned = invoke("plan", "cpu-only", "--set", "split=fastest", "--model", "bert-base", "--host", str(file))
    assert f"speeds measured on {Host.load(file).measured}" in " ".join(planned.stdout.split())
