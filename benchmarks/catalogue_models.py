"""The published configurations of the catalogue's models, from `tools/`, which stands beside this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.model_files import CATALOGUE

__all__ = ["CATALOGUE", "QUICK"]

QUICK = ("bert-base", "llama-3.2-1b", "mixtral-8x7b")
"""What a quick run takes: one of each kind, seconds each."""
