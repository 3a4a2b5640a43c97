"""Which torch the simulator is for.

Owns the list of tested versions, and why it cannot serve on this machine. It asks the installed torch without
importing it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

TESTED = ("2.13",)
"""Versions of torch that the tests have run with. The simulator is built on torch's C++ interface, which changes."""

SYSTEMS = ("linux",)


@dataclass(frozen=True, slots=True)
class Torch:
    """The torch that is installed here: its folder, its version, and what it was built for."""

    folder: Path
    version: str
    built_for: str | None
    """`CUDA 12.8`, `ROCm 6.4` or `XPU 2025.1`; `None` for a CPU build."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why the simulator cannot serve here, and a way out."""

    why: str
    help: str


def installed() -> Torch | None:
    """Return the torch of this environment, `None` where there is none."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    facts: dict[str, str | None] = {}
    # Its version is a small module without imports of its own; importing it would import torch first.
    exec(compile((folder / "version.py").read_bytes(), "torch/version.py", "exec"), facts)
    kinds = {"CUDA": facts.get("cuda"), "ROCm": facts.get("hip"), "XPU": facts.get("xpu")}
    built_for = next((f"{name} {version}" for name, version in kinds.items() if version), None)
    return Torch(folder, str(facts["__version__"]), built_for)


def unfit() -> Unfit | None:
    """Return why the simulator cannot be built or loaded with this system and torch, `None` where it can."""
    if sys.platform not in SYSTEMS:
        return Unfit(f"the simulator is for Linux, and this is `{sys.platform}`", "run these tests there, as in CI")
    torch = installed()
    if torch is None:
        return Unfit(
            "torch is not installed here", "`pip install torch --index-url https://download.pytorch.org/whl/cpu`"
        )
    if torch.built_for is not None:
        return Unfit(
            f"the simulator needs a CPU build of torch, and {torch.version} is built for {torch.built_for}",
            "in an environment of its own: `pip install torch --index-url https://download.pytorch.org/whl/cpu`",
        )
    if ".".join(torch.version.split("+")[0].split(".")[:2]) not in TESTED:
        return Unfit(
            f"the simulator is not tested with torch {torch.version}",
            f"tested are {', '.join(TESTED)}; the depths `value` and `probes` work with every version",
        )
    return None
