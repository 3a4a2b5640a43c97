"""A real Ray, its own cluster utility, nodes that are simulated hosts: capture, plan, reserve, start, verify, move.

`tox run -e ray` runs it. All tests share one cluster, since a node takes seconds to start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from devpolicy import Accelerator, Host, Policy  # noqa: E402
from devpolicy._core.fleet import starting  # noqa: E402
from devpolicy._core.simulator.building import simulator  # noqa: E402
from devpolicy.errors import FleetError  # noqa: E402
from devpolicy.fleet import Fleet, moves, plan_fleet  # noqa: E402
from devpolicy.targets.ray import Running, start  # noqa: E402
from devpolicy.testing import simulate_fleet  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")

GPUS = [Accelerator("cuda", memory="24 GiB", name="NVIDIA GeForce RTX 4090", capability=(8, 9)) for _ in range(2)]
UNLIKE = [GPUS[0], Accelerator("cuda", memory="8 GiB", name="NVIDIA GeForce RTX 3070", capability=(8, 6))]
FLEET = Fleet(
    {
        "left": Host(GPUS, memory="64 GiB", disk="100 GiB"),
        "right": Host(GPUS, memory="64 GiB", disk="100 GiB"),
        "odd": Host(UNLIKE, memory="32 GiB", disk="100 GiB"),
    },
    labels={"left": {"zone": "a"}, "right": {"zone": "a"}, "odd": {"zone": "b"}},
)
TEXT = """
[memory.cuda]
headroom = "0 B"
cap = "4 MiB"

[component.writer]
model = "{folder}/wide"
prefer = "cuda"
node = {{ labels = {{ zone = "a" }} }}

[component.embedder]
model = "{folder}/small"
prefer = "cuda"
replicas = 2
nodes = "spread"
node = {{ labels = {{ zone = "a" }} }}

[component.ranker]
model = "{folder}/small"
prefer = "little"
node = {{ labels = {{ zone = "b" }} }}

[component.clerk]
model = "{folder}/small"
prefer = "cpu"

[devices.little]
type = "cuda"
memory = "<12 GiB"
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("models")
    for name, hidden in (("small", 64), ("wide", 256)):
        config = transformers.LlamaConfig(
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=512,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / name)
    return Policy.parse(TEXT.format(folder=folder))


