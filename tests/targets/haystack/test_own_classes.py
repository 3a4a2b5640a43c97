"""Classes that others wrote: what they inherit, what their signatures say, and where they keep their device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

pytest.importorskip("haystack")
pytest.importorskip("haystack_integrations.components.generators.transformers", exc_type=ImportError)

import torch
from haystack import Pipeline, component, super_component
from haystack.components.agents import Agent
from haystack.core.serialization import DeserializationCallbacks
from haystack.tools import ComponentTool, PipelineTool, Toolset
from haystack.utils import ComponentDevice as HaystackDevice
from haystack_integrations.components.embedders.fastembed import FastembedTextEmbedder
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder
from haystack_integrations.components.extractors.spacy import SpacyNamedEntityExtractor
from haystack_integrations.components.generators.transformers import TransformersChatGenerator
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from tests.cli.harness import invoke
from tests.targets.haystack.classes import device_of

from devpolicy import DevPolicyError, Policy, use_policy
from devpolicy.errors import DevPolicyWarning
from devpolicy.haystack import apply, decide, survey

if TYPE_CHECKING:
    pass  # type: ignore[import-not-found]

POLICY = Policy.parse('prefer = ["cuda:1", "mps", "cpu"]')
NAMED = Policy.parse('prefer = ["cuda:1", "mps", "cpu"]\n[component.one]\n')
GPUS, MAC = "2x24gb", "macbook-m3-36gb"
BACK = HaystackDevice.from_str("cuda:3")


def pipeline_of(**components: Any) -> Pipeline:
    pipeline = Pipeline()
    for name, one in components.items():
        pipeline.add_component(name, one)
    return pipeline


def of(pipeline: Pipeline) -> Any:
    """Return the one component of a pipeline."""
    return pipeline.get_component("one")


def loaded(pipeline: Pipeline, policy: Policy, host: str) -> Any:
    callbacks = DeserializationCallbacks(component_pre_init=decide(policy, host))
    return Pipeline.loads(pipeline.dumps(), callbacks=callbacks, allowed_modules=["haystack*", __name__])


# What a class inherits.


@component
class OwnReader(TransformersExtractiveReader):
    """Keeps its device in `model_kwargs` alone."""


@component
class OwnEmbedder(SentenceTransformersTextEmbedder):
    """Takes a map in `model_kwargs`."""


@component
class OwnFastembed(FastembedTextEmbedder):
    """Has no parameter `device`."""


@component
class OwnSpacy(SpacyNamedEntityExtractor):
    """Runs on CUDA and the CPU alone."""


@component
class HandsOn(SentenceTransformersTextEmbedder):
    """Names none of the parameters of the class that it inherits from."""

    def __init__(self, **kwargs: Any):
        SentenceTransformersTextEmbedder.__init__(self, **kwargs)


INHERITED = [
    (OwnReader, {"model": "answers"}, "mps"),
    (OwnEmbedder, {"model": "sentences"}, "mps"),
    (HandsOn, {"model": "sentences"}, "mps"),
    (OwnFastembed, {}, "cpu"),
    (OwnSpacy, {"model": "spacy"}, "cpu"),
]


@pytest.mark.parametrize(("cls", "params", "on_a_mac"), INHERITED, ids=lambda value: getattr(value, "__name__", None))
def test_a_class_takes_what_its_base_takes(cls: Any, params: dict[str, str], on_a_mac: str, models: Path) -> None:
    params = {name: str(models / folder) for name, folder in params.items()}
    for host, device in ((GPUS, "cuda:1"), (MAC, on_a_mac)):
        with use_policy(POLICY, host):
            assert device_of(cls(**params)) == device
        pipeline = pipeline_of(one=cls(**params))
        assert device_of(loaded(pipeline, POLICY, host).get_component("one")) == device
        (resolved,) = apply(pipeline, POLICY, host)
        assert resolved.device.to_torch_str() == device_of(of(pipeline)) == device


def test_what_a_plan_asks_reaches_a_class_that_inherits(models: Path) -> None:
    policy = Policy.parse('prefer = "cuda"\nsplit = "balanced"\nworkload.dtype = "bfloat16"\n')
    with use_policy(policy, GPUS):
        kwargs: Any = OwnEmbedder(model=str(models / "sentences")).model_kwargs
    assert (kwargs["dtype"], set(kwargs["device_map"].values())) == ("bfloat16", {0, 1})


# What a signature says.


def of_type(annotation: Any, default: Any = None, **others: Any) -> Any:
    """Return an instance of a new component class whose `device` has this type."""

    class Own:
        def __init__(self, device: Any = default, other: Any = None):
            self.device = device

        @component.output_types(text=str)
        def run(self, text: str) -> dict[str, str]:
            return {"text": text}

    Own.__init__.__annotations__ = {"device": annotation, **others}
    return component(Own)()


@pytest.mark.parametrize(
    "annotation", ["HaystackDevice | None", HaystackDevice, HaystackDevice | str | None, "Unknown | ComponentDevice"]
)
def test_the_type_of_another_parameter_may_be_unknown(annotation: Any) -> None:
    pipeline = pipeline_of(one=of_type(annotation, other="Unknown"))
    (resolved,) = apply(pipeline, POLICY, GPUS)
    assert resolved.device.to_torch_str() == of(pipeline).device.to_torch_str() == "cuda:1"


@pytest.mark.parametrize("annotation", [str, "str | None", str | int | None, "Optional[str]", "Unknown | str"])
def test_text_is_written_where_the_type_takes_text(annotation: Any) -> None:
    pipeline = pipeline_of(one=of_type(annotation))
    apply(pipeline, NAMED, GPUS)
    assert of(pipeline).device == "cuda:1"


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (torch.device | None, "torch.device | None"),
        (int, "int"),
        (list[str], "list[str]"),
        ("list[str]", "list[str]"),
        (dict[str, str] | None, "dict[str, str] | None"),
        (Literal["cpu", "strict"], "Literal['cpu', 'strict']"),
        (Any, "Any"),
    ],
)
def test_a_device_of_another_type_is_not_written(annotation: Any, told: str) -> None:
    pipeline = pipeline_of(one=of_type(annotation, "as it was"))
    with pytest.warns(DevPolicyWarning) as heard:
        assert apply(pipeline, NAMED, GPUS) == []
    (message,) = {str(one.message) for one in heard}
    assert f"takes its device as `{told}`" in message.replace("typing.", "")
    assert of(pipeline).device == "as it was"


# Where an instance keeps its device.


@component
class MovesToModel:
    """As Haystack's readers do it."""

    def __init__(self, device: HaystackDevice | None = None, model_kwargs: dict[str, Any] | None = None):
        self.device: HaystackDevice | None = None
        self.model_kwargs = {"device_map": HaystackDevice.resolve_device(device).to_hf(), **(model_kwargs or {})}

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@component
class MovesToPipeline:
    """As Haystack's routers do it, and keeps the device beside that."""

    def __init__(self, device: HaystackDevice | None = None, pipeline_kwargs: dict[str, Any] | None = None):
        self.device = HaystackDevice.resolve_device(device)
        self.pipeline_kwargs = self.device.update_hf_kwargs({**(pipeline_kwargs or {})}, overwrite=False)

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


