"""Every component class that takes a device, in every way in which it may get one.

The default suite runs one class of each form on simulated devices; with `HAYSTACK_TABLE=FILE` all are run, and the
table of what came out is written there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")
pytest.importorskip("torch")

import torch
from haystack import Pipeline
from haystack.core.serialization import DeserializationCallbacks
from haystack.utils import ComponentDevice as HaystackDevice
from tests.targets.haystack.classes import BEFORE_3, CASES, SINCE_3, WITHOUT, Case, device_of, network_of, run
from tests.targets.haystack.conftest import STUBS
from tests.targets.haystack.page import PAGE, written

from devpolicy import Policy, use_policy
from devpolicy._core.simulator.loading import require_built
from devpolicy._core.targets.haystack_components.table import ROWS, Takes, TakesNone
from devpolicy.errors import DevPolicyWarning, SimulationDepthError
from devpolicy.haystack import apply, decide, survey
from devpolicy.testing import simulate_host

POLICY = Policy.parse('prefer = ["cuda:1", "mps", "cpu"]')
GPUS, MAC = "2x24gb", "macbook-m3-36gb"
NO_MPS = {"SpacyNamedEntityExtractor", *(name for name in CASES if name.startswith(("Fastembed", "Optimum")))}
"""What has no way to a Mac's GPU, and so runs on what `prefer` lists next."""
SAMPLE = (
    "SASEvaluator",
    "SentenceTransformersTextEmbedder",
    "TransformersExtractiveReader",
    "TransformersChatGenerator",
)
TABLE = os.environ.get("HAYSTACK_TABLE")
COLUMNS = ("use_policy", "DEVPOLICY", "decide", "no device", "apply", GPUS, MAC)

cells: dict[str, dict[str, str]] = {}


