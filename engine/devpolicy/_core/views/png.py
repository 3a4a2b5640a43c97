"""A picture as PNG.

Owns the call of the optional library that draws SVG (`resvg-py`, the extra `png`).
"""

from __future__ import annotations

from devpolicy._core.errors import DevPolicyError, Diagnostic

_ZOOM = 2
"""Pixels for each unit of the SVG: sharp on today's screens."""


def as_png(svg: str) -> bytes:
    """Return an SVG text as PNG. Raises `DevPolicyError` where the library is missing."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        hint = "install it with `pip install 'devpolicy[png]'`, or take `--format svg`, which needs nothing"
        raise DevPolicyError(Diagnostic("", "a PNG needs `resvg-py`, which is not installed", help=hint)) from None
    return bytes(svg_to_bytes(svg_string=svg, zoom=_ZOOM))