@pytest.fixture(scope="module")
def loads(policy: Policy):
    paths = {entry.name: str(entry.models[0]) for entry in policy.components}

    def of(path: str):
        def load(plan):
            from transformers import LlamaForCausalLM

            return LlamaForCausalLM.from_pretrained(path, **plan.to_hf_kwargs())

        return load

    return {name: of(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def cluster():
    if not simulator().built:
        pytest.skip("the simulator is not built: `devpolicy simulator build`")
    begun, before = time.perf_counter(), os.environ.get("RAY_TMPDIR")
    simulated = simulate_fleet(FLEET, depth="tensors")
    with simulated:
        print(f"a cluster of {len(FLEET)} nodes in {time.perf_counter() - begun:.1f} s")
        folder = Path(os.environ["RAY_TMPDIR"])
        assert list(folder.rglob("ray_current_cluster"))
        yield simulated
    assert not folder.exists()
    assert os.environ.get("RAY_TMPDIR") == before
    left = [one for one in psutil.Process().children(recursive=True) if one.name() in ("raylet", "gcs_server")]
    assert left == []


@pytest.fixture(scope="module")
def captured(cluster) -> Fleet:
    return Fleet.probe(timeout=60)


def devices(model) -> dict[str, str]:
    return {name: str(parameter.device) for name, parameter in model.named_parameters()}


def test_every_node_tells_its_host_and_labels(captured: Fleet) -> None:
    assert dict(captured) == dict(FLEET)
    assert {node: captured.labels(node)["zone"] for node in captured} == {"left": "a", "right": "a", "odd": "b"}
    assert list(captured.faults.values()) == ["it offers no CPU, so nothing is started on it"]


def test_a_node_that_does_not_answer_is_a_fault(cluster) -> None:
    (raylet,) = cluster.processes("odd")
    os.kill(raylet, signal.SIGSTOP)
    try:
        found = Fleet.probe(timeout=8)
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert found.faults["odd"] == "it did not answer within 8 seconds"
    assert {"left", "right"} <= set(found)


def test_a_worker_that_gets_other_devices_is_replaced(cluster, captured, policy, loads, monkeypatch) -> None:
    """Ray is asked for any GPU of a node of unlike ones: it gives the first, and the second was planned."""
    only = policy.components[[one.name for one in policy.components].index("ranker")]
    plan = plan_fleet(replace(policy, components=(only,)), None, captured)
    real = starting.actor_options

    def any_gpu(bundle, one, *, by_id=None):
        return real(bundle, one, by_id=bool(by_id))

    monkeypatch.setattr(starting, "actor_options", any_gpu)
    with start(plan, loads, timeout=200) as running:
        told = running.replaced["ranker"]
        assert told.visible == (0,)
        assert told.other_devices.startswith("there is no plan on what it sees, NVIDIA GeForce RTX 4090: ")
        assert running.reports["ranker"].visible == (1,)
        assert running.reports["ranker"].verified


def test_a_cluster_that_has_no_room_says_what_was_asked(cluster, captured, policy, loads) -> None:
    only = policy.components[[one.name for one in policy.components].index("clerk")]
    plan = plan_fleet(replace(policy, components=(only,)), None, captured)
    gone = Fleet(dict(captured), labels={node: {"devpolicy/node": f"{node}-gone"} for node in captured})
    with pytest.raises(
        FleetError, match="reserved nothing for `clerk` within 3 seconds: CPU 1 on devpolicy/node=odd-gone"
    ):
        start(replace(plan, fleet=gone), loads, timeout=3)


def test_a_cluster_that_does_not_answer_is_an_error(tmp_path) -> None:
    code = "from devpolicy.fleet import Fleet; Fleet.probe('127.0.0.1:1')"
    environment = {**os.environ, "RAY_gcs_server_request_timeout_seconds": "2"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "FleetError" in run.stderr
    assert "the cluster `127.0.0.1:1` does not answer" in run.stderr


def test_actors_start_are_verified_and_move_when_a_node_fails(cluster, captured, policy, loads) -> None:
    plan = plan_fleet(policy, None, captured)
    with start(plan, loads, timeout=200) as running:
        assert set(running.actors) == {"writer", "embedder/0", "embedder/1", "ranker", "clerk"}
        assert all(report.verified and not report.differences for report in running.reports.values())
        assert running.replaced == {}
        places = ray.get({name: one.apply.remote(devices) for name, one in running.actors.items()}["writer"])
        assert set(places.values()) == {"cuda:0", "cuda:1"}
        assert set(ray.get(running.actors["clerk"].apply.remote(devices)).values()) == {"cpu"}
        assert running.reports["ranker"].visible == (1,)  # the small card of unlike ones
        _tokens(running)
        lost = plan.components["writer"].node
        kept = {name: running.actors[name] for name in ("ranker", "clerk")}
        cluster.kill(lost)
        left = captured.without(lost)
        after = plan_fleet(policy, None, left, before=plan)
        assert {one.component.partition("/")[0] for one in moves(plan, after)} == {"writer", "embedder"}
        running.move(after)
        assert {name: running.actors[name] for name in kept} == kept
        assert all(report.verified and not report.differences for report in running.reports.values())
        assert {report.node for report in running.reports.values()} <= set(left)
        _tokens(running)
    _wait_until_nothing_is_in_use()


def _tokens(running: Running) -> None:
    """Every model runs where it is."""

    def answer(model):
        import torch

        model.eval()
        with torch.no_grad():
            return model(torch.tensor([[1, 2, 3]]).to(model.model.embed_tokens.weight.device)).logits.shape[-1]

    assert set(ray.get([one.apply.remote(answer) for one in running.actors.values()])) == {512}


def _wait_until_nothing_is_in_use() -> None:
    for _ in range(60):
        free, there = ray.available_resources(), ray.cluster_resources()
        if all(free.get(name) == there.get(name) for name in ("CPU", "GPU")):
            return
        time.sleep(0.5)
    raise AssertionError(f"in use: {there} without {free}")
