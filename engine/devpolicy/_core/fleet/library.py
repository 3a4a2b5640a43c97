"""Ray itself, where it is installed.

Owns its import, and the connection to a cluster.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from devpolicy._core.errors import Diagnostic, FleetError, MissingLibraryError, reason_of

_PATIENCE = 5.0


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
    _knock(address)
    try:
        ray.init(address=address or "auto", log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as failed:
        told = str(failed).strip().splitlines()
        raise _silent(address, told[0] if told else type(failed).__name__) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise `FleetError` where nobody listens at `host:port`: Ray would go on asking for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as refused:
        raise _silent(address, reason_of(refused)) from None


def _silent(address: str | None, why: str) -> FleetError:
    hint = "`ray start --head` starts one; `ray status` says whether it runs"
    return FleetError(Diagnostic("", f"the cluster `{address or 'auto'}` does not answer: {why}", help=hint))
