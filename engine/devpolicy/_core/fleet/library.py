"""Ray itself, where it is installed.

Owns its import, and the connection to a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from devpolicy._core.errors import Diagnostic, FleetError, MissingLibraryError


def require_ray() -> Any:
    """Return the module. Raises `MissingLibraryError` where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        message = "starting on a cluster and asking one needs Ray, which is not installed"
        raise MissingLibraryError(Diagnostic("", message, help="pip install 'devpolicy[ray]'")) from None
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Give Ray, connected to a cluster; what was connected before stays so. Raises `FleetError`."""
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address or "auto", log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as failed:
        told = str(failed).strip().splitlines()
        message = f"the cluster `{address or 'auto'}` does not answer: {told[0] if told else type(failed).__name__}"
        hint = "`ray start --head` starts one; `ray status` says whether it runs"
        raise FleetError(Diagnostic("", message, help=hint)) from None
    try:
        yield ray
    finally:
        ray.shutdown()
