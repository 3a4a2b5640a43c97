"""Coroutines, with the pytest plugin that anyio brings."""

from __future__ import annotations

import asyncio

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("anyio")


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def loop_that_outlives_the_tests(anyio_backend):
    yield asyncio.get_running_loop()


@pytest.mark.anyio
@pytest.mark.hosts("cpu-only", "2x24gb")
async def test_a_coroutine_and_its_tasks_see_the_host(loop_that_outlives_the_tests, simulated_host):
    async def count() -> int:
        return torch.cuda.device_count()

    here = len(simulated_host.accelerators)
    assert (
        await count() == await asyncio.create_task(count()) == await asyncio.to_thread(torch.cuda.device_count) == here
    )
