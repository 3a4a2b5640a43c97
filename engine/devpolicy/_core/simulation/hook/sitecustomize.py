"""Puts a process on the simulated host of the one that started it. Python runs this file when it starts.

A copy of it is in a folder that PYTHONPATH names while a host is simulated for children too. The `sitecustomize` that
would have been found without that folder runs first.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _run_the_other() -> None:
    here = Path(__file__).resolve().parent
    spec = PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if Path(entry).resolve() != here])
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _enter() -> None:
    try:
        from devpolicy._core.simulation.children import inherit
    except ImportError as missing:
        print(
            f"devpolicy: `{sys.executable}` was started on a simulated host and sees the real machine, since it cannot "
            f"import devpolicy ({missing})",
            file=sys.stderr,
        )
        return
    inherit()


_run_the_other()
_enter()
