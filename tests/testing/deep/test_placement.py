"""Plans on simulated devices: placement changes, numbers never do; and no device holds more than its plan says."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

from tests.worlds import World, as_policy, spread_worlds, worlds  # noqa: E402
from tools.model_files import CATALOGUE  # noqa: E402

from devpolicy import Host, ModelTree, Plan, Policy, PolicyError, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.model.catalogue import load  # noqa: E402
from devpolicy._core.placement.saved import PlanError  # noqa: E402
from devpolicy._core.strategies.configs import transformers_configs  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

ACCELERATORS = ("cuda", "mps", "xpu")
IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])
few = settings(max_examples=settings.default.max_examples // 2, suppress_health_check=[HealthCheck.too_slow])


def planned(world: World) -> Plan | None:
    try:
        made = plan(as_policy(world.policy), world.tree, world.host)
        made.to_hf_kwargs()
    except (Unsatisfiable, PlanError, PolicyError):
        return None  # also a rule that decides nothing in this model
    return made


def placed_worlds(tree: ModelTree) -> st.SearchStrategy[World]:
    """Worlds of a model: most use several places, some are any, plain ones and such as are refused."""
    return st.sampled_from((worlds, *[spread_worlds] * 6)).flatmap(lambda make: make(trees=st.just(tree)))


def built(config: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, config.architectures[0])
    return cls(config).eval()


def answer(model: Any, ids: Any) -> Any:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        result = model(ids, **more)
    return (result.logits if "logits" in result else result.last_hidden_state).cpu()


def over(made: Plan) -> dict[str, int]:
    """Return the bytes on devices that hold more than the plan's weights."""
    devices = {device: budget for device, budget in made.ledger.items() if device.partition(":")[0] in ACCELERATORS}
    held = {device: simulated_device(device).allocated for device in devices}
    return {device: size for device, size in held.items() if size > devices[device].weights}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(transformers_configs(), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_model_answers_the_same_wherever_a_plan_puts_it(config: Any, data: st.DataObject) -> None:
    model = built(config)
    world = data.draw(placed_worlds(ModelTree.from_module(model)))
    made = planned(world)
    if made is None:
        return
    expected = answer(model, IDS)
    with simulate_host(world.host, depth="tensors"), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        own = {**made.to_hf_kwargs(), "offload_folder": f"{folder}/offload"}
        loaded = type(model).from_pretrained(folder, **own)
        if over(made):
            gc.collect()  # of what loading leaves in cycles
        assert over(made) == {}
        assert torch.equal(answer(loaded, IDS.to(made.device.first_device.to_torch_str())), expected)
        assert made.verify(loaded) == []


def test_most_of_these_models_are_in_several_places() -> None:
    places: list[set[Any]] = []

    @settings(max_examples=60, derandomize=True, database=None, phases=[Phase.generate])
    @given(transformers_configs(), st.data())
    def look(config: Any, data: st.DataObject) -> None:
        made = planned(data.draw(placed_worlds(ModelTree.from_config(config))))
        places.append(set() if made is None else set(made.to_hf_kwargs()["device_map"].values()))

    look()
    assert sum(len(each) > 1 for each in places) > 0.7 * len(places)
    assert sum(len(each - {"cpu", "disk"}) > 1 for each in places) > 0.25 * len(places)
    assert any(len(each) == 1 for each in places)


def allocated(tree: ModelTree, made: Plan) -> tuple[dict[str, int], list[Any]]:
    """Give every tensor of a model its memory where the plan keeps it; return bytes by device, and what holds them."""
    held: list[Any] = []
    seen: set[str] = set()
    follows = {name: group[0] for group in tree.ties for name in group}
    for module in tree.modules:
        where = str(made.placements[module.path].device) if module.path in made.placements else None
        for tensor in module.tensors:
            name = f"{module.path}.{tensor.name}".lstrip(".")
            place = where if where is not None else str(made.placements[name].device)
            if place.partition(":")[0] in ACCELERATORS and follows.get(name, name) not in seen:
                seen.add(follows.get(name, name))
                dtype = getattr(torch, tensor.dtype or tree.dtype)
                held.append(torch.empty(tensor.shape, dtype=dtype, device=place))
    figures = {str(device): 0 for device in made.ledger}
    for one in held:
        figures[str(one.device)] += one.nbytes
    return figures, held


@few
@given(worlds())
def test_what_a_plan_keeps_on_a_device_is_what_it_says(world: World) -> None:
    made = planned(world)
    if made is None:
        return
    with simulate_host(world.host, depth="phantom"):
        figures, held = allocated(world.tree, made)
        for device, budget in made.ledger.items():
            if str(device).partition(":")[0] in ACCELERATORS:
                module = getattr(torch, str(device).partition(":")[0])
                told = (
                    module.current_allocated_memory() if "mps" in str(device) else module.memory_allocated(str(device))
                )
                assert told == figures[str(device)] <= budget.weights
        del held


def materialize(model: Any, device_map: Mapping[str, Any]) -> None:
    """Give the tensors of a model on the meta device their memory; tied ones once."""
    made: dict[int, Any] = {}
    for path, module in model.named_modules():
        place = next((value for key, value in device_map.items() if not key or f"{path}.".startswith(f"{key}.")), None)
        for tensors in (module._parameters, module._buffers):
            for name, tensor in [(name, tensor) for name, tensor in tensors.items() if tensor is not None]:
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=torch.device("cuda", place))
                    learnt = isinstance(tensor, torch.nn.Parameter)
                    made[id(tensor)] = tensor, torch.nn.Parameter(empty, False) if learnt else empty
                tensors[name] = made[id(tensor)][1]


PUBLISHED = [
    ("llama-3.2-1b", "1x8gb"),
    ("llama-3.1-8b", "1x24gb"),
    ("llama-3.1-8b", "24-24-12-8"),
    ("llama-3.1-70b", "4x80gb"),
    ("mixtral-8x7b", "8x80gb"),
]


@pytest.mark.parametrize(("name", "host"), PUBLISHED)
def test_a_published_model_stays_within_its_plan_while_it_runs(name: str, host: str) -> None:
    """At its true size, with the plan's own workload: weights, KV cache and activations, of eager attention."""
    policy = Policy.parse('prefer = ["cuda"]\n[workload]\ncontext = 2048\n')
    tree, machine = load(name), Host.load(host)
    made = plan(policy, tree, machine)
    device_map: Mapping[str, Any] = made.to_hf_kwargs()["device_map"]
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(**CATALOGUE[name].config)
        model = getattr(transformers, config.architectures[0])(config).to(torch.bfloat16).eval()
    with simulate_host(machine, depth="phantom"):
        materialize(model, device_map)
        gpus = [device for device in made.ledger if str(device).startswith("cuda")]
        loaded = {device: simulated_device(str(device)).allocated for device in gpus}
        assert all(loaded[device] <= made.ledger[device].weights for device in gpus), (loaded, made.ledger)
        model = accelerate.dispatch_model(model, device_map, force_hooks=True)
        with torch.no_grad():
            model(torch.empty(1, 2048, dtype=torch.long, device="cuda:0"))
        for device in gpus:
            budget = made.ledger[device]
            assert simulated_device(str(device)).peak <= budget.cap - budget.headroom, (device, budget)
