"""The door: who sees the simulated host, who does not, and that nothing is left behind. Needs psutil alone."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import shutil
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from unittest import mock

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psutil import virtual_memory

from devpolicy import Accelerator, ComponentDevice, Host, Policy, resolve, use_policy
from devpolicy._core.simulation import replaced, simulated_host
from devpolicy._core.simulation.layers import LAYERS
from devpolicy._core.simulation.patched_libraries import Library
from devpolicy._core.simulation.running import paused
from devpolicy._core.simulation.shims import Shims
from devpolicy.errors import DevPolicyError, HostError, SimulationDepthError
from devpolicy.testing import host_catalogue, simulate_host

SMALL = Host(memory="8 GiB", free="3 GiB", disk="100 GiB", disk_free="7 GiB", name="small")
LARGE = Host([Accelerator("cuda", memory="80 GiB")], memory="2 TiB", disk="9 TiB", name="large")
CATALOGUE = host_catalogue()


def ram() -> int:
    return int(psutil.virtual_memory().total)


REAL = ram()


class TestWhatIsSeen:
    @pytest.mark.parametrize("name", CATALOGUE)
    def test_the_probe_returns_the_host(self, name: str) -> None:
        with simulate_host(name) as host:
            assert Host.probe() == host == CATALOGUE[name]
            assert simulated_host() is host

    def test_memory_and_disk_are_the_hosts(self) -> None:
        with simulate_host(SMALL):
            memory = psutil.virtual_memory()
            assert (memory.total, memory.available, memory.percent) == (8 << 30, 3 << 30, 62.5)
            assert shutil.disk_usage(".") == (100 << 30, 93 << 30, 7 << 30)
            assert psutil.disk_usage(".").free == 7 << 30

    def test_a_path_that_is_not_there_is_not_there(self) -> None:
        with simulate_host(SMALL), pytest.raises(FileNotFoundError):
            shutil.disk_usage("no such folder")

    def test_a_host_comes_from_a_name_a_file_or_a_value(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(LARGE.to_toml())
        for host in ("8x80gb", file, str(file), LARGE):
            with simulate_host(host) as seen:
                assert seen == (host if isinstance(host, Host) else Host.load(host))

    def test_a_policy_is_resolved_for_the_simulated_host(self, tmp_path: Path) -> None:
        policy = tmp_path / "p.toml"
        policy.write_text('prefer = ["cuda", "cpu"]')
        with simulate_host(LARGE):
            assert resolve(policy).to_torch_str() == "cuda:0"
        with simulate_host(SMALL):
            assert resolve(policy).to_torch_str() == "cpu"

    def test_at_the_depth_of_values_only_devpolicy_sees_the_host(self) -> None:
        with simulate_host(SMALL, depth="value"):
            assert Host.probe() == SMALL
            assert ram() == REAL

    def test_a_name_that_a_module_took_before_follows_too(self) -> None:
        with simulate_host(SMALL):
            assert virtual_memory().total == SMALL.memory
        assert virtual_memory().total == REAL


class TestWhoSeesIt:
    def test_the_innermost_answers(self) -> None:
        with simulate_host(SMALL):
            with simulate_host(LARGE):
                assert ram() == LARGE.memory
            assert ram() == SMALL.memory
        assert ram() == REAL

    def test_a_thread_sees_it_with_the_scope_of_the_process_only(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            with simulate_host(SMALL):
                assert pool.submit(ram).result() == REAL
                assert pool.submit(contextvars.copy_context().run, ram).result() == SMALL.memory
            with simulate_host(SMALL, scope="process"):
                assert ram() == pool.submit(ram).result() == SMALL.memory
            assert pool.submit(ram).result() == REAL

    def test_a_threads_own_host_goes_before_that_of_the_process(self) -> None:
        def ask() -> int:
            with simulate_host(LARGE):
                return ram()

        with simulate_host(SMALL, scope="process"), ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask).result() == LARGE.memory
            assert ram() == SMALL.memory

    def test_tasks_do_not_see_each_others(self) -> None:
        async def ask(host: Host, turns: int) -> None:
            with simulate_host(host):
                for _ in range(turns):
                    assert ram() == host.memory
                    await asyncio.sleep(0)

        async def ask_all() -> None:
            # They end in another order than they began.
            await asyncio.gather(ask(SMALL, 9), ask(LARGE, 3), ask(CATALOGUE["2x24gb"], 6))
            assert ram() == REAL

        asyncio.run(ask_all())

    def test_a_task_that_outlives_the_block_is_on_the_real_machine(self) -> None:
        async def outlive() -> None:
            left = asyncio.Event()

            async def ask() -> tuple[int, int]:
                before = ram()
                await left.wait()
                return before, ram()

            with simulate_host(SMALL):
                task = asyncio.create_task(ask())
                await asyncio.sleep(0)
            left.set()
            assert await task == (SMALL.memory, REAL)

        asyncio.run(outlive())

    def test_it_may_be_left_in_another_context(self) -> None:
        # pytest's plugins for asyncio run the two halves of a fixture so.
        simulation = simulate_host(SMALL)
        contextvars.copy_context().run(simulation.__enter__)
        contextvars.copy_context().run(simulation.__exit__, None, None, None)
        assert ram() == REAL

    def test_eight_threads_on_eight_hosts_see_their_own_and_no_other(self) -> None:
        hosts = list(CATALOGUE.values())[:8]
        together = threading.Barrier(8)

        def ask(host: Host) -> int:
            together.wait()
            wrong = 0
            for turn in range(1250):
                if turn % 50 == 0:
                    simulation = simulate_host(host)
                    simulation.__enter__()
                wrong += ram() != host.memory
                if turn % 50 == 49:
                    simulation.__exit__(None, None, None)
                    wrong += ram() != REAL
            return wrong

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, hosts)) == [0] * 8
        assert ram() == REAL


class TestDecorator:
    def test_a_function(self) -> None:
        @simulate_host(SMALL)
        def ask(more: int, *, other: int = 0) -> int:
            """Add."""
            return ram() + more + other

        assert ask(1, other=2) == SMALL.memory + 3
        assert (ask.__name__, ask.__doc__) == ("ask", "Add.")
        assert ram() == REAL

    def test_a_function_that_calls_itself(self) -> None:
        @simulate_host(SMALL)
        def ask(depth: int) -> int:
            return ask(depth - 1) if depth else ram()

        assert ask(20) == SMALL.memory
        assert ram() == REAL

    def test_a_coroutine_function(self) -> None:
        @simulate_host(SMALL)
        async def ask() -> int:
            await asyncio.sleep(0)
            return ram()

        async def both() -> tuple[int, int]:
            task = asyncio.create_task(ask())
            await asyncio.sleep(0)
            return ram(), await task

        assert asyncio.run(both()) == (REAL, SMALL.memory)

    def test_a_generators_body_sees_it_and_its_consumer_does_not(self) -> None:
        @simulate_host(SMALL)
        def ask() -> Iterator[int]:
            received = yield ram()
            try:
                yield received
            except KeyError:
                yield ram()
            return ram()

        asked = ask()
        assert next(asked) == SMALL.memory
        assert ram() == REAL
        assert asked.send("sent") == "sent"  # type: ignore[attr-defined]
        assert asked.throw(KeyError()) == SMALL.memory  # type: ignore[attr-defined]
        with pytest.raises(StopIteration) as stopped:
            next(asked)
        assert stopped.value.value == SMALL.memory

    def test_a_generator_that_is_not_finished_is_closed_inside(self) -> None:
        seen = []

        @simulate_host(SMALL)
        def ask() -> Iterator[int]:
            try:
                yield 0
            finally:
                seen.append(ram())

        asked = ask()
        next(asked)
        asked.close()  # type: ignore[attr-defined]
        assert seen == [SMALL.memory]
        assert ram() == REAL

    def test_an_async_generator(self) -> None:
        @simulate_host(SMALL)
        async def ask() -> AsyncIterator[int]:
            yield ram()
            await asyncio.sleep(0)
            yield ram()

        async def consume() -> list[tuple[int, int]]:
            return [(asked, ram()) async for asked in ask()]

        assert asyncio.run(consume()) == [(SMALL.memory, REAL)] * 2


def state() -> list[object]:
    """Return every value that a simulation replaces, and what it puts elsewhere."""
    values = [(vars(owner) if isinstance(owner, type) else owner).get(name) for owner, name in replaced()]
    return [*values, list(sys.meta_path)]


class TestNothingIsLeft:
    def test_after_an_error_inside(self) -> None:
        with simulate_host(SMALL):
            pass
        before = state()
        with pytest.raises(ZeroDivisionError), simulate_host(SMALL), simulate_host(LARGE, scope="process"):
            assert state() != before
            _ = 1 / 0
        after = state()
        assert len(before) == len(after)
        assert all(one is other or one == other for one, other in zip(before, after, strict=True))
        assert simulated_host() is None

    @given(st.lists(st.tuples(st.sampled_from([SMALL, LARGE]), st.sampled_from(["context", "process"])), max_size=6))
    def test_after_any_nesting(self, entries: list[tuple[Host, str]]) -> None:
        before = state()
        running = []
        for host, scope in entries:
            running.append(simulate_host(host, scope=scope))
            running[-1].__enter__()
            assert ram() == host.memory
        while running:
            running.pop().__exit__(None, None, None)
            assert ram() == (running[-1].host.memory if running else REAL)
        assert state() == before

    def test_a_thousand_nested_leak_nothing(self) -> None:
        simulations = [simulate_host(SMALL) for _ in range(1000)]
        for simulation in simulations:
            simulation.__enter__()
        inner = [weakref.ref(simulation) for simulation in simulations]
        for simulation in reversed(simulations):
            simulation.__exit__(None, None, None)
        before = len(state())
        del simulation, simulations
        gc.collect()
        assert not any(ref() for ref in inner)
        assert ram() == REAL
        for _ in range(1000):
            with simulate_host(SMALL):
                pass
        assert len(state()) == before

    def test_a_patch_that_was_there_before_comes_back(self) -> None:
        with mock.patch("psutil.virtual_memory", return_value="patched"):
            with simulate_host(SMALL):
                assert ram() == SMALL.memory
                with mock.patch("psutil.virtual_memory", return_value="inner"):
                    assert psutil.virtual_memory() == "inner"
                assert ram() == SMALL.memory
            assert psutil.virtual_memory() == "patched"
        assert ram() == REAL

    def test_a_patch_at_the_first_question_shapes_no_answer(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("devpolicy._core.simulation.patched_libraries.memory._shapes", {})
        with mock.patch("psutil.virtual_memory", return_value="patched"), simulate_host(SMALL):
            assert psutil.virtual_memory().available == SMALL.free
        with mock.patch("psutil.disk_usage", return_value=None), simulate_host(SMALL):
            assert psutil.disk_usage(str(tmp_path)).total == SMALL.disk
        with simulate_host(SMALL):
            assert type(psutil.virtual_memory()).__module__.startswith("psutil")

    def test_a_patch_that_was_there_first_is_not_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        library, holder = ModuleType("some_library"), ModuleType("some_holder")
        exec("def ask() -> str: return 'real'", vars(library))
        vars(holder)["ask"] = vars(library)["ask"]
        for module in (library, holder):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        shims = Shims([Library(answers={"some_library": {"ask": lambda simulation: "simulated"}})])

        def asked() -> tuple[str, str, str]:
            shims.put(LAYERS)
            try:
                with paused():
                    real = library.ask()
                return library.ask(), holder.ask(), real
            finally:
                shims.take(LAYERS)

        with simulate_host(SMALL):
            with mock.patch.object(library, "ask", lambda: "patched"):
                assert asked() == ("simulated", "real", "patched")
            assert asked() == ("simulated", "simulated", "real")
        assert library.ask is holder.ask

    def test_a_name_that_was_deleted_stays_deleted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with simulate_host(SMALL):
            pass
        monkeypatch.delattr(psutil, "disk_usage")
        with simulate_host(SMALL):
            assert not hasattr(psutil, "disk_usage")
        assert not hasattr(psutil, "disk_usage")


EITHER = 'prefer = ["cuda", "cpu"]'


class TestPoliciesInUse:
    def test_the_policy_of_the_process_decides_for_each_host(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "policy.toml").write_text(EITHER, encoding="utf-8")
        monkeypatch.setenv("DEVPOLICY", str(tmp_path / "policy.toml"))
        found = []
        for host in (LARGE, SMALL, LARGE):
            with simulate_host(host):
                found.append(ComponentDevice.resolve_device().to_torch_str())
        assert found == ["cuda:0", "cpu", "cuda:0"]
        with paused(), mock.patch("devpolicy._core.host.probe.probe", return_value=SMALL):
            assert ComponentDevice.resolve_device().to_torch_str() == "cpu"

    @pytest.mark.parametrize("depth", ["value", "probes"])
    def test_a_block_around_simulated_hosts_is_on_each_of_them(self, depth: str) -> None:
        with use_policy(Policy.parse(EITHER)):
            for host, expected in ((LARGE, "cuda:0"), (SMALL, "cpu"), (LARGE, "cuda:0")):
                with simulate_host(host, depth=depth):
                    assert ComponentDevice.resolve_device().to_torch_str() == expected

    def test_a_block_with_a_host_of_its_own_stays_on_it(self) -> None:
        with use_policy(Policy.parse(EITHER), LARGE), simulate_host(SMALL):
            assert ComponentDevice.resolve_device().to_torch_str() == "cuda:0"

    def test_what_is_resolved_on_a_host_is_kept_there_and_only_there(self) -> None:
        policy = Policy.parse(EITHER + '\n[component."*"]\nneeds = "50 GiB"')
        with use_policy(policy):
            for _ in range(2):
                with simulate_host(LARGE):
                    found = [resolve(policy, component=name).to_torch_str() for name in ("first", "second", "first")]
                    assert found == ["cuda:0", "cpu", "cuda:0"]


class TestRefusals:
    @pytest.mark.parametrize("depth", ["phantom", "tensors"])
    def test_a_depth_that_needs_the_simulator_says_how_to_get_it(
        self, depth: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with pytest.raises(SimulationDepthError) as refused:
            simulate_host(SMALL, depth=depth)
        assert refused.value.diagnostics[0].help
        assert list(tmp_path.iterdir()) == []

    def test_a_word_that_is_not_known_is_refused_with_the_likely_one(self) -> None:
        with pytest.raises(HostError, match="did you mean `probes`"):
            simulate_host(SMALL, depth="probe")
        with pytest.raises(HostError, match="context, process"):
            simulate_host(SMALL, scope="thread")
        with pytest.raises(HostError, match="no host is named"):
            simulate_host("3x24gb")
        with pytest.raises(HostError):
            simulate_host(3)  # type: ignore[arg-type]

    def test_leaving_once_more_is_refused(self) -> None:
        simulation = simulate_host(SMALL)
        with simulation:
            pass
        with pytest.raises(DevPolicyError, match="more often"):
            simulation.__exit__(None, None, None)

    def test_a_source_with_a_fault_raises(self) -> None:
        with simulate_host(Host(memory=0, faults={"psutil": "gone", "disk": "gone too"})):
            with pytest.raises(OSError, match="gone"):
                psutil.virtual_memory()
            with pytest.raises(OSError, match="gone too"):
                shutil.disk_usage(".")


def test_threads_that_enter_at_once_leave_nothing() -> None:
    # In a fresh interpreter, since the first time comes once.
    code = """
        import psutil, threading
        from concurrent.futures import ThreadPoolExecutor
        from devpolicy import Host
        from devpolicy.testing import simulate_host
        before, together = psutil.virtual_memory, threading.Barrier(8)
        def ask(index):
            together.wait()
            host = Host(memory=1 << 30 + index)
            for turn in range(50):
                with simulate_host(host, depth=("probes", "value")[turn % 2]):
                    assert Host.probe() is host
            return True
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(8)))
        assert psutil.virtual_memory is before
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
