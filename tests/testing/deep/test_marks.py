"""The depth in a test's mark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


def test_a_mark_takes_the_depth(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)  # a `pytester` has a home of its own, where nothing is built
    pytester.makepyfile(
        """
        import pytest
        import torch

        @pytest.mark.hosts("2x24gb", "8x80gb", depth="tensors")
        def test_it_computes(simulated_host):
            last = len(simulated_host.accelerators) - 1
            assert torch.ones(3, device=f"cuda:{last}").sum().item() == 3

        @pytest.mark.host("8x80gb", depth="phantom")
        def test_it_has_a_size():
            assert torch.empty(30 << 30, dtype=torch.float16, device="cuda:1").nbytes == 60 << 30
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=3)
