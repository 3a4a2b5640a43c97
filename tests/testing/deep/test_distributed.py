"""Ranks on simulated GPUs, beside the same ranks on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devpolicy.testing import simulate_host

torch = pytest.importorskip("torch")
ranks = pytest.importorskip("tests.testing.deep.ranks")


def _run(folder: Path, backend: str, device: str) -> list[dict[str, Any]]:
    folder.mkdir()
    torch.multiprocessing.spawn(ranks.begin, args=(str(folder), backend, device), nprocs=ranks.WORLD)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks.WORLD)]


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _run(tmp_path_factory.mktemp("ranks") / "cpu", "gloo", "cpu")


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_ranks_on_gpus_get_the_bits_of_ranks_on_the_cpu(
    tmp_path: Path, on_the_cpu: list[dict[str, Any]], backend: str
) -> None:
    with simulate_host("2x24gb", depth="tensors", children=True):
        found = _run(tmp_path / "gpus", backend, "cuda")
    for here, there in zip(on_the_cpu, found, strict=True):
        differ = {name: (result, there[name]) for name, result in here.items() if there[name] != result}
        assert not differ


def test_a_group_outlives_its_host_and_takes_none_of_the_next(tmp_path: Path) -> None:
    dist = torch.distributed
    for number, host in enumerate(("2x24gb", "1x24gb")):
        with simulate_host(host, depth="tensors"):
            dist.init_process_group("nccl", init_method=f"file://{tmp_path}/{number}", rank=0, world_size=1)
            values = torch.ones(3, device="cuda")
            dist.all_reduce(values)
            assert values.tolist() == [1, 1, 1]
            with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
                dist.all_reduce(torch.ones(3))
            gathered = torch.zeros(3, device="cuda")
            dist.all_gather_single(gathered, values.view(1, 3))  # it counts elements, and compares no shapes
            assert gathered.tolist() == [1, 1, 1]
            assert dist.is_nccl_available()
            dist.destroy_process_group()
    assert not dist.is_nccl_available()
    assert not hasattr(dist, "ProcessGroupNCCL")


def test_a_rank_that_never_comes_keeps_nobody_from_beginning(tmp_path: Path) -> None:
    dist = torch.distributed
    with simulate_host("2x24gb", depth="tensors"):
        dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=2)
        assert (dist.get_rank(), dist.get_world_size()) == (0, 2)
        dist.destroy_process_group()


def test_two_ranks_of_three_talk_alone(tmp_path: Path) -> None:
    with simulate_host("4x80gb", depth="tensors", children=True):
        torch.multiprocessing.spawn(ranks.talk, args=(str(tmp_path),), nprocs=2)
    assert json.loads((tmp_path / "rank0.json").read_text()) == [2, 2]
