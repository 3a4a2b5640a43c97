"""Haystack: pass devices to its components, and let a policy decide those of a saved pipeline."""

from __future__ import annotations

from devpolicy._core.targets.haystack import decide, from_haystack, restore_order, to_haystack

__all__ = ["decide", "from_haystack", "restore_order", "to_haystack"]
