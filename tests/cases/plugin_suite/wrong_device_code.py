"""Tests of wrong device code: each must fail, and say on which host and with which device."""

from __future__ import annotations

import pytest
from device_code import half_precision, room_for_reranker

torch = pytest.importorskip("torch")


@pytest.mark.hosts("2x24gb", "1x24gb")
def test_a_second_card_is_taken_for_granted():
    assert room_for_reranker()


@pytest.mark.hosts("8x80gb", "faulty/ecc-on-query")
def test_every_card_is_taken_to_work():
    for index in range(torch.cuda.device_count()):
        torch.cuda.mem_get_info(index)


TURING = "turing.toml"


@pytest.mark.hosts("1x24gb", TURING)
def test_every_card_is_taken_to_compute_in_bfloat16():
    if half_precision() is torch.bfloat16:
        name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
        assert capability >= (8, 0), f"cuda:0, {name}, has compute capability {capability}: no bfloat16"
