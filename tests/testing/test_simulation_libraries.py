"""The real libraries follow the simulated host, on every host of the catalogue."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import psutil
import pytest

from devpolicy import ComponentDevice, Host
from devpolicy._core.simulation import replaced, simulated_host
from devpolicy.errors import SimulationDepthError
from devpolicy.testing import host_catalogue, simulate_host

torch = pytest.importorskip("torch")

CATALOGUE = host_catalogue()
EVERY_HOST = pytest.mark.parametrize("name", CATALOGUE)


def choice(host: Host) -> str:
    """Return what asks torch for its devices in the usual order, and does not try them, chooses."""
    return next((type_ for type_ in ("cuda", "xpu", "mps") if host.devices(type_)), "cpu")


def usable(host: Host, type_: str) -> dict[int, int]:
    return {device.id: device.free for device in host.devices(type_) if not device.fault and not host.fault(type_)}  # type: ignore[misc]


class TestAccelerate:
    @EVERY_HOST
    def test_its_memory_budget_is_what_is_free_on_the_host(self, name: str) -> None:
        modeling = pytest.importorskip("accelerate.utils.modeling")
        with simulate_host(name) as host:
            budget: dict[Any, int] = dict(usable(host, "xpu") or usable(host, "cuda"))
            if host.devices("mps"):
                budget["mps"] = host.free
            else:
                budget["cpu"] = host.free
            found = modeling.get_max_memory()
            if any(device.unified for device in host.devices("cuda")):
                # From 1.15 on accelerate does not count one memory twice.
                found, budget = ({**each, "cpu": None} for each in (found, budget))
            assert found == budget

    @EVERY_HOST
    def test_its_state_is_on_the_hosts_device(self, name: str) -> None:
        accelerate = pytest.importorskip("accelerate")
        from accelerate.state import AcceleratorState, GradientState, PartialState

        real = accelerate.PartialState()
        states = [vars(kind)["_shared_state"] for kind in (PartialState, AcceleratorState, GradientState)]
        kept = [dict(state) for state in states]
        with simulate_host(name) as host:
            assert accelerate.PartialState().device.type == choice(host)
            assert accelerate.PartialState() is not real
        assert accelerate.PartialState().device.type == real.device.type
        assert [vars(kind)["_shared_state"] for kind in (PartialState, AcceleratorState, GradientState)] == kept
        assert all(
            vars(kind)["_shared_state"] is state
            for kind, state in zip((PartialState, AcceleratorState, GradientState), states, strict=True)
        )

    def test_the_environment_is_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        accelerate = pytest.importorskip("accelerate")
        # accelerate sets it where its device is mps.
        monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
        with simulate_host("macbook-m3-36gb"):
            accelerate.PartialState()
            assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
        assert "PYTORCH_ENABLE_MPS_FALLBACK" not in os.environ

    def test_nvidia_smi_is_the_hosts(self) -> None:
        environment = pytest.importorskip("accelerate.utils.environment")
        with simulate_host("2x24gb"):
            assert environment.get_gpu_info() == (["NVIDIA GeForce RTX 4090"] * 2, 2)
            assert environment.check_cuda_p2p_ib_support()
            assert environment.check_cuda_fp8_capability()
        with simulate_host("4x80gb"):
            assert not environment.check_cuda_fp8_capability()

    def test_a_model_is_laid_out_for_the_host(self) -> None:
        accelerate = pytest.importorskip("accelerate")
        with simulate_host("24-24-12-8"), accelerate.init_empty_weights():
            model = torch.nn.Sequential(*(torch.nn.Linear(40_000, 40_000, bias=False) for _ in range(14)))
            layout = accelerate.infer_auto_device_map(model)
        assert set(layout.values()) == {0, 1, 2, 3, "cpu"}


class TestHaystack:
    @EVERY_HOST
    def test_its_default_device_is_the_hosts_and_ours_agrees(self, name: str) -> None:
        haystack = pytest.importorskip("haystack.utils.device")
        with simulate_host(name) as host:
            theirs = haystack.ComponentDevice.resolve_device(None)
            assert theirs.to_torch_str().partition(":")[0] == choice(host)
            assert ComponentDevice.resolve_device(None).to_dict() == theirs.to_dict()


class TestSentenceTransformers:
    @EVERY_HOST
    def test_its_device_is_the_hosts(self, name: str) -> None:
        util = pytest.importorskip("sentence_transformers.util")
        with simulate_host(name) as host:
            assert util.get_device_name() == choice(host).replace("cuda", "cuda:0")


class TestTransformers:
    @EVERY_HOST
    def test_its_caches_answer_for_the_host_and_keep_what_they_had(self, name: str) -> None:
        utils = pytest.importorskip("transformers.utils")
        real = utils.get_available_devices()
        information = utils.is_torch_cuda_available.cache_info()
        with simulate_host(name) as host:
            for _ in range(2):
                assert utils.is_torch_cuda_available() == bool(host.devices("cuda"))
                assert utils.is_torch_xpu_available() == bool(host.devices("xpu"))
                assert utils.is_torch_mps_available() == bool(host.devices("mps"))
            types = {device.type for device in host.accelerators}
            assert utils.get_available_devices() == {"cpu", *types}
        assert utils.get_available_devices() == real
        assert utils.is_torch_cuda_available.cache_info() == information

    @EVERY_HOST
    def test_a_pipeline_without_a_device_takes_the_hosts(self, name: str) -> None:
        transformers = pytest.importorskip("transformers")
        pipe_type = pytest.importorskip("transformers.pipelines.base").Pipeline
        config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=8)
        model = transformers.GPT2LMHeadModel(config)
        moved: list[Any] = []

        class Pipe(pipe_type):  # type: ignore[misc, valid-type]
            def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], ...]:
                return {}, {}, {}

            preprocess = _forward = postprocess = None

        with simulate_host(name) as host:
            if choice(host) != "cpu" and not host.fault(choice(host)):
                # Where it goes on to move the model, this depth says that it cannot.
                with pytest.raises(SimulationDepthError, match=name):
                    Pipe(model=model, tokenizer=None)
            model.to = moved.append
            pipe = Pipe(model=model, tokenizer=None)
            assert pipe.device.type == choice(host)
            assert [device.type for device in moved] == ([] if choice(host) == "cpu" else [choice(host)])


class TestSpacy:
    @EVERY_HOST
    def test_its_flags_and_backend_follow_and_the_backend_comes_back(self, name: str) -> None:
        spacy = pytest.importorskip("spacy")
        thinc = pytest.importorskip("thinc.api")
        import thinc.compat as compat

        spacy.require_cpu()
        before = thinc.get_current_ops()
        with simulate_host(name) as host:
            assert bool(compat.has_torch_cuda_gpu) == bool(host.devices("cuda"))
            assert bool(compat.has_torch_mps_gpu) == bool(host.devices("mps"))
            # thinc uses a GPU of NVIDIA through CuPy only.
            served = bool(host.devices("mps")) or (compat.has_cupy and bool(usable(host, "cuda")))
            assert compat.has_gpu == served
            if not served:
                assert spacy.prefer_gpu() is False
                with pytest.raises(ValueError, match="GPU"):
                    spacy.require_gpu()
            elif host.devices("mps"):
                assert spacy.prefer_gpu() is True
                assert spacy.require_gpu() is True
                assert type(thinc.get_current_ops()).__name__ == "MPSOps"
        assert thinc.get_current_ops() is before
        assert spacy.prefer_gpu() is bool(compat.has_gpu)


def everything() -> dict[tuple[str, str], object]:
    """Return what every loaded module holds, except what tests and interpreters change all the time."""
    return {
        (module_name, name): value
        for module_name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and not module_name.startswith(("_pytest", "tests", "hypothesis", "devpolicy"))
        for name, value in list(vars(module).items())
        # By the type alone: some of torch's values warn when anything is asked of them.
        if callable(value) or type(value) in (bool, str, type(None))
    }


ASKED = """
torch.cuda.is_available() and torch.cuda.mem_get_info(); torch.accelerator.is_available(); torch.manual_seed(0)
accelerate.utils.modeling.get_max_memory(); accelerate.PartialState(); transformers.utils.get_available_devices()
haystack.utils.device.ComponentDevice.resolve_device(None); spacy.prefer_gpu(); util.get_device_name()
accelerate.Accelerator; transformers.utils.is_torch_bf16_gpu_available(); transformers.set_seed(0)
"""


class TestNothingIsLeft:
    def test_every_module_holds_what_it_held_and_every_cache_too(self) -> None:
        names = ["torch", "accelerate", "accelerate.utils.modeling", "transformers", "transformers.utils", "spacy"]
        loaded: dict[str, Any] = {name: pytest.importorskip(name) for name in [*names, "haystack.utils.device"]}
        loaded["util"] = pytest.importorskip("sentence_transformers.util")
        loaded["haystack"] = sys.modules["haystack"]
        exec(ASKED, loaded)  # whatever is loaded late is loaded now
        with simulate_host("2x24gb"):
            exec(ASKED.replace("torch.manual_seed(0)", "0"), loaded)
        held = [owner_value(owner, name) for owner, name in replaced()]
        caches = [value for value in held if hasattr(value, "cache_info")]
        before, information = everything(), [cache.cache_info().currsize for cache in caches]
        environment, finders = dict(os.environ), list(sys.meta_path)
        assert len(caches) > 20
        for name in ("2x24gb", "macbook-m3-36gb", "arc-a770", "cpu-only", "faulty/broken-driver"):
            with simulate_host(name, scope="process"):
                if name != "faulty/broken-driver":
                    exec(ASKED, loaded)
        after = everything()
        changed = [place for place, value in before.items() if after.get(place, value) is not value]
        assert not changed
        assert [cache.cache_info().currsize for cache in caches] == information
        assert sys.meta_path == finders
        assert {name: value for name, value in os.environ.items() if environment.get(name) != value} == {}
        assert environment.keys() == os.environ.keys()


ARGUMENTS: tuple[tuple[int, ...], ...] = ((), (0,), (13, 0))


def outcome(function: Callable[..., Any], *args: Any) -> object:
    try:
        return function(*args)
    except Exception:  # noqa: BLE001 - whatever it raises
        return Exception


@pytest.mark.parametrize("name", ["2x24gb", "cpu-only", "faulty/broken-driver"])
def test_what_is_left_alone_answers_as_if_it_were_replaced(name: str) -> None:
    for library in ("torch", "accelerate", "transformers.training_args", "peft"):
        pytest.importorskip(library)
    with simulate_host("arc-a770"), simulate_host("macbook-m3-36gb"):
        shims = {(id(owner), key): owner_value(owner, key) for owner, key in replaced()}
    with simulate_host(name):
        alone = [
            (owner_value(owner, key), shims[id(owner), key])
            for owner, key in replaced()
            if isinstance(owner, dict) and owner.get(key) is not shims.get((id(owner), key), owner.get(key))
        ]
        assert len(alone) > 50
        for original, shim in alone:
            if not isinstance(original, type):
                for args in ARGUMENTS:
                    assert outcome(original, *args) == outcome(shim, *args), (original, args)


def test_eight_threads_on_eight_hosts_see_their_own() -> None:
    utils = pytest.importorskip("transformers.utils")
    modeling = pytest.importorskip("accelerate.utils.modeling")
    state = pytest.importorskip("accelerate.state")
    together = threading.Barrier(8)

    def ask(name: str) -> int:
        wrong = 0
        together.wait()
        for _ in range(10):
            with simulate_host(name) as host:
                for _ in range(5):
                    wrong += utils.is_torch_cuda_available() != bool(host.devices("cuda"))
                    wrong += utils.get_available_devices() != {"cpu", *(device.type for device in host.accelerators)}
                    wrong += torch.cuda.device_count() != len(host.devices("cuda"))
                    wrong += state.PartialState().device.type != choice(host)
                wrong += psutil.virtual_memory().total != host.memory
                wrong += set(modeling.get_max_memory()) - {"cpu", "mps"} != set(range(len(host.devices(choice(host)))))
        return wrong

    names = ["cpu-only", "1x8gb", "2x24gb", "arc-a770", "80-24", "4x80gb", "24-24-12-8", "8x141gb"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, names)) == [0] * 8
    assert not state.PartialState._shared_state or state.PartialState().device.type == "cpu"


def owner_value(owner: Any, name: str) -> Any:
    # An inherited attribute is not the class's own before and after.
    return vars(owner).get(name) if isinstance(owner, type) else owner.get(name)


def in_a_fresh_interpreter(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


class TestFirstImportInside:
    @pytest.mark.parametrize(
        ("library", "ask"),
        [
            ("torch", "torch.cuda.device_count()"),
            ("accelerate", "len(accelerate.utils.get_max_memory()) - 1"),
            ("transformers.utils", "2 * transformers.utils.is_torch_cuda_available()"),
            ("thinc.compat", "2 * bool(thinc.compat.has_torch_cuda_gpu)"),
        ],
    )
    def test_a_library_imported_inside_follows_the_host(self, library: str, ask: str) -> None:
        pytest.importorskip(library)
        told = in_a_fresh_interpreter(f"""
            import sys
            from devpolicy.testing import simulate_host
            with simulate_host("2x24gb"):
                import {library}
                print({ask})
            inside = {ask}
            with simulate_host("2x24gb"):
                print({ask})
            import torch
            print(inside == (0 if not torch.cuda.is_available() else inside))
            print([name for name, module in list(sys.modules.items()) for value in list(vars(module).values())
                   if type(value).__name__ == "function" and "__wrapped__" in vars(value) and
                   getattr(getattr(value, "__code__", None), "co_filename", "").endswith("shims.py")])
        """)
        assert told.split("\n")[:4] == ["2", "2", "True", "[]"]

    def test_what_a_library_has_for_suites_is_imported_on_the_host(self) -> None:
        """`torch_device` is decided where it is imported: `--devpolicy-host` came to a suite with `cpu` there."""
        pytest.importorskip("accelerate")
        told = in_a_fresh_interpreter("""
            import sys
            from devpolicy.testing import simulate_host
            with simulate_host("2x24gb"):
                from accelerate.test_utils.testing import device_count, torch_device
                print(torch_device, device_count)
            print([name for name, module in list(sys.modules.items()) for value in list(vars(module).values())
                   if type(value).__name__ == "function" and value.__code__.co_filename.endswith("shims.py")
                   and not name.startswith("devpolicy")])
        """)
        assert told.split("\n")[:2] == ["cuda 2", "[]"]


def test_a_loader_may_be_shared_by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of pytest, which rewrites assertions, of all modules that a suite's `python_files` names."""

    class Shared(MetaPathFinder, Loader):
        ran: ClassVar[list[str]] = []

        def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            found = name.partition(".")[0] == "cupyx"
            return ModuleSpec(name, self, is_package=name == "cupyx") if found else None

        def create_module(self, spec: ModuleSpec) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None:
            self.ran.append(module.__name__)
            assert simulated_host() is None
            if module.__name__ == "cupyx":
                import_module("cupyx.inner")

    shared = Shared()
    monkeypatch.setattr(sys, "meta_path", [shared, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "cupyx", raising=False)
    with simulate_host("2x24gb"):
        assert find_spec("cupyx") is not None  # asked for, and not run
        module = import_module("cupyx")
    for name in ("cupyx", "cupyx.inner"):
        loaded = sys.modules[name]
        monkeypatch.delitem(sys.modules, name)
        assert loaded.__spec__ is not None
        assert loaded.__loader__ is loaded.__spec__.loader is shared
    assert shared.ran == ["cupyx", "cupyx.inner"]
    assert "exec_module" not in vars(shared)
    assert module.inner is loaded
