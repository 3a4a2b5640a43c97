"""Devices where a component is initialised: the worked example of docs/haystack.md, with a model in real pipelines."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import (  # noqa: E402
    ComponentDevice,
    DeviceMap,
    DevPolicyError,
    Host,
    Policy,
    PolicyError,
    Unsatisfiable,
    plan,
    plan_all,
    use_policy,
)
from devpolicy._core.verbs import active_device  # noqa: E402
from tests.pages import blocks  # noqa: E402

HEAD = 'prefer = ["cuda", "mps", "cpu"]\n[offload]\nlm_head = "disk"\n'
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 256}
HOSTS = ("1x24gb", "2x24gb", "4x80gb", "macbook-m3-36gb", "cpu-only", "faulty/broken-driver", "faulty/visible-gap")
IDS = [5, 6, 7]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_hidden_layers=4)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("policies") / "policy.toml"
    file.write_text(HEAD, encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The component of the page, imported from a file as a user's would be."""
    pytest.importorskip("haystack")
    folder = tmp_path_factory.mktemp("code")
    (block,) = (block for block in blocks("haystack") if block.file == "my_component.py")
    (folder / "my_component.py").write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("my_component")
        del sys.modules["my_component"]


def pipeline_of(**components: Any) -> Any:
    from haystack import Pipeline

    pipeline = Pipeline()
    for name, instance in components.items():
        pipeline.add_component(name, instance)
    return pipeline


def loaded(text: str) -> Any:
    from haystack import Pipeline

    # Haystack before 3 has no list of trusted modules.
    known = "allowed_modules" in signature(Pipeline.loads).parameters
    return Pipeline.loads(text, **({"allowed_modules": ["my_component"]} if known else {}))


# What a pipeline saves, and what it means on another host.


def test_the_name_of_the_policy_is_saved(example: ModuleType, checkpoint: str, policy: str) -> None:
    with use_policy(policy, "2x24gb"):
        component = example.MyComponent(checkpoint, policy=policy)
        assert component.where().to_hf() == {"model": 0, "lm_head": "disk"}
        text = pipeline_of(generator=component).dumps()
    assert policy in text
    assert "device: null" in text
    assert "cuda" not in text
    assert "lm_head" not in text


@pytest.mark.parametrize("host", HOSTS)
def test_a_saved_pipeline_resolves_on_its_new_host(
    host: str, example: ModuleType, checkpoint: str, policy: str
) -> None:
    with use_policy(policy, "4x80gb"):
        text = pipeline_of(generator=example.MyComponent(checkpoint, policy=policy)).dumps()
    again = loaded(text).get_component("generator")
    with use_policy(policy, host):
        assert again.where() == plan(policy, checkpoint, host).device
        # The component moves with the block, because it keeps no device.
        with use_policy(policy, "cpu-only"):
            assert again.where().to_hf() == {"model": "cpu", "lm_head": "disk"}


def test_a_pipeline_that_is_saved_twice_is_the_same(example: ModuleType, checkpoint: str, policy: str) -> None:
    text = pipeline_of(generator=example.MyComponent(checkpoint, policy=policy)).dumps()
    assert loaded(text).dumps() == text


@pytest.mark.parametrize(
    "device",
    [ComponentDevice.from_str("cuda:1"), ComponentDevice.from_multiple(DeviceMap.from_hf({"": 0, "a": "cpu"}))],
)
def test_a_device_that_is_given_wins_and_survives_saving(
    device: ComponentDevice, example: ModuleType, checkpoint: str, policy: str
) -> None:
    text = pipeline_of(generator=example.MyComponent(checkpoint, device, policy)).dumps()
    with use_policy(policy, "macbook-m3-36gb"):
        assert loaded(text).get_component("generator").where() == device


def test_without_a_policy_of_its_own_the_one_in_use_decides(example: ModuleType, checkpoint: str) -> None:
    component = loaded(pipeline_of(generator=example.MyComponent(checkpoint)).dumps()).get_component("generator")
    with use_policy("prefer-accelerator", "macbook-m3-36gb"):
        assert component.where() == ComponentDevice.from_str("mps")