@pytest.mark.parametrize(("cls", "kwargs", "place"), [(MovesToModel, "model_kwargs", "device_map"),
                                                      (MovesToPipeline, "pipeline_kwargs", "device")])  # fmt: skip
def test_a_device_moved_into_arguments_is_replaced_there(cls: Any, kwargs: str, place: str) -> None:
    pipeline = pipeline_of(one=cls(device=BACK))
    (resolved,) = apply(pipeline, POLICY, GPUS)
    assert (resolved.replaced, getattr(of(pipeline), kwargs)[place]) == ("cuda:3", "cuda:1")


def test_a_map_given_inside_arguments_is_replaced_there() -> None:
    kwargs = {"model": "a", "model_kwargs": {"device_map": "auto"}}
    one = MovesToPipeline(pipeline_kwargs=kwargs)
    one.pipeline_kwargs.pop("device", None)
    apply(pipeline_of(one=one), POLICY, GPUS)
    assert one.pipeline_kwargs["model_kwargs"] == {"device_map": "cuda:1"}


# A component that hands its device on.


@super_component
class Search:
    """A pipeline with a parameter for the device of what is in it."""

    def __init__(self, model: str, device: HaystackDevice | None = None):
        self.model = model
        self.pipeline = pipeline_of(embedder=SentenceTransformersTextEmbedder(model=model, device=device))
        self.output_mapping = {"embedder.embedding": "found"}


def test_what_hands_its_device_on_is_decided_inside(models: Path) -> None:
    pipeline = pipeline_of(one=Search(str(models / "sentences"), BACK))
    (resolved,) = apply(pipeline, Policy.parse('prefer = "cuda:1"'), GPUS)
    assert (resolved.name, resolved.replaced) == ("one.embedder", "cuda:3")
    assert device_of(of(pipeline).pipeline.get_component("embedder")) == "cuda:1"
    with pytest.warns(DevPolicyWarning, match="name of its own: `one.embedder`"):
        apply(pipeline, NAMED, GPUS)
    with use_policy(POLICY, GPUS):
        made = Search(str(models / "sentences"))
    assert device_of(made.pipeline.get_component("embedder")) == "cuda:1"
    again = of(loaded(pipeline_of(one=Search(str(models / "sentences"))), POLICY, GPUS))
    assert device_of(again.pipeline.get_component("embedder")) == "cuda:1"


