"""What a notebook shows of a plan.

Owns the HTML of `Plan._repr_html_`: the picture on a light page of its own, because a notebook's theme is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devpolicy._core.views.colors import LIGHT
from devpolicy._core.views.picture import Titled, picture

if TYPE_CHECKING:
    from devpolicy._core.placement.plan import Plan


def html(plan: Plan) -> str:
    """Return the plan's picture as HTML."""
    return picture([Titled(f"{plan.component or 'Plan'}, for {plan.target}", plan)], theme=LIGHT)