# Running.


def test_the_model_answers_as_one_without_a_policy(example: ModuleType, checkpoint: str, policy: str) -> None:
    text = pipeline_of(generator=example.MyComponent(checkpoint, policy=policy)).dumps()
    pipeline = loaded(text)
    with use_policy(policy, "cpu-only"):
        answer = pipeline.run({"generator": {"ids": IDS}})["generator"]["ids"]
    network = pipeline.get_component("generator").network
    assert plan(policy, checkpoint, "cpu-only").verify(network) == []
    assert network.lm_head.weight.device.type == "meta", "the head is in memory, and the policy says disk"
    plain = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    inputs = torch.tensor([IDS])
    mask = torch.ones_like(inputs)
    assert answer == plain.generate(inputs, attention_mask=mask, max_new_tokens=4, do_sample=False)[0].tolist()


def test_several_components_of_a_pipeline_share_the_devices(
    example: ModuleType, checkpoint: str, tmp_path: Path
) -> None:
    # Room for the model, its workload and no second one on each device.
    need = plan("prefer-accelerator", checkpoint, "2x24gb").ledger["cuda:0"].used
    tight = tmp_path / "tight.toml"
    tight.write_text(
        f'prefer = "cuda"\nmemory.cuda = {{ cap = "{need * 3 // 2} B", headroom = "0 B" }}\n', encoding="utf-8"
    )
    names = ("first", "second", "third")
    text = pipeline_of(**{name: example.MyComponent(checkpoint, policy=str(tight)) for name in names}).dumps()
    first, second, third = (loaded(text).get_component(name) for name in names)
    with use_policy(tight, "2x24gb"):
        assert [one.where().to_torch_str() for one in (first, second)] == ["cuda:0", "cuda:1"]
        with pytest.raises(Unsatisfiable):
            third.where()


def rag(folder: Path, checkpoint: str, **models: bool) -> Path:
    """A policy of three components, two of which would fill a card; those named false have no model in it."""
    used = plan("prefer-accelerator", checkpoint, "2x24gb").ledger["cuda:0"].used
    file = folder / "rag.toml"
    memory = f'memory.cuda = {{ cap = "{used * 5 // 2} B", headroom = "0 B" }}'
    entries = [
        f"[component.{name}]\n" + (f"model = '{checkpoint}'\n" if models.get(name, True) else "")
        for name in ("embedder", "ranker", "generator")
    ]
    file.write_text("\n".join(["prefer = ['cuda', 'cpu']", memory, *entries]), encoding="utf-8")
    return file


ORDERS = [
    ("embedder", "ranker", "generator"),
    ("generator", "ranker", "embedder"),
    ("ranker", "generator", "embedder", "ranker", "generator"),
]


@pytest.fixture(scope="module")
def component_of_a_policy() -> Iterator[type]:
    """A component of Haystack that keeps its name in the policy in use, and asks it when it warms up."""
    haystack = pytest.importorskip("haystack")

    @haystack.component
    class Named:
        def __init__(self, component: str, model: str | None = None) -> None:
            self.component, self.model, self.device = component, model, None

        def warm_up(self) -> None:
            self.device = active_device(component=self.component, model=self.model)

        @haystack.component.output_types(where=str)
        def run(self, text: str) -> dict[str, str]:
            return {"where": self.device.to_torch_str()}

    yield Named


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(order))
def test_components_get_the_joint_plan_in_any_order(
    order: tuple[str, ...], component_of_a_policy: type, checkpoint: str, tmp_path: Path
) -> None:
    policy = rag(tmp_path, checkpoint)
    planned = {name: made.device for name, made in plan_all(policy, host="2x24gb").items()}
    assert len(set(planned.values())) == 2, "they would all have fitted on one card"
    components = {name: component_of_a_policy(name) for name in dict.fromkeys(order)}
    with use_policy(policy, "2x24gb"):
        for name in order:
            components[name].warm_up()
    assert {name: one.device for name, one in components.items()} == planned


