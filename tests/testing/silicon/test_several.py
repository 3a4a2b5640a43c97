"""Several processes, and collectives."""

from __future__ import annotations

import os

import torch


def test_gloo_all_reduce_cuda(tmp_path):
    import torch.distributed as d

    d.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        x = torch.ones(2, device="cuda")
        d.all_reduce(x)
        d.broadcast(x, 0)
    finally:
        d.destroy_process_group()


def test_ddp_gloo(tmp_path):
    import torch.distributed as d

    d.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        m = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2).cuda(), device_ids=[0])
        m(torch.ones(1, 2, device="cuda")).sum().backward()
    finally:
        d.destroy_process_group()


def test_nccl_init(tmp_path):
    import torch.distributed as d

    d.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    d.destroy_process_group()


def test_fsdp2(tmp_path):
    import torch.distributed as d
    from torch.distributed.fsdp import fully_shard

    d.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        m = torch.nn.Linear(2, 2).cuda()
        fully_shard(m)
        m(torch.ones(1, 2, device="cuda")).sum().backward()
    finally:
        d.destroy_process_group()


def test_device_mesh(tmp_path):
    import torch.distributed as d

    d.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        d.init_device_mesh("cuda", (1,))
    finally:
        d.destroy_process_group()


def test_fork_then_cuda_raises():
    torch.zeros(1, device="cuda")
    r, w = os.pipe()
    p = os.fork()
    if p == 0:
        try:
            torch.zeros(1, device="cuda")
            os.write(w, b"worked")
        except BaseException as e:  # noqa: BLE001 - whatever it is, the parent is told
            os.write(w, str(e)[:90].encode())
        os._exit(0)
    os.waitpid(p, 0)
    s = os.read(r, 100).decode()
    assert "Cannot re-initialize CUDA in forked subprocess" in s, f"child: {s}"
