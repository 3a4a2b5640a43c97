"""`simulate_fleet`: a Ray cluster on this machine, whose nodes are simulated hosts.

Owns the cluster: how its nodes are told which hosts they are, and that nothing of it is left. Ray's own cluster utility
starts the nodes, which are processes; their workers are on the node's host as children of `simulate_host` are, and see
of its GPUs those that Ray shows them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from devpolicy._core.errors import DevPolicyError, Diagnostic, FleetError
from devpolicy._core.fleet.library import require_ray
from devpolicy._core.fleet.ray_forms import NODE_LABEL, node_resources
from devpolicy._core.fleet.values import Fleet
from devpolicy._core.simulation.children import Offer
from devpolicy._core.text import one_line

_FOLDER = "RAY_TMPDIR"
_STORE = 78_643_200
"""Bytes of each node's object store: the least that Ray takes."""


class simulate_fleet:  # noqa: N801 - a verb, used as `with simulate_fleet(…)`
    """Run a Ray cluster whose nodes are the hosts of `fleet`, and connect this process to it.

    A context manager, whose target is the address of the cluster. Each node has a name as the label `devpolicy/node`,
    the labels of the fleet, its GPUs, and a resource for each of unlike ones. `depth` is that of `simulate_host` in
    workers: at `"tensors"` their devices hold tensors. `cpus` is how many each node offers to Ray. It takes some ten
    seconds, and about four for each node more.

    Raises `MissingLibraryError` without Ray, and `FleetError` where this process is connected to a cluster already, or
    Ray does not start. Ray's own files, its logs too, are in a folder that is removed in the end.
    """

    def __init__(self, fleet: Fleet | str, *, depth: str = "probes", cpus: int = 4) -> None:
        self.fleet: Fleet = fleet if isinstance(fleet, Fleet) else Fleet.load(fleet)
        self.depth: str = depth
        self.cpus: int = cpus
        self._stack = ExitStack()
        self._nodes: dict[str, Any] = {}
        self._cluster: Any = None

    def __enter__(self) -> str:
        ray = require_ray()
        if ray.is_initialized():
            raise FleetError("this process is connected to a Ray cluster: leave that first, with `ray.shutdown()`")
        from ray.cluster_utils import Cluster

        with ExitStack() as stack:
            stack.enter_context(_own_folder())
            self._cluster = Cluster()
            stack.callback(self._stop)
            try:
                head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
                self._cluster.add_node(wait=False, **head)
                for name in self.fleet:
                    self._nodes[name] = self._node(name, stack)
                self._cluster.wait_for_nodes()
                ray.init(address=self._cluster.address, log_to_driver=False, configure_logging=False)
            except DevPolicyError:
                raise
            except Exception as failed:  # Ray raises no class of its own
                message = f"Ray did not start: {one_line(failed)}"
                hint = "it waits 30 seconds for each node: try it again where less else runs"
                raise FleetError(Diagnostic("", message, help=hint)) from failed
            stack.callback(ray.shutdown)
            self._stack = stack.pop_all()
        return str(self._cluster.address)

    def _stop(self) -> None:
        if self._cluster.head_node is not None:
            self._cluster.shutdown()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        self._nodes.clear()

    def kill(self, node: str) -> None:
        """Let a node fail: its processes end at once. Raises `FleetError` where there is none of this name."""
        if node not in self._nodes:
            raise FleetError(f"no node `{node}` runs")
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)

    def processes(self, node: str) -> list[int]:
        """Return the process ids of a node's raylet, by which a test may stop it."""
        return [one.process.pid for one in self._nodes[node].all_processes["raylet"]]

    def _node(self, name: str, stack: ExitStack) -> Any:
        host = self.fleet[name]
        offer = stack.enter_context(Offer(host, self.depth, visible=True))
        working = [one for one in host.accelerators if one.fault is None and one.type in ("cuda", "xpu")]
        return self._cluster.add_node(
            wait=False,
            num_cpus=self.cpus,
            num_gpus=len(working),
            labels={NODE_LABEL: name, **self.fleet.labels(name)},
            resources=node_resources(host),
            object_store_memory=_STORE,
            memory=host.memory,
            env_vars={**offer.environment, "PYTHONPATH": offer.python_path(os.environ.get("PYTHONPATH"))},
        )


@contextmanager
def _own_folder() -> Iterator[None]:
    """Let Ray keep its sockets, its logs and the cluster's address in a folder of their own, which goes at the end."""
    # The name of a socket has at most 103 characters, and Ray's own part of it some 80.
    short = "/tmp" if Path("/tmp").is_dir() else None
    before = os.environ.get(_FOLDER)
    with TemporaryDirectory(prefix="dp-", dir=short, ignore_cleanup_errors=True) as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before
