"""Build the simulator with the system's compiler, into the user's cache.

Owns the compiler's command and the place of what it makes. A library is for one torch, one Python and one state of the
source: the three are its folder's name, so that after an upgrade of any of them none is found, which is reported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devpolicy._core.errors import Diagnostic, SimulationDepthError
from devpolicy._core.simulator.versions import Torch, Unfit, installed, unfit

NAME = "_devpolicy_simulator"
SOURCE = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-DTORCH_EXTENSION_NAME={NAME}")
LIBRARIES = ("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python")
BUILD = "devpolicy simulator build"
_SHOWN = 20
"""Lines of a compiler's complaint that an error shows."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """The simulator for the torch and the Python that run here."""

    torch: Torch
    library: Path
    """Where it is, or would be."""

    @property
    def built(self) -> bool:
        """Whether it is there."""
        return self.library.is_file()


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gave: the library, and the compiler that made it now, `None` where it was there before."""

    simulator: Simulator
    compiler: str | None


def simulator() -> Simulator:
    """Return the simulator for this environment, built or not. Raises `SimulationDepthError` where none can be."""
    reason = unfit()
    torch = installed()
    if reason is not None or torch is None:
        raise SimulationDepthError([_finding(reason)])
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    return Simulator(torch, _cache() / f"torch-{torch.version}-{_digest()}" / f"{NAME}{suffix}")


def build(*, again: bool = False) -> Built:
    """Compile the simulator if it is not there, or `again`. Takes half a minute, and about 2 GiB of memory.

    Raises `SimulationDepthError` without a compiler, where the compiler fails (with its output), and where there can
    be no simulator.
    """
    found = simulator()
    if found.built and not again:
        return Built(found, None)
    compiler = find_compiler()
    if compiler is None:
        raise SimulationDepthError([_finding(NO_COMPILER)])
    found.library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=found.library.parent) as folder:
        made = Path(folder) / found.library.name
        _compile(command(compiler, found.torch, made))
        # In one step: another process may be building, or loading, the same.
        made.replace(found.library)
    return Built(found, compiler)


NO_COMPILER = Unfit(
    "there is no C++ compiler to build the simulator with",
    "install one (`apt install g++`, `dnf install gcc-c++`), or name it in the variable CXX",
)


def find_compiler() -> str | None:
    """Return the C++ compiler: that of the variable CXX, else the system's."""
    named = os.environ.get("CXX")
    return next((path for name in ([named] if named else COMPILERS) if (path := shutil.which(name))), None)


def command(compiler: str, torch: Torch, target: Path) -> list[str]:
    """Return the compiler's command."""
    folders = [torch.folder / "include", torch.folder / "include/torch/csrc/api/include"]
    includes = [f"-I{folder}" for folder in [*folders, sysconfig.get_paths()["include"]]]
    library = torch.folder / "lib"
    return [
        *(compiler, *FLAGS, str(SOURCE / "module.cpp"), *includes),
        *(f"-L{library}", *LIBRARIES, f"-Wl,-rpath,{library}", "-o", str(target)),
    ]


def _compile(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line or "undefined reference" in line]
        shown = (said or done.stderr.splitlines())[:_SHOWN]
        raise SimulationDepthError(
            [
                Diagnostic(
                    "",
                    f"the compiler `{arguments[0]}` could not build the simulator",
                    notes=tuple(shown),
                    help="it needs C++20 (GCC 11, Clang 14 or newer) and Python's headers (`apt install python3-dev`)",
                )
            ]
        )


def _cache() -> Path:
    """Return our folder in the user's cache, by the XDG rules."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "devpolicy" / "simulator"


def _digest() -> str:
    """Return a digest of the source and of how it is built."""
    digest = hashlib.sha256(" ".join((*FLAGS, *LIBRARIES)).encode())
    for file in sorted(SOURCE.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _finding(reason: Unfit | None) -> Diagnostic:
    why = reason or Unfit("torch is not installed here", "install a CPU build of torch")
    return Diagnostic("", why.why, help=why.help)
