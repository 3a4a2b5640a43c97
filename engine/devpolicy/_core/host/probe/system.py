"""Memory, disk, and the versions of software of this machine.

Owns what the operating system and the installed packages report. It looks at no accelerator and imports
neither torch nor anything else for its version.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.host import ARCHITECTURES, SOFTWARE, SYSTEMS, normal_name
from devpolicy._core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike

PACKAGES = tuple(name for name in SOFTWARE if name not in ("python", "driver", "macos"))

# cgroup v1 writes "no limit" as the largest multiple of a page.
UNLIMITED = 1 << 60


class Amount(NamedTuple):
    """Bytes in total, and of these free."""

    total: int
    free: int


class TorchBuild(NamedTuple):
    """An installed torch: its version, and the toolkits that it was built with (`None`: unknown)."""

    version: str
    toolkits: frozenset[str] | None


def system_and_arch() -> tuple[str, str]:
    """Return the operating system and architecture in the words of `Host`."""
    system, arch = normal_name(platform.system()), normal_name(platform.machine())
    return (system if system in SYSTEMS else "other", arch if arch in ARCHITECTURES else "other")


def ram(root: Path = Path("/")) -> Amount:
    """Return the RAM that this process can have: the machine's, or the limit of a control group (a container)."""
    total, free = _machines_memory(root)
    limit = control_group_limit(root)
    if limit is not None:
        total, free = min(total, limit.total), min(free, limit.free)
    return Amount(total, max(0, min(free, total)))


def _machines_memory(root: Path) -> Amount:
    """Return the machine's memory as psutil reports it, or without psutil the kernel of Linux."""
    try:
        import psutil
    except ImportError:
        try:
            lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
            told = {words[0]: int(words[1]) << 10 for words in lines if words[2:] == ["kB"]}
            return Amount(told["MemTotal:"], told["MemAvailable:"])
        except (OSError, ValueError, LookupError):
            raise RuntimeError("`psutil` is not installed, which reads the memory of this machine") from None
    memory = psutil.virtual_memory()
    return Amount(int(memory.total), int(memory.available))


def control_group_limit(root: Path) -> Amount | None:
    """Return the least memory that a control group of this process allows, and what is left of it.

    Reads cgroup v2, and v1 where it still owns memory. Pages of files that can be dropped count as free.
    """
    limits = [limit for group, names in _memory_groups(root) if (limit := _group_limit(group, *names)) is not None]
    return Amount(min(limit.total for limit in limits), min(limit.free for limit in limits)) if limits else None


def _memory_groups(root: Path) -> Iterator[tuple[Path, tuple[tuple[str, ...], str, str]]]:
    """Yield the control groups of this process and their parents, each with the names of limits, usage and cache."""
    try:
        membership = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in membership:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            # Above `high` nothing is killed, and everything crawls: it is a limit to whoever plans.
            top = root / "sys/fs/cgroup"
            names: tuple[tuple[str, ...], str, str] = (("memory.max", "memory.high"), "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path is often the one outside, and the files stand at the top: absent ones are skipped.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth]), names


def _group_limit(group: Path, limit_names: Sequence[str], usage_name: str, cache_name: str) -> Amount | None:
    limits = [limit for name in limit_names if (limit := _number(group / name)) is not None and limit < UNLIMITED]
    if not limits:
        return None
    # What is used may be hidden where the limit is not: then all of it counts as free, as far as the machine has it.
    used = (_number(group / usage_name) or 0) - _dropped_at_need(group, cache_name)
    limit = max(0, min(limits))
    return Amount(limit, min(limit, max(0, limit - max(0, used))))


def _number(file: Path) -> int | None:
    """Return the number in a file; `None` for "max", and where there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _dropped_at_need(group: Path, cache_name: str) -> int:
    """Return the bytes of files that a group keeps in memory and can drop."""
    try:
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return sum(int(words[1]) for words in lines if words[:1] == [cache_name] and len(words) == 2)
    except (OSError, ValueError):
        return 0


def disk(path: str | PathLike[str] | None = None) -> Amount:
    """Return the disk that holds `path` (default: the current folder), which need not exist yet."""
    wanted = Path.cwd() if path is None else Path(path).absolute()
    # Unlike `Path.exists` it takes a name of any length, and a folder that may not be searched.
    existing = next((place for place in (wanted, *wanted.parents) if os.path.exists(place)), wanted)  # noqa: PTH110
    usage = shutil.disk_usage(existing)
    return Amount(usage.total, min(usage.free, usage.total))


def versions() -> dict[str, str]:
    """Return the versions of Python, macOS and the packages that a policy may ask for; nothing is imported."""
    found = {"python": platform.python_version()}
    if macos := one_line(platform.mac_ver()[0]):  # empty elsewhere
        found["macos"] = macos
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if isinstance(version, str) and one_line(version):  # a damaged installation has none
            found[name] = one_line(version)
    build = torch_build()
    return {**found, "torch": build.version} if build else found


def torch_build() -> TorchBuild | None:
    """Return which torch is loaded or installed, without importing it; `None` where there is none."""
    loaded = sys.modules.get("torch.version")
    if hasattr(loaded, "__version__"):
        return _build(vars(loaded))
    try:
        distribution = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return None
    try:
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
        return _build(_constants(text))
    except (OSError, ValueError, SyntaxError, KeyError, RecursionError, MemoryError):
        return TorchBuild(one_line(distribution.version) or "of an unknown version", None)


def _constants(text: str) -> dict[str, object]:
    """Return the constants that a module assigns. The file is torch's own list of what it was built with."""
    found: dict[str, object] = {}
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant):
            found |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}
    return found


def _build(constants: Mapping[str, object]) -> TorchBuild:
    toolkits = frozenset(name for name in ("cuda", "hip", "xpu") if constants.get(name))
    return TorchBuild(one_line(constants["__version__"]), toolkits)
