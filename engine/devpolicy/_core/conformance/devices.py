"""What the devices of a host do with tensors: on a real machine, or inside `simulate_host` at depth `tensors`.

Owns the questions that only a tensor answers. They allocate some MiB on each device that has no fault, and ask once for
more than there is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from devpolicy._core.conformance.check import Check, check, hold
from devpolicy._core.host import Accelerator, Host

TYPES = ("cuda", "xpu", "mps")
MIB = 1 << 20


def check_devices(host: Host) -> None:
    """Put tensors on every working device of `host`, which is this process's, and hold what they do.

    Raises `ConformanceError`.
    """
    hold(DEVICE_CHECKS, host, host)


def _devices(host: Host) -> Iterator[tuple[Accelerator, Any]]:
    """Yield the devices that tensors can be put on, with torch's word for each."""
    import torch

    for type_ in TYPES:
        if host.fault(type_) is None:
            for one in host.devices(type_):
                if one.fault is None:
                    yield one, torch.device(f"{type_}:{one.id}")


def _allocated(device: Any) -> int:
    import torch

    module = getattr(torch, device.type)
    return int(module.current_allocated_memory() if device.type == "mps" else module.memory_allocated(device))


@check(library="torch", of_devices=True)
def tensors_stay_where_they_are_put(host: Host) -> Iterator[str]:
    """A tensor is on the device that it was put on, and so is what is computed of it."""
    import torch

    for _, device in _devices(host):
        put = torch.ones(4, 4).to(device)
        made = torch.ones(4, 4, device=device)
        found = {str(each.device) for each in (put, made, put + made, put @ made, put[0], put.t().contiguous())}
        if found != {str(device)}:
            yield f"on `{device}` they are on {', '.join(sorted(found))}"


@check(library="torch", of_devices=True)
def numbers_come_back(host: Host) -> Iterator[str]:
    """What is copied to a device and back is unchanged, and small whole numbers are added exactly."""
    import torch

    for _, device in _devices(host):
        sent = torch.arange(1000, dtype=torch.int32)
        there = sent.to(device)
        if not torch.equal(there.cpu(), sent):
            yield f"`{device}` gives back other numbers"
        if not torch.equal((there + there).cpu(), sent + sent) or int(there.sum()) != 499500:
            yield f"`{device}` adds them otherwise"


@check(library="torch", of_devices=True)
def devices_do_not_meet(host: Host) -> Iterator[str]:
    """Tensors of two devices are not added: torch refuses, whichever two these are."""
    import torch

    for one, other in pairwise([*(device for _, device in _devices(host)), torch.device("cpu")]):
        try:
            torch.ones(3, device=one) + torch.ones(3, device=other)
        except RuntimeError as refused:
            if "Expected all tensors to be on the same device" not in str(refused):
                yield f"`{one}` and `{other}`: {refused}"
        else:
            yield f"`{one}` and `{other}` are added"


@check(library="torch", of_devices=True)
def one_more_is_not_there(host: Host) -> Iterator[str]:
    """A device beyond the last is an invalid ordinal."""
    import torch

    for type_ in ("cuda", "xpu"):
        if host.fault(type_) is None and any(device.type == type_ for _, device in _devices(host)):
            beyond = getattr(torch, type_).device_count()
            try:
                torch.ones(1, device=f"{type_}:{beyond}")
            except RuntimeError:
                continue
            yield f"`{type_}:{beyond}` takes a tensor"


@check(library="torch", of_devices=True)
def memory_is_counted(host: Host) -> Iterator[str]:
    """A tensor of whole MiB is counted with its size while it lives, and no longer; a view costs nothing."""
    import torch

    for _, device in _devices(host):
        before = _allocated(device)
        held = torch.empty(8 * MIB, dtype=torch.uint8, device=device)
        view = held[MIB:].view(-1, 1024)
        with_tensor = _allocated(device) - before
        del held
        with_view = _allocated(device) - before
        del view
        if (with_tensor, with_view, _allocated(device) - before) != (8 * MIB, 8 * MIB, 0):
            yield f"`{device}` counts {with_tensor}, then {with_view}, then {_allocated(device) - before} bytes"


@check(library="torch", of_devices=True)
def memory_runs_out(host: Host) -> Iterator[str]:
    """More than a device has is out of memory, and the device works on."""
    import torch

    for one, device in _devices(host):
        before = _allocated(device)
        try:
            # On mps the memory is the machine's, and the limit is above what is recommended.
            torch.empty(4 * max(one.memory, host.memory), dtype=torch.uint8, device=device)
            yield f"`{device}` takes {4 * max(one.memory, host.memory)} bytes"
        except RuntimeError as full:
            if device.type != "mps" and not isinstance(full, torch.OutOfMemoryError):
                yield f"`{device}` raises {type(full).__name__}: {full}"
        if int(torch.ones(3, device=device).sum()) != 3 or _allocated(device) != before:
            yield f"`{device}` is not as before"


@check(library="torch", of_devices=True)
def gradients_are_where_their_tensors_are(host: Host) -> Iterator[str]:
    """A gradient is on the device of its tensor, also through a copy from one device to another."""
    import torch

    devices = [torch.device("cpu"), *(device for _, device in _devices(host))]
    for one, other in pairwise(devices):
        start: Any = torch.ones(3, device=one, requires_grad=True)
        doubled: Any = start.to(other) * 2
        doubled.sum().backward()
        if start.grad is None or start.grad.device != one or start.grad.tolist() != [2.0, 2.0, 2.0]:
            yield f"from `{other}` to `{one}` it is {start.grad}"


@check(library="torch", of_devices=True)
def tensors_are_saved_with_their_device(host: Host) -> Iterator[str]:
    """A tensor that is saved and loaded is on its device again, and where `map_location` says."""
    import torch

    for _, device in _devices(host):
        file = io.BytesIO()
        torch.save(torch.arange(3, device=device), file)
        for location, expected in ((None, device), ("cpu", torch.device("cpu"))):
            file.seek(0)
            loaded = torch.load(file, map_location=location)
            if loaded.device != expected or loaded.tolist() != [0, 1, 2]:
                yield f"of `{device}` with map_location={location!r} it is {loaded}"


@check(library="torch", of_devices=True)
def seeds_repeat(host: Host) -> Iterator[str]:
    """The same seed gives the same numbers on a device, by its generators and by `torch.manual_seed`."""
    import torch

    for _, device in _devices(host):
        state = torch.random.get_rng_state()
        own = [torch.rand(4, device=device, generator=torch.Generator(device).manual_seed(7)) for _ in range(2)]
        of_all = []
        for _ in range(2):
            torch.manual_seed(7)
            of_all.append(torch.rand(4, device=device))
        torch.random.set_rng_state(state)
        if not torch.equal(*own) or not torch.equal(*of_all):
            yield f"on `{device}` they differ"


DEVICE_CHECKS: tuple[Check[Host], ...] = (
    tensors_stay_where_they_are_put,
    numbers_come_back,
    devices_do_not_meet,
    one_more_is_not_there,
    memory_is_counted,
    memory_runs_out,
    gradients_are_where_their_tensors_are,
    tensors_are_saved_with_their_device,
    seeds_repeat,
)
"""What holds for the devices of the host that this process runs on, where they hold tensors."""
