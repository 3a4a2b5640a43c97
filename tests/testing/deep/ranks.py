"""What ranks do in tests/testing/deep/test_distributed.py: collectives, and 50 steps of training in each way.

A process for each rank runs `begin`, on GPUs or on the CPU, and writes what it got as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

STEPS = 50
WORLD = 2


def begin(rank: int, folder: str, backend: str, device: str) -> None:
    """Run everything as one of the ranks."""
    torch.set_num_threads(1)
    here = torch.device("cpu") if device == "cpu" else torch.device(device, rank)
    if here.type == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    found: dict[str, Any] = {name: _told(call) for name, call in collectives(here, rank)}
    found |= {name: train(make(here, rank), here, scale(name, rank)) for name, make in WAYS.items()}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def talk(rank: int, folder: str) -> None:
    """Send something there and back as one of two ranks of a group of three, whose third never comes."""
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    values = torch.full((2,), rank, device="cuda")
    if rank == 0:
        dist.recv(values, 1)
        dist.send(values + 1, 1)
    else:
        dist.send(values, 0)
        dist.recv(values, 0)
    Path(folder, f"rank{1 - rank}.json").write_text(json.dumps(values.tolist()), encoding="utf-8")


def _told(call: Callable[[], Any]) -> Any:
    """Return a result as lists of numbers, or the error's first words."""
    try:
        result = call()
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return result.cpu().tolist() if isinstance(result, torch.Tensor) else result


def collectives(device: torch.device, rank: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield collectives by name; each returns what its rank has afterwards."""

    def own(count: int = 6) -> torch.Tensor:
        return (torch.arange(count, dtype=torch.float32) * 0.37 + rank).to(device)

    def room(count: int) -> torch.Tensor:
        return torch.zeros(count, device=device)

    def rooms(count: int) -> list[torch.Tensor]:
        return [room(count) for _ in range(WORLD)]

    def inplace(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            values = own()
            call(values, *args, **kwargs)
            return values

        return run

    def into(target: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            call(target, *args, **kwargs)
            return torch.cat(target) if isinstance(target, list) else target

        return run

    def send_and_receive() -> torch.Tensor:
        values = own()
        for work in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, own(), 1 - rank), dist.P2POp(dist.irecv, values, 1 - rank)]
        ):
            work.wait()
        dist.send(values * 3, 1) if rank == 0 else dist.recv(values, 0)
        return values

    def asynchronous() -> Any:
        values = own()
        work = dist.all_reduce(values, async_op=True)
        assert work is not None
        work.wait()
        (result,) = work.get_future().wait()
        assert result.device == device
        return result

    def functional() -> torch.Tensor:
        from torch.distributed import _functional_collectives as functions

        return functions.all_reduce(own(), "sum", dist.group.WORLD) + 0

    def objects() -> list[Any]:
        found: list[Any] = [None] * WORLD
        dist.all_gather_object(found, {"rank": rank})
        return found

    def of_a_group() -> torch.Tensor:
        group = dist.new_group([0, 1])
        return inplace(dist.all_reduce, group=group)()

    for operation in ("SUM", "AVG", "MAX", "PRODUCT"):
        yield f"all_reduce {operation}", inplace(dist.all_reduce, op=getattr(dist.ReduceOp, operation))
    for operation in ("SUM", "AVG"):
        kind = getattr(dist.ReduceOp, operation)
        yield f"reduce_scatter_tensor {operation}", into(room(3), dist.reduce_scatter_single, own(), op=kind)
        yield f"reduce_scatter {operation}", into(room(3), dist.reduce_scatter, list(own().split(3)), op=kind)
    yield "broadcast", inplace(dist.broadcast, 1)
    yield "all_gather", into(rooms(6), dist.all_gather, own())
    yield "all_gather_into_tensor", into(room(12), dist.all_gather_single, own())
    yield "all_to_all_single", into(room(6), dist.all_to_all_single, own())
    yield "all_to_all", into(rooms(3), dist.all_to_all, list(own().split(3)))
    yield "scatter", into(room(3), dist.scatter, list(own().split(3)) if rank == 0 else None, 0)
    yield "send and receive", send_and_receive
    yield "asynchronous", asynchronous
    yield "functional", functional
    yield "objects", objects
    yield "of a group", of_a_group


# Training.


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 4))


def data_parallel(device: torch.device, rank: int) -> nn.Module:
    return nn.parallel.DistributedDataParallel(
        _model().to(device), device_ids=[rank] if device.type == "cuda" else None
    )


def fully_sharded(device: torch.device, rank: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (WORLD,))
    model = _model().to(device)
    for layer in (model[0], model[2], model[4]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fully_sharded_wrapper(device: torch.device, rank: int) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    if device.type == "cpu":
        return fully_sharded(device, rank)  # the older one is for accelerators only, and takes the same steps
    return FullyShardedDataParallel(_model().to(device), use_orig_params=True, device_id=device)


def tensor_parallel(device: torch.device, rank: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh(device.type, (WORLD,))
    return parallelize_module(_model().to(device), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


WAYS: dict[str, Callable[[torch.device, int], nn.Module]] = {
    "DDP": data_parallel,
    "FSDP2": fully_sharded,
    "FSDP1": fully_sharded_wrapper,
    "tensor parallel": tensor_parallel,
}


def scale(way: str, rank: int) -> int:
    """Return what a rank's inputs are multiplied with: the ranks of a tensor parallel model get the same inputs."""
    return 1 if way == "tensor parallel" else 1 + rank


def train(model: nn.Module, device: torch.device, factor: int) -> str:
    """Return a digest of what the parameters are after some steps of AdamW, and the last loss."""
    # All at once, as by default on GPUs, takes no plain tensors beside distributed ones.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    generator = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        values = torch.randn(8, 16, generator=generator) * factor
        loss = model(values.to(device)).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return f"{_digest(model)} {loss.item()!r}"


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for _, values in sorted(model.state_dict().items()):
        whole = values.full_tensor() if hasattr(values, "full_tensor") else values
        digest.update(whole.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
