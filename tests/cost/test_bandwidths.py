"""The bandwidth of accelerators by the names that drivers report."""

from __future__ import annotations

import pytest

from devpolicy import Accelerator
from devpolicy._core.cost.bandwidths import BANDWIDTHS
from devpolicy._core.cost.speeds import bandwidth

GUESS = 400


def _nominal(name: str) -> int:
    """GB/s, of which four fifths are taken to arrive."""
    return bandwidth(Accelerator("cuda", memory="8 GiB", name=name)) * 100 // 80 // 10**9


@pytest.mark.parametrize(("name", "speed"), [(name, speed) for name, speed, _ in BANDWIDTHS])
def test_every_row_is_reached_by_its_own_name(name: str, speed: int) -> None:
    for written in (name, f"NVIDIA {name}", f"{name.upper()} GPU", f"{name}-12GB" if "GB" not in name else name):
        assert _nominal(written) == speed, written


def test_every_row_has_a_source() -> None:
    assert all(source for *_, source in BANDWIDTHS)


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("NVIDIA RTX A4000", 448),
        ("NVIDIA RTX A1000", 192),
        ("NVIDIA RTX A3000 Laptop GPU", 264),
        ("Tesla M4", 88),
        ("Tesla M40", 288),
        ("Tesla M40 24GB", 288),
        ("Apple M4", 120),
        ("Apple M4 Max", 546),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2039),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 576),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 448),
        ("NVIDIA RTX 6000 Ada Generation", 960),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1792),
        ("Quadro RTX 6000", 672),
        ("NVIDIA L40S", 864),
        ("NVIDIA L4", 300),
        ("Tesla V100-SXM2-16GB", 900),
        ("Tesla T4", 320),
        ("Intel(R) Arc(TM) A770 Graphics", 560),
        ("AMD Instinct MI300X", 5300),
    ],
)
def test_real_names_reach_their_row(name: str, speed: int) -> None:
    assert _nominal(name) == speed


@pytest.mark.parametrize(
    "name", ["RTX 2080 with Max-Q Design", "NVIDIA GeForce RTX 2070 Laptop GPU", "RTX 5000 Mobile", "A1000X", "M4"]
)
def test_a_card_that_no_row_names_is_guessed(name: str) -> None:
    assert _nominal(name) == GUESS
