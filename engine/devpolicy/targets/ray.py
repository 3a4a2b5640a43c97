"""Plans of fleets on Ray: reserve, start, verify, move on.

    from devpolicy.targets.ray import start

    with start(plan, {"writer": load}) as running:
        running.actors["writer"].call.remote("generate", ...)

Ray (the extra `ray`) is imported when something is started. The forms, `to_ray` and `to_serve`, need none.
"""

from __future__ import annotations

from devpolicy._core.fleet.ray_forms import Bundle, bundles, to_ray, to_serve
from devpolicy._core.fleet.spanning import vllm_over_nodes
from devpolicy._core.fleet.starting import Running, start
from devpolicy._core.fleet.worker import Report

__all__ = ["Bundle", "Report", "Running", "bundles", "start", "to_ray", "to_serve", "vllm_over_nodes"]


def __dir__() -> list[str]:
    return __all__
