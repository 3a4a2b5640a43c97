"""The words of `[loading] quantization`.

Owns the list: the schemes that some consumer makes of a checkpoint while it loads it.
"""

from __future__ import annotations

from devpolicy._core.loading.support import TRANSFORMERS

NONE = "none"
"""The model is loaded in its dtype."""

QUANTIZATIONS = (NONE, *(name for name, support in TRANSFORMERS.items() if support.made))
"""What a policy may ask for."""
