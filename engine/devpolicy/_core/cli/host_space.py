"""The options that describe a host space.

Owns how ladders and ranges are written: `"8 GiB, 24 GiB"`, `"8 GiB..80 GiB"`, `"25%, 100%"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.host import ACCELERATOR_TYPES, MOST_DEVICES
from devpolicy._core.sizes import SizeError, parse_size

if TYPE_CHECKING:
    from devpolicy._core.review.host_space import HostSpace

F = TypeVar("F", bound=Callable[..., Any])


def host_space_options(command: F) -> F:
    """Add the options that describe a host space."""
    options = [
        click.option("--types", metavar="LIST", help="Types of accelerators. Default: those that the policy names."),
        click.option(
            "--accelerators",
            type=click.IntRange(0, MOST_DEVICES),
            default=3,
            show_default=True,
            metavar="N",
            help="The largest number of accelerators in a host.",
        ),
        click.option(
            "--memory",
            default="8 GiB, 24 GiB, 80 GiB",
            show_default=True,
            metavar="SIZES",
            help="Memory of an accelerator: a list, or a range such as 8 GiB..80 GiB.",
        ),
        click.option(
            "--free", default="25%, 100%", show_default=True, metavar="LIST", help="How much of that memory is free."
        ),
        click.option(
            "--ram", default="16 GiB, 64 GiB, 512 GiB", show_default=True, metavar="SIZES", help="RAM of the host."
        ),
        click.option("--mixed", is_flag=True, help="Also hosts with accelerators of several types."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def host_space_of(
    types: Iterable[str], accelerators: int, memory: str, free: str, ram: str, *, mixed: bool
) -> HostSpace:
    """Return the host space that the options describe. Raises `DevPolicyError` for values that cannot be read."""
    from devpolicy._core.review.host_space import HostSpace

    low, dots, high = memory.partition("..")
    ranged = bool(dots)
    sizes = _sizes([low, high] if ranged else memory.split(","), "--memory")
    percentages = [_percent(text) for text in free.split(",")]
    return HostSpace(
        tuple(types),
        accelerators,
        tuple(sorted(set(sizes))),
        tuple(sorted(set(percentages))),
        tuple(sorted(set(_sizes(ram.split(","), "--ram")))),
        mixed=mixed,
        ranged=ranged,
    )


def types_of(given: str | None, text: str) -> tuple[str, ...]:
    """Return the accelerator types of a host space: those given, else those that the policy's text mentions."""
    from devpolicy._core.review.host_space import types_in
    from devpolicy._core.toml.tables import did_you_mean

    if given is None:
        return types_in(text)
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in ACCELERATOR_TYPES:
            help_ = did_you_mean(name, ACCELERATOR_TYPES)
            raise DevPolicyError(Diagnostic("DP201", f"`{name}` in --types is no type of accelerator", help=help_))
    return names


def _sizes(texts: Iterable[str], option: str) -> list[int]:
    try:
        return [parse_size(text.strip()) for text in texts]
    except SizeError as broken:
        raise DevPolicyError(f"{option}: {broken}") from None


def _percent(text: str) -> int:
    found = re.fullmatch(r"\s*(100|[0-9]{1,2})\s*%\s*", text)
    if found is None:
        raise DevPolicyError(f"--free: `{text.strip()}` is no percentage: write a whole number and %, such as 50%")
    return int(found[1])
