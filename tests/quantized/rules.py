"""Which Transformers the rules of quantisers are held against."""

from __future__ import annotations

import pytest


def need_these_rules() -> None:
    """Skip a test, or a whole module, under an older Transformers: it leaves other modules as they are."""
    transformers = pytest.importorskip("transformers")
    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24):
        pytest.skip("the rules of quantisers are those of Transformers 5.24", allow_module_level=True)