def test_a_pipeline_warms_up_to_the_joint_plan(component_of_a_policy: type, checkpoint: str, tmp_path: Path) -> None:
    policy = rag(tmp_path, checkpoint, generator=False)
    pipeline = pipeline_of(
        generator=component_of_a_policy("generator", checkpoint),
        embedder=component_of_a_policy("embedder"),
        ranker=component_of_a_policy("ranker"),
    )
    with use_policy(policy, "2x24gb"):
        pipeline.warm_up()
        told = pipeline.run({name: {"text": "x"} for name in ("embedder", "ranker", "generator")})
    planned = plan_all(policy, {"generator": checkpoint}, "2x24gb")
    assert {name: answer["where"] for name, answer in told.items()} == {
        name: made.device.to_torch_str() for name, made in planned.items()
    }


def test_threads_that_warm_components_up_share_what_is_claimed(
    component_of_a_policy: type, checkpoint: str, tmp_path: Path
) -> None:
    policy = rag(tmp_path, checkpoint)
    planned = {name: made.device for name, made in plan_all(policy, host="2x24gb").items()}
    components = [component_of_a_policy(name) for name in planned for _ in range(3)]
    with use_policy(policy, "2x24gb"), ThreadPoolExecutor(len(components)) as pool:
        context = [copy_context() for _ in components]
        list(pool.map(lambda pair: pair[0].run(pair[1].warm_up), zip(context, components, strict=True)))
    assert all(one.device == planned[one.component] for one in components)


def test_a_saved_pipeline_is_decided_jointly(checkpoint: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    haystack = pytest.importorskip("haystack")
    from haystack.components.evaluators import SASEvaluator
    from haystack.core.serialization import DeserializationCallbacks

    from devpolicy.haystack import decide

    policy = rag(tmp_path, checkpoint)
    planned = plan_all(policy, host="2x24gb")
    text = pipeline_of(**{name: SASEvaluator(model=name) for name in planned}).dumps()
    callbacks = DeserializationCallbacks(component_pre_init=decide(policy, "2x24gb"))
    pipeline = haystack.Pipeline.loads(text, callbacks=callbacks)
    for name, made in planned.items():
        assert ComponentDevice.from_haystack(pipeline.get_component(name)._device) == made.device


def test_an_entry_for_a_class_speaks_for_a_saved_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    haystack = pytest.importorskip("haystack")
    from haystack.components.evaluators import SASEvaluator
    from haystack.core.serialization import DeserializationCallbacks

    from devpolicy.haystack import decide

    policy = Policy.parse(
        "prefer = 'cuda:1'\n[component.'*']\ntype = 'haystack.components.evaluators.*'\nprefer = 'cpu'\n"
        "[component.'other*']\ntype = 'haystack.components.rankers.*'\nprefer = 'cuda:0'\n"
    )
    text = pipeline_of(one=SASEvaluator(model="x"), other=SASEvaluator(model="y")).dumps()
    callbacks = DeserializationCallbacks(component_pre_init=decide(policy, "2x24gb"))
    pipeline = haystack.Pipeline.loads(text, callbacks=callbacks)
    assert {str(pipeline.get_component(name)._device.to_torch_str()) for name in ("one", "other")} == {"cpu"}


def test_what_the_host_lacks_is_refused_at_warm_up(example: ModuleType, checkpoint: str) -> None:
    component = example.MyComponent(checkpoint, policy="offload-lm-head")
    with use_policy("offload-lm-head", "cpu-only"), pytest.raises(Unsatisfiable) as refused:
        component.warm_up()
    assert refused.value.code == "DP301"
    assert component.network is None


def test_a_policy_that_is_not_there_is_told_by_name(example: ModuleType, checkpoint: str) -> None:
    with pytest.raises(PolicyError, match="did you mean `offload-lm-head`"):
        example.MyComponent(checkpoint, policy="offload-lm-heat").warm_up()


def test_the_variable_decides_in_a_process_of_its_own(example: ModuleType, checkpoint: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from my_component import MyComponent\n"
        "component = MyComponent(sys.argv[2]); component.warm_up()\n"
        "print(component.where().to_torch_str(), component.run([5, 6, 7])['ids'][:3])"
    )
    assert example.__file__ is not None
    environ = {**os.environ, "DEVPOLICY": "cpu-only"}
    command = [sys.executable, "-c", code, str(Path(example.__file__).parent), checkpoint]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=300, check=False)
    assert (done.stdout, done.returncode) == ("cpu [5, 6, 7]\n", 0), done.stderr