# One name in every way.


def with_tool(tool: Callable[[Any], Any]) -> Callable[[Path], Pipeline]:
    def make(models: Path) -> Pipeline:
        embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK)
        chat = TransformersChatGenerator(model=str(models / "llama"), task="text-generation", device=BACK)
        return pipeline_of(agent=Agent(chat_generator=chat, tools=tool(embedder)))

    return make


def component_tool(embedder: Any) -> ComponentTool:
    return ComponentTool(component=embedder, name="embed", description="text")


def pipeline_tool(embedder: Any) -> PipelineTool:
    return PipelineTool(
        pipeline=pipeline_of(embedder=embedder),
        input_mapping={"q": ["embedder.text"]},
        output_mapping={"embedder.embedding": "e"},
        name="embed",
        description="text",
    )


TOOLS = {
    "agent.tools.0.component": lambda one: [component_tool(one)],
    "agent.tools.0.embedder": lambda one: [pipeline_tool(one)],
    "agent.tools.tools.0.component": lambda one: Toolset([component_tool(one)]),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_component_in_a_tool_has_one_name_in_every_way(name: str, models: Path, tmp_path: Path) -> None:
    policy = Policy.parse(f'prefer = "cuda"\n[component."{name}"]\nprefer = "cpu"\n')
    pipeline = with_tool(TOOLS[name])(models)
    file = tmp_path / "agent.yaml"
    file.write_text(pipeline.dumps(), encoding="utf-8")
    expected = {"agent.chat_generator": "cuda:0", name: "cpu"}
    found = survey(policy, file, GPUS)
    assert not found.findings
    assert {one.name: one.device.to_torch_str() for one in found.components} == expected
    again = loaded(pipeline, policy, GPUS)
    assert {one.name: one.replaced for one in apply(again, policy, GPUS)} == expected, "`decide` has another name"
    assert {one.name: one.device.to_torch_str() for one in apply(pipeline, policy, GPUS)} == expected


# Nothing is left out in silence.


@pytest.mark.parametrize("asked", ['workload.dtype = "float16"', 'loading.attention = "eager"'])
def test_what_cannot_be_planned_without_a_size_is_told(asked: str, recwarn: pytest.WarningsRecorder) -> None:
    policy = Policy.parse(f'prefer = "cuda"\n{asked}\n')
    made = [
        lambda: TransformersChatGenerator(model="nobody/unknown"),
        lambda: SentenceTransformersTextEmbedder(model="nobody/unknown"),
    ]
    for make in made:
        with use_policy(policy, GPUS), pytest.warns(DevPolicyWarning, match="without `(dtype|attention)` .*not known"):
            make()
    # The way out that the warning names.
    named = Policy.parse(f'prefer = "cuda"\n{asked}\n[component.one]\nneeds = "1 GiB"\n')
    pipeline = pipeline_of(one=made[0]())
    recwarn.clear()
    apply(pipeline, named, GPUS)
    assert not recwarn.list
    kwargs = of(pipeline).huggingface_pipeline_kwargs
    assert kwargs.get("dtype") == "float16" or kwargs["model_kwargs"]["attn_implementation"] == "eager"


# What a component asks of loading itself.


def asking(models: Path, way: str, kwargs: dict[str, Any]) -> Any:
    if way == "reader":
        return TransformersExtractiveReader(model=str(models / "answers"), model_kwargs=kwargs)
    if way == "embedder":
        return SentenceTransformersTextEmbedder(model=str(models / "sentences"), model_kwargs=kwargs)
    inner = {"model_kwargs": kwargs} if way == "inside" else kwargs
    return TransformersChatGenerator(
        model=str(models / "llama"), task="text-generation", huggingface_pipeline_kwargs=inner
    )


def asked_of(one: Any) -> tuple[Any, Any]:
    kwargs = getattr(one, "huggingface_pipeline_kwargs", None) or getattr(one, "model_kwargs", None) or {}
    both = {**kwargs.get("model_kwargs", {}), **kwargs}
    return str(both.get("dtype") or both.get("torch_dtype")).removeprefix("torch."), both.get("attn_implementation")


ASKED = [
    ({"torch_dtype": "float16"}, ("float16", "sdpa")),
    ({"torch_dtype": torch.float16}, ("float16", "sdpa")),
    ({"dtype": "torch.bfloat16"}, ("bfloat16", "sdpa")),
    ({"dtype": "auto"}, ("auto", "sdpa")),
    ({"attn_implementation": "eager"}, ("float32", "eager")),
    ({"attn_implementation": "of/a-kernel"}, ("float32", "of/a-kernel")),
]


@pytest.mark.parametrize(
    ("way", "kwargs", "kept"),
    [
        (way, *asked)
        for way in ("reader", "embedder", "generator", "inside")
        for asked in ASKED
        if way != "generator" or "attn_implementation" not in asked[0]  # `pipeline` takes it in `model_kwargs` alone
    ],
    ids=str,
)
def test_what_a_component_asks_of_loading_stays(
    way: str, kwargs: dict[str, Any], kept: tuple[str, str], models: Path
) -> None:
    pipeline = pipeline_of(one=asking(models, way, kwargs))
    (resolved,) = apply(pipeline, POLICY, GPUS)
    assert asked_of(of(pipeline)) == kept
    plan = resolved.decision.plan
    # The plan counts with it.
    assert plan is not None
    assert (plan.loading.dtype or plan.loading.model_dtype) == ("float32" if kept[0] == "auto" else kept[0])
    if kept[1] == "eager":
        assert plan.loading.attention == (("", "eager"),)
    # A policy that asks wins.
    policy = Policy.parse('prefer = "cuda"\nworkload.dtype = "float64"\nloading.attention = "sdpa"\n')
    pipeline = pipeline_of(one=asking(models, way, kwargs))
    apply(pipeline, policy, GPUS)
    assert asked_of(of(pipeline)) == ("float64", "sdpa")


def test_a_quantisation_of_its_own_stays(models: Path) -> None:
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    for way in ("reader", "embedder", "inside"):
        pipeline = pipeline_of(one=asking(models, way, quantised))
        apply(pipeline, POLICY, GPUS)
        kwargs = getattr(of(pipeline), "huggingface_pipeline_kwargs" if way == "inside" else "model_kwargs")
        assert kwargs.get("model_kwargs", kwargs)["quantization_config"] == quantised["quantization_config"]


# Pipelines that Haystack 2 saved.

TWO = """\
components:
  reader:
    init_parameters: {device: null, model: a, model_kwargs: {device_map: "cuda:3"}}
    type: haystack.components.readers.extractive.ExtractiveReader
  generator:
    init_parameters: {huggingface_pipeline_kwargs: {device: "cuda:3", model: a, task: text-generation}}
    type: haystack.components.generators.hugging_face_local.HuggingFaceLocalGenerator
  chat:
    init_parameters: {huggingface_pipeline_kwargs: {device_map: {model: 3, lm_head: cpu}, model: a}}
    type: haystack.components.generators.chat.hugging_face_local.HuggingFaceLocalChatGenerator
  ranker:
    init_parameters: {device: null, model: a, model_kwargs: {device_map: "cuda:3"}}
    type: haystack.components.rankers.transformers_similarity.TransformersSimilarityRanker
  entities:
    init_parameters: {backend: HUGGING_FACE, device: {device: "cuda:3", type: single}, model: a, pipeline_kwargs: {}}
    type: haystack.components.extractors.named_entity_extractor.NamedEntityExtractor
  spacy:
    init_parameters: {backend: SPACY, device: {device: "cuda:3", type: single}, model: a, pipeline_kwargs: {}}
    type: haystack.components.extractors.named_entity_extractor.NamedEntityExtractor
  own:
    init_parameters: {huggingface_pipeline_kwargs: {device: "cuda:3", model: a}}
    type: somewhere.OwnGenerator
connections: []
"""


def test_a_pipeline_of_haystack_2_is_surveyed(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(TWO, encoding="utf-8")
    found = {one.name: (one.device.to_torch_str(), one.replaced) for one in survey(POLICY, file, MAC).components}
    map_ = "a map over cuda:3, cpu"
    expected = dict.fromkeys(("reader", "generator", "ranker", "entities", "own"), ("mps", "cuda:3"))
    assert found == {**expected, "chat": ("mps", map_), "spacy": ("cpu", "cuda:3")}


def test_of_a_class_not_imported_nothing_is_claimed(tmp_path: Path) -> None:
    file, policy = tmp_path / "own.yaml", tmp_path / "policy.toml"
    file.write_text("components: {one: {type: own.Embedder, init_parameters: {model: a}}}\n", encoding="utf-8")
    policy.write_text('prefer = "cpu"\n[component.one]\n', encoding="utf-8")
    told = invoke("resolve", str(policy), "--pipeline", str(file), "--host", GPUS)
    assert "was saved without a device, and its class is not imported here" in told.stderr


# What is no pipeline.


@pytest.mark.parametrize(
    "wrong", [None, "rag.yaml", {"components": {}}, of_type(str), Pipeline], ids=lambda one: type(one).__name__
)
def test_what_is_no_pipeline_is_refused_with_the_way_out(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(DevPolicyError, match=r"`apply` takes a pipeline, not .*\n.*`decide`"):
        apply(wrong, POLICY, GPUS)
    if not isinstance(wrong, str):
        with pytest.raises(DevPolicyError, match=r"`survey` takes a saved pipeline, not .*\n.*Pipeline.dump"):
            survey(POLICY, wrong, GPUS)
