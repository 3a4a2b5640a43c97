"""The built simulator in this process.

Owns the import of the library. It is loaded once, when the first host is entered at one of the deep depths, and stays:
torch keeps what is registered with it.
"""

from __future__ import annotations

import atexit
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from devpolicy._core.errors import Diagnostic, SimulationDepthError
from devpolicy._core.simulator.building import BUILD, NAME, simulator


def require_built(depth: str) -> None:
    """Raise `SimulationDepthError` where a depth needs the simulator and it is not there."""
    found = simulator()
    if not found.built:
        raise SimulationDepthError(
            [
                Diagnostic(
                    "",
                    f"the depth `{depth}` needs the simulator, which is not built for torch {found.torch.version} here",
                    help=f"run `{BUILD}`, once; it takes half a minute and a C++ compiler",
                )
            ]
        )


def load(depth: str = "tensors") -> Any:
    """Return the simulator's module, with its devices in place. Raises `SimulationDepthError`."""
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded
    require_built(depth)
    import torch  # noqa: F401 - the library is linked to torch's

    path = str(simulator().library)
    spec = spec_from_file_location(NAME, path, loader=ExtensionFileLoader(NAME, path))
    assert spec is not None and spec.loader is not None  # INVARIANT: a loader was given
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        module.load()
    except (ImportError, RuntimeError) as broken:
        raise SimulationDepthError(
            [Diagnostic("", f"the simulator cannot be loaded: {broken}", help=f"build it anew: `{BUILD} --again`")]
        ) from broken
    sys.modules[NAME] = module
    # While Python's threads may still run.
    atexit.register(module.settle_engine)
    return module