# Facts of Transformers that the pages tell.


def test_components_with_rewritten_weights_stay_apart(tmp_path: Path) -> None:
    sizes = {**SMALL, "num_key_value_heads": 2, "num_hidden_layers": 2, "num_local_experts": 4}
    originals = {}
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        originals[name] = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)).eval()
        originals[name].save_pretrained(tmp_path / name)
    policy = Policy.parse(
        f"prefer = 'cpu'\nmemory.disk.path = '{tmp_path}/offload'\n[[rule]]\nclass = '*Experts'\noffload = 'disk'\n"
    )
    plans = plan_all(policy, {name: tmp_path / name for name in originals}, "cpu-only")
    both = {
        name: transformers.MixtralForCausalLM.from_pretrained(tmp_path / name, **made.to_hf_kwargs()).eval()
        for name, made in plans.items()
    }
    ids = torch.tensor([IDS])
    with torch.no_grad():
        for name, original in originals.items():
            assert torch.equal(both[name](ids).logits, original(ids).logits)


def test_a_key_of_a_tensor_is_harmless_for_accelerate(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**small, "vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**small, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    original = transformers.CLIPModel(config).eval()
    original.save_pretrained(tmp_path)
    made = plan(Policy.parse('prefer = "cpu"\noffload."text_model.encoder.layers.1" = "disk"\n'), tmp_path, "cpu-only")
    assert "logit_scale" in made.to_hf_kwargs()["device_map"]
    with pytest.warns(
        UserWarning, match=r"device_map keys do not match any submodules in the model: \['logit_scale'\]"
    ):
        model = transformers.CLIPModel.from_pretrained(tmp_path, **made.to_hf_kwargs()).eval()
    assert made.verify(model) == []
    inputs = {"input_ids": torch.tensor([[3, 4, 5, 1]]), "pixel_values": torch.ones(1, 3, 16, 16)}
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits_per_image, original(**inputs).logits_per_image, atol=1e-5)


def test_transformers_names_rewritten_weights_by_tensors(tmp_path: Path) -> None:
    """Why each component has a folder of its own: where this fails, Transformers has learnt to keep models apart."""
    policy = Policy.parse(
        f"prefer = 'cpu'\nmemory.disk.path = '{tmp_path}/offload'\n[[rule]]\nclass = '*Experts'\noffload = 'disk'\n"
    )
    sizes = {**SMALL, "num_key_value_heads": 2, "num_hidden_layers": 1, "num_local_experts": 2}
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)).save_pretrained(tmp_path / "model")
    made = plan(policy, tmp_path / "model", Host.load("cpu-only"))
    transformers.MixtralForCausalLM.from_pretrained(tmp_path / "model", **made.to_hf_kwargs())
    written = sorted(file.name for file in (tmp_path / "offload").iterdir())
    assert "model.layers.0.mlp.experts.down_proj.safetensors" in written


def test_a_component_is_named_by_text() -> None:
    with pytest.raises(DevPolicyError, match="a component is named by text, not by a value of type int"):
        ComponentDevice.from_policy(Policy.parse('prefer = ["cpu"]'), host="cpu-only", component=3)  # type: ignore[arg-type]


def test_the_text_of_a_policy_as_its_name_is_led_to_parse() -> None:
    with pytest.raises(PolicyError, match=r"a policy's own text is read by `Policy\.parse`"):
        ComponentDevice.from_policy('prefer = ["cpu"]', host="cpu-only")