def expected(case: Case, host: str) -> str:
    return "cuda:1" if host == GPUS else "cpu" if case.name in NO_MPS else "mps"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Write what came out."""
    yield
    if TABLE:
        lines = [f"| class | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        for name, row in sorted(cells.items()):
            lines.append(f"| {name} | {' | '.join(row.get(column, '-') for column in COLUMNS)} |")
        Path(TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def need(case: Case) -> None:
    """Skip what a library is missing for."""
    pytest.importorskip(case.module, reason=f"{case.name} is not installed", exc_type=ImportError)
    if case.model == "sentences":
        pytest.importorskip("sentence_transformers")


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found = CASES[request.param]
    need(found)
    return found


def trusted() -> dict[str, Any]:
    # Haystack before 3 has no list of trusted modules.
    known = "allowed_modules" in signature(Pipeline.loads).parameters
    return {"allowed_modules": ["haystack*", "haystack_integrations*", "outlines_haystack*"]} if known else {}


def loaded(text: str, by: Any = None) -> Any:
    callbacks = DeserializationCallbacks(component_pre_init=by) if by else None
    return Pipeline.loads(text, callbacks=callbacks, **trusted())


def saved(case: Case, models: Path, **device: Any) -> str:
    pipeline = Pipeline()
    pipeline.add_component("one", case.cls(**case.arguments(models, **device)))
    return pipeline.dumps()


def saved_elsewhere(case: Case, models: Path) -> str:
    return saved(case, models, **(case.saved or {"device": HaystackDevice.from_str("cuda:3")}))


def note(case: Case, column: str, value: str) -> None:
    cells.setdefault(case.name, {})[column] = value


@pytest.mark.parametrize("host", [GPUS, MAC])
def test_made_without_a_device_it_gets_that_of_the_policy_in_use(case: Case, host: str, models: Path) -> None:
    before = device_of(case.cls(**case.arguments(models)))
    with use_policy(POLICY, host):
        assert device_of(case.cls(**case.arguments(models))) == expected(case, host)
    assert device_of(case.cls(**case.arguments(models))) == before, "something of the policy was left behind"
    note(case, "use_policy", "ok")


@pytest.mark.parametrize("host", [GPUS, MAC])
def test_saved_on_another_machine_it_is_decided_when_loaded(case: Case, host: str, models: Path) -> None:
    text = saved_elsewhere(case, models)
    assert "3" in text
    again = loaded(text, decide(POLICY, host))
    assert device_of(again.get_component("one")) == expected(case, host)
    # Saved once more, it is what it was decided to be, and nothing of the first machine is left.
    third = again.dumps()
    assert device_of(loaded(third).get_component("one")) == expected(case, host)
    assert "cuda:3" not in third
    note(case, "decide", "ok")


def test_saved_without_a_device_it_gets_the_policys(case: Case, models: Path, tmp_path: Path) -> None:
    import yaml

    data = yaml.safe_load(saved(case, models))
    params = data["components"]["one"]["init_parameters"]
    for key in ("device", "device_map", "cuda", "device_ids", "onnx_execution_provider"):
        for holder in (params, *(value for value in params.values() if isinstance(value, dict))):
            holder.pop(key, None)
    for text in (yaml.safe_dump(data), yaml.safe_dump({**data, "components": {"one": null_device(data)}})):
        with use_policy(POLICY, GPUS):
            assert device_of(loaded(text).get_component("one")) == "cuda:1"
    note(case, "no device", "ok")


def null_device(data: dict[str, Any]) -> dict[str, Any]:
    entry = data["components"]["one"]
    row = ROWS[entry["type"].rpartition(".")[2]]
    assert isinstance(row, Takes)
    has_device = row.form not in ("fastembed", "llama-cpp", "provider")
    return {**entry, "init_parameters": {**entry["init_parameters"], **({"device": None} if has_device else {})}}


@pytest.mark.parametrize("host", [GPUS, MAC])
def test_built_in_code_it_gets_its_device_before_warm_up(case: Case, host: str, models: Path) -> None:
    pipeline = Pipeline()
    pipeline.add_component("one", case.cls(**case.arguments(models)))
    (result,) = apply(pipeline, POLICY, host)
    assert result.device.to_torch_str() == expected(case, host)
    assert device_of(pipeline.get_component("one")) == expected(case, host)
    assert device_of(loaded(pipeline.dumps()).get_component("one")) == expected(case, host)
    note(case, "apply", "ok")


def test_a_saved_pipeline_is_surveyed_as_it_is_decided(case: Case, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(saved_elsewhere(case, models), encoding="utf-8")
    for host in (GPUS, MAC):
        (one,) = survey(POLICY, file, host).components
        assert one.device.to_torch_str() == expected(case, host)
        assert "3" in str(one.replaced)


def test_the_variable_reaches_components_without_a_device(models: Path, tmp_path: Path) -> None:
    """In a process of its own, which does nothing about it but import devpolicy, and that after Haystack."""
    policy = tmp_path / "policy.toml"
    policy.write_text('prefer = ["cuda", "cpu"]\navoid = "cuda"\n', encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); sys.path.append(sys.argv[3])\n"
        "from pathlib import Path; import json, threading, haystack, devpolicy\n"
        "from tests.targets.haystack.classes import CASES, device_of\n"
        "from devpolicy.testing import simulate_host\n"
        "found = {}\n"
        "def make():\n"
        "    for name, case in CASES.items():\n"
        "        try: cls = case.cls\n"
        "        except ImportError: continue\n"
        "        found[name] = device_of(cls(**case.arguments(Path(sys.argv[1]))))\n"
        "with simulate_host('2x24gb'):\n"
        "    other = threading.Thread(target=make); other.start(); other.join()\n"
        "print(json.dumps(found))\n"
    )
    root = str(Path(__file__).parents[3])
    environ = {**os.environ, "DEVPOLICY": str(policy), "HAYSTACK_TELEMETRY_ENABLED": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(models), root, str(STUBS)],
        capture_output=True, text=True, env=environ, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if len(found) < min(14, len(CASES)):
        pytest.skip("Haystack's integrations are not installed")
    # Haystack's own choice on such a host is cuda.
    assert set(found.values()) == {"cpu"}
    for name in found:
        note(CASES[name], "DEVPOLICY", "ok")


@pytest.mark.parametrize("host", [GPUS, MAC])
@pytest.mark.parametrize("name", CASES if TABLE else [name for name in SAMPLE if name in CASES])
def test_on_a_simulated_host_weights_are_where_planned(name: str, host: str, models: Path, no_downloads: None) -> None:
    case = CASES[name]
    if case.no_run and not (name == "SpacyNamedEntityExtractor" and host == MAC):
        note(case, host, f"not run: {case.no_run}")
        pytest.skip(case.no_run)
    need(case)
    try:
        require_built("tensors")
    except SimulationDepthError as missing:
        pytest.skip(str(missing))
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(simulate_host(host, depth="tensors"))
        pipeline = Pipeline()
        pipeline.add_component("one", case.cls(**case.arguments(models)))
        (result,) = apply(pipeline, POLICY)
        one = pipeline.get_component("one")
        if case.refused and host == GPUS:
            with pytest.raises(RuntimeError, match=case.refused):
                run(case, one)
            note(case, host, "refused on cuda:1: ONNX Runtime copies nothing to a simulated GPU")
            return
        run(case, one)
        if name == "SpacyNamedEntityExtractor":
            note(case, host, "ok: cpu")
            return
        network = network_of(one)
        if not isinstance(network, torch.nn.Module):
            note(case, host, f"ok: {on_session(network, expected(case, host))}")
            return
        tensors = [*network.parameters(), *network.buffers()]
        where = {str(tensor.device).removesuffix(":0") for tensor in network.parameters()}
        assert where == {expected(case, host)}
        if result.decision.plan is not None:
            dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in network.parameters()}
            loading = result.decision.plan.loading
            assert dtypes == {loading.dtype or loading.model_dtype}
            (budget,) = [budget for device, budget in result.decision.plan.ledger.items() if budget.weights]
            assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == budget.weights
        note(case, host, f"ok: {expected(case, host)}" + (", a stand-in" if case.is_stub else ""))


def on_session(session: Any, device: str) -> str:
    """Return what a session of ONNX Runtime runs on, as it says itself, after holding it against a device."""
    provider, *_ = session.get_providers()
    number = session.get_provider_options()[provider].get("device_id")
    assert (f"cuda:{number}" if provider == "CUDAExecutionProvider" else "cpu") == device
    return f"{device}, {provider}"


@pytest.mark.parametrize("name", WITHOUT)
def test_a_class_without_a_parameter_is_refused_with_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, row = WITHOUT[name], ROWS[name]
    need(case)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert isinstance(row, TakesNone)
    pipeline = Pipeline()
    pipeline.add_component("one", case.cls())
    text, named = pipeline.dumps(), Policy.parse('prefer = "cuda"\n[component.one]\nneeds = "1 GiB"\n')
    told = re.escape(row.instead)
    with pytest.warns(DevPolicyWarning, match=told):
        loaded(text, decide(named, GPUS))
    with pytest.warns(DevPolicyWarning, match=told):
        assert apply(pipeline, named, GPUS) == []
    with use_policy(named, GPUS), pytest.warns(DevPolicyWarning, match=told):
        loaded(text)
    with use_policy(POLICY, GPUS), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        case.cls()
    assert [row.instead in str(one.message) for one in heard] == [True] * row.takes_any
    for column in COLUMNS:
        note(case, column, "refused: DP509" if row.takes_any or column in ("decide", "apply") else "none to take")


def test_every_row_of_the_table_has_a_case_here() -> None:
    takes = {name for name, row in ROWS.items() if isinstance(row, Takes)}
    # Of llama-cpp-haystack before 3; it goes the way of the other.
    assert takes - set(SINCE_3) - set(BEFORE_3) == {"LlamaCppGenerator"}
    assert {*SINCE_3, *BEFORE_3} <= takes
    assert {name for name, row in ROWS.items() if isinstance(row, TakesNone)} == set(WITHOUT)
    assert len(SINCE_3) >= 20


def test_the_page_has_a_line_for_every_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text, "python -m tests.targets.haystack.page writes it anew"
