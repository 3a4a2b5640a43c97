"""The one palette of every picture and page.

Owns the colours: blues for what the component itself holds, from the most lasting part (dark) to the most fleeting,
amber for what has to be moved, grey for the rest. Parts differ in lightness too, so that a print in grey is readable.
"""

from __future__ import annotations

from collections.abc import Mapping

Palette = Mapping[str, str]
"""A colour for each role."""

LIGHT: Palette = {
    "page": "#ffffff",
    "raised": "#f5f7f9",
    "ink": "#16202b",
    "muted": "#566370",
    "line": "#c9d1d9",
    "accent": "#1f5f99",
    "weights": "#1f5f99",
    "kv_cache": "#6aa5d8",
    "activations": "#b5d3ee",
    "streaming": "#c9791b",
    "loading": "#edc48d",
    "used_by_others": "#868f99",
    "headroom": "#dfe4e9",
    "fits": "#d9e9f7",
    "moved": "#fbe6c8",
    "cpu": "#e9e3f6",
    "refused": "#eef0f2",
}
DARK: Palette = {
    "page": "#11161c",
    "raised": "#1a212a",
    "ink": "#e8edf2",
    "muted": "#a3afbb",
    "line": "#3a4653",
    "accent": "#7fb9ea",
    "weights": "#7fb9ea",
    "kv_cache": "#3f7fb5",
    "activations": "#27496a",
    "streaming": "#e09a45",
    "loading": "#7d5423",
    "used_by_others": "#77818c",
    "headroom": "#2a333d",
    "fits": "#17344f",
    "moved": "#4a3413",
    "cpu": "#332a4c",
    "refused": "#1c232b",
}


def variables(palette: Palette) -> str:
    """Return a palette as custom properties of CSS."""
    return "".join(f"--{role.replace('_', '-')}:{color};" for role, color in palette.items())
