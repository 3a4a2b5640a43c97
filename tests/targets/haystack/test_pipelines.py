"""Policies for whole pipelines: names of inner components, all of a plan, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")
pytest.importorskip("haystack_integrations.components.generators.transformers", exc_type=ImportError)

from haystack import Pipeline, SuperComponent, component
from haystack.components.agents import Agent
from haystack.components.evaluators import SASEvaluator
from haystack.components.generators.chat import FallbackChatGenerator
from haystack.core.errors import DeserializationError
from haystack.core.serialization import DeserializationCallbacks
from haystack.tools import ComponentTool
from haystack.utils import ComponentDevice as HaystackDevice
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder
from haystack_integrations.components.generators.transformers import TransformersChatGenerator
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from tests.cli.harness import invoke

from devpolicy import ComponentDevice, DevPolicyError, Policy, Unsatisfiable, plan_all, use_policy
from devpolicy._core.targets.haystack_components.names import saved_components
from devpolicy.errors import DeviceError, DevPolicyWarning
from devpolicy.haystack import apply, decide, fastembed_pool, sentence_transformers_pool, survey

BACK = HaystackDevice.from_str("cuda:3")


def generator(models: Path, **more: Any) -> TransformersChatGenerator:
    return TransformersChatGenerator(model=str(models / "llama"), task="text-generation", device=BACK, **more)


def pipeline_of(**components: Any) -> Pipeline:
    pipeline = Pipeline()
    for name, one in components.items():
        pipeline.add_component(name, one)
    return pipeline


def loaded(text: str, policy: Policy, host: str = "2x24gb", **more: Any) -> Any:
    callbacks = DeserializationCallbacks(component_pre_init=decide(policy, host, **more))
    return Pipeline.loads(text, callbacks=callbacks, allowed_modules=["haystack*", __name__])


def cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.fixture
def nested(models: Path) -> Pipeline:
    """An agent whose generator is a chain of two, and a pipeline in a component."""
    inner = pipeline_of(embedder=SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK))
    agent = Agent(chat_generator=FallbackChatGenerator(chat_generators=[generator(models), generator(models)]))
    return pipeline_of(agent=agent, search=SuperComponent(inner))


NAMES = [f"agent.chat_generator.chat_generators.{number}" for number in (0, 1)]


# Names.


def test_what_is_inside_of_a_component_has_its_path(nested: Pipeline, tmp_path: Path) -> None:
    names = [one.name for one in saved_components(nested.to_dict())]
    assert names == ["agent", "agent.chat_generator", *NAMES, "search", "search.embedder"]


@pytest.mark.parametrize("host", ["2x24gb", "1x24gb"])
def test_inner_components_are_counted_one_by_one_in_every_way(host: str, nested: Pipeline, tmp_path: Path) -> None:
    policy = Policy.parse('prefer = ["cuda", "cpu"]\n[component."agent.*"]\nneeds = "15 GiB"\n')
    expected = {**dict(zip(NAMES, ["cuda:0", "cuda:1" if host == "2x24gb" else "cpu"], strict=True))}
    expected["search.embedder"] = "cuda:0"
    text, file = nested.dumps(), tmp_path / "nested.yaml"
    file.write_text(text, encoding="utf-8")
    assert {one.name: one.device.to_torch_str() for one in survey(policy, file, host).components} == expected
    again = loaded(text, policy, host)
    generators = again.get_component("agent").chat_generator.chat_generators
    assert [one.huggingface_pipeline_kwargs["device"] for one in generators] == [expected[name] for name in NAMES]
    assert {one.name: one.device.to_torch_str() for one in apply(nested, policy, host)} == expected
    assert nested.dumps() == again.dumps()


def test_the_policy_can_name_one_inner_component(nested: Pipeline) -> None:
    policy = Policy.parse(f'prefer = "cuda:0"\n[component."{NAMES[1]}"]\nprefer = "cpu"\n')
    devices = {one.name: one.device.to_torch_str() for one in apply(nested, policy, "2x24gb")}
    assert devices == {NAMES[0]: "cuda:0", NAMES[1]: "cpu", "search.embedder": "cuda:0"}


def test_an_entry_for_what_takes_no_device_leads_inside(nested: Pipeline) -> None:
    policy = Policy.parse('prefer = "cuda:0"\n[component.agent]\nprefer = "cpu"\n')
    with pytest.warns(DevPolicyWarning, match=rf"`agent` \(Agent\) takes no device\n.*`{NAMES[0]}`"):
        loaded(nested.dumps(), policy)
    with pytest.warns(DevPolicyWarning, match="`agent`"):
        apply(nested, policy, "2x24gb")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("embeder", "did you mean `embedder`"),
        ("chat", "known are"),
        ("agent.*", r"write out what it means: `agent\.chat_generator`"),
        ("agent", r"DP509.*component `agent` \(Agent\) takes no device"),
    ],
)
def test_a_name_that_cannot_be_decided_is_an_error(wrong: str, told: str, models: Path) -> None:
    embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK)
    pipeline = pipeline_of(agent=Agent(chat_generator=generator(models)), embedder=embedder)
    policy = Policy.parse('prefer = "cuda:0"')
    with pytest.raises(DeserializationError) as refused:
        loaded(pipeline.dumps(), policy, components=[wrong])
    assert isinstance(cause(refused.value), DevPolicyError)
    with pytest.raises(DevPolicyError) as also:
        apply(pipeline, policy, "2x24gb", components=[wrong])
    for error in (cause(refused.value), also.value):
        assert re.search(told, str(error))


def test_only_the_components_named_are_decided_inner_ones_too(nested: Pipeline) -> None:
    policy = Policy.parse('prefer = "cuda:0"')
    again = loaded(nested.dumps(), policy, components=[NAMES[1]])
    generators = again.get_component("agent").chat_generator.chat_generators
    assert [one.huggingface_pipeline_kwargs["device"] for one in generators] == ["cuda:3", "cuda:0"]
    assert [one.name for one in apply(nested, policy, "2x24gb", components=["search.embedder"])] == ["search.embedder"]


# All of a plan.


def test_a_dtype_of_the_policy_wins_over_what_was_saved(models: Path) -> None:
    policy = Policy.parse('prefer = "cuda"\nworkload.dtype = "float16"\n')
    reader = TransformersExtractiveReader(
        model=str(models / "answers"), device=BACK, model_kwargs={"torch_dtype": "bfloat16", "low_cpu_mem_usage": True}
    )
    embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK)
    pipeline = pipeline_of(generator=generator(models), reader=reader, embedder=embedder)
    again = loaded(pipeline.dumps(), policy)
    assert again.get_component("generator").huggingface_pipeline_kwargs["dtype"] == "float16"
    kwargs = again.get_component("reader").model_kwargs
    assert (kwargs["dtype"], kwargs["device_map"], "torch_dtype" in kwargs) == ("float16", "cuda:0", False)
    assert again.get_component("embedder").model_kwargs == {"dtype": "float16", "attn_implementation": "sdpa"}
    assert loaded(again.dumps(), policy).dumps() == again.dumps()
    with use_policy(policy, "2x24gb"):
        made = TransformersChatGenerator(model=str(models / "llama"), task="text-generation")
    assert made.huggingface_pipeline_kwargs["dtype"] == "float16"


def test_the_folder_for_rewritten_weights_is_handed_over(tmp_path: Path, models: Path) -> None:
    import transformers as tf

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    tf.MixtralForCausalLM(
        tf.MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=10, num_local_experts=2)
    ).save_pretrained(tmp_path / "experts")
    policy = Policy.parse(
        f"prefer = 'cuda'\nmemory.disk.path = '{tmp_path}/off'\n[[rule]]\nclass = '*Experts'\noffload = 'disk'\n"
    )
    pipeline = pipeline_of(
        generator=TransformersChatGenerator(model=str(tmp_path / "experts"), task="text-generation", device=BACK)
    )
    kwargs = loaded(pipeline.dumps(), policy).get_component("generator").huggingface_pipeline_kwargs
    assert kwargs["model_kwargs"]["offload_folder"].startswith(f"{tmp_path}/off")
    assert "disk" in kwargs["device_map"].values()


def test_a_map_goes_where_each_class_reads_it_and_nowhere_else(models: Path) -> None:
    policy = Policy.parse('prefer = "cuda"\nsplit = "balanced"\n')
    embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK)
    reader = TransformersExtractiveReader(model=str(models / "answers"), device=BACK)
    pipeline = pipeline_of(embedder=embedder, generator=generator(models), reader=reader)
    again = loaded(pipeline.dumps(), policy)
    one = again.get_component("embedder")
    assert one.device.to_torch_str() == "cuda:0"
    assert set(one.model_kwargs["device_map"].values()) == {0, 1}
    assert set(again.get_component("generator").huggingface_pipeline_kwargs["device_map"].values()) == {0, 1}
    assert set(again.get_component("reader").model_kwargs["device_map"].values()) == {0, 1}
    sas = pipeline_of(sas=SASEvaluator(model=str(models / "sentences"), device=BACK))
    assert not loaded(sas.dumps(), policy).get_component("sas")._device.has_multiple_devices
    apart = Policy.parse('prefer = "cuda"\n[offload]\nembeddings = "cpu"\n')
    with pytest.raises(DeserializationError) as refused:
        loaded(sas.dumps(), apart)
    error = cause(refused.value)
    assert isinstance(error, Unsatisfiable)
    assert (error.code, error.diagnostics[0].place is not None) == ("DP409", True)


def test_a_class_without_a_row_gets_one_device(models: Path) -> None:
    pipeline = pipeline_of(own=Own(device=BACK))
    text = f'prefer = "cuda"\nsplit = "balanced"\n[component.own]\nmodel = "{models / "llama"}"\n'
    assert not loaded(pipeline.dumps(), Policy.parse(text)).get_component("own").device.has_multiple_devices
    policy = Policy.parse(text + 'target = "hf"\n')
    device = loaded(pipeline.dumps(), policy).get_component("own").device
    assert ComponentDevice.from_haystack(device) == plan_all(policy, host="2x24gb")["own"].device


@component
class Own:
    """A component of one's own, which takes Haystack's device."""

    def __init__(self, device: HaystackDevice | None = None) -> None:
        self.device = HaystackDevice.resolve_device(device)

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text}


# Pipelines built in code.


def test_a_component_that_has_loaded_is_refused_unchanged(models: Path) -> None:
    warm = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=HaystackDevice.from_str("cpu"))
    warm.warm_up()
    cold = generator(models)
    pipeline = pipeline_of(cold=cold, warm=warm)
    with pytest.raises(DevPolicyError, match="component `warm` has loaded its model"):
        apply(pipeline, Policy.parse('prefer = "cuda"'), "2x24gb")
    assert cold.huggingface_pipeline_kwargs["device"] == "cuda:3"


def test_a_component_that_keeps_no_device_is_refused() -> None:
    @component
    class Forgetful:
        def __init__(self, device: HaystackDevice | None = None) -> None:
            self.where = HaystackDevice.resolve_device(device).to_torch_str()

        @component.output_types(text=str)
        def run(self, text: str) -> dict[str, str]:
            return {"text": text}

    with pytest.raises(DevPolicyError, match=r"`one` .*keeps no attribute `device`"):
        apply(pipeline_of(one=Forgetful()), Policy.parse('prefer = "cuda"'), "2x24gb")


@pytest.mark.parametrize("wrong", [5, [5], [None], b"emb", ["emb", 5]])
def test_names_of_components_are_text(wrong: Any, models: Path) -> None:
    pipeline = pipeline_of(emb=SentenceTransformersTextEmbedder(model=str(models / "sentences")))
    told = r"`components` is a list of names, and holds a value of type (int|NoneType)"
    with pytest.raises(DevPolicyError, match=told):
        apply(pipeline, "cpu-only", "2x24gb", components=wrong)
    with pytest.raises(DevPolicyError, match=told):
        decide("cpu-only", components=wrong)


def test_names_are_read_once(models: Path) -> None:
    pipeline = pipeline_of(emb=SentenceTransformersTextEmbedder(model=str(models / "sentences")))
    names: Any = iter(["emb"])
    assert [one.name for one in apply(pipeline, "cpu-only", "2x24gb", components=names)] == ["emb"]


def test_a_component_of_two_tools_is_decided_by_its_first_name(models: Path) -> None:
    embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"), device=BACK)
    tools = [ComponentTool(component=embedder, name=name, description=name) for name in ("one", "other")]
    pipeline = pipeline_of(agent=Agent(chat_generator=generator(models), tools=tools))
    first, second = "agent.tools.0.component", "agent.tools.1.component"
    policy = Policy.parse(f'prefer = "cpu"\n[component."{first}"]\n[component."{second}"]\nprefer = "cuda"\n')
    told = rf"`{second}` is the same object as `{first}`"
    with pytest.warns(DevPolicyWarning, match=told):
        assert [one.name for one in apply(pipeline, policy, "2x24gb")] == ["agent.chat_generator", first]
    assert embedder.device.to_torch_str() == "cpu"
    with pytest.raises(DevPolicyError, match=told):
        apply(pipeline, policy, "2x24gb", components=[second])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('prefer = "xpu"', "emb"),
        ('prefer = "cpu"\n[component."search.inner"]\nprefer = "xpu"', "search.inner"),
        ('prefer = "cpu"\n[component.emb]\nneeds = "900 TiB"', "emb"),
    ],
)
def test_a_refusal_names_the_component(text: str, named: str, models: Path, tmp_path: Path) -> None:
    inner = pipeline_of(inner=SentenceTransformersTextEmbedder(model="nowhere"))
    embedder = SentenceTransformersTextEmbedder(model=str(models / "sentences"))
    pipeline, policy = pipeline_of(emb=embedder, search=SuperComponent(inner)), Policy.parse(text)
    (tmp_path / "p.yaml").write_text(pipeline.dumps(), encoding="utf-8")
    refusals = []
    for call in (
        lambda: apply(pipeline, policy, "2x24gb"),
        lambda: loaded(pipeline.dumps(), policy),
        lambda: survey(policy, tmp_path / "p.yaml", "2x24gb"),
    ):
        with pytest.raises((Unsatisfiable, DeserializationError)) as refused:
            call()
        refusals.append(cause(refused.value))
    for one in refusals:
        assert isinstance(one, Unsatisfiable)
        assert re.match(rf"error\[DP301\]: component `{named}`", str(one))


def test_one_name_is_not_a_list_of_names() -> None:
    with pytest.raises(DevPolicyError, match="not the text `one`"):
        apply(Pipeline(), Policy.parse('prefer = "cuda"'), "2x24gb", components="one")


# The commands.


def test_resolve_shows_every_component_of_a_saved_pipeline(nested: Pipeline, tmp_path: Path) -> None:
    policy, file = tmp_path / "p.toml", tmp_path / "rag.yaml"
    policy.write_text('prefer = ["cuda", "cpu"]\n[component."search.embeder"]\nprefer = "cpu"\n', encoding="utf-8")
    file.write_text(nested.dumps(), encoding="utf-8")
    shown = invoke("resolve", str(policy), "--pipeline", str(file), "--host", "2x24gb")
    assert shown.status == 0
    assert "search.embedder" in shown.stdout
    assert "cuda:3" in shown.stdout, "what is replaced"
    assert "did you mean `search.embedder`?" in shown.stderr
    assert invoke("check", str(policy), "--pipeline", str(file)).status == 0
    strict = invoke("check", str(policy), "--pipeline", str(file), "--strict")
    assert strict.status == 1
    assert "DP510" in strict.stdout


@pytest.mark.parametrize(
    ("text", "told"), [("a: [", "is not YAML"), ("a: 1", "holds no pipeline"), (None, "cannot read"), ("\0", "YAML")]
)
def test_a_file_that_is_no_pipeline_is_told_without_a_traceback(text: str | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "rag.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    for command in ("resolve", "check"):
        result = invoke(command, "cpu-only", "--pipeline", str(file))
        assert result.status == 2
        assert told in result.stderr


def test_a_pipeline_stands_alone() -> None:
    result = invoke("resolve", "cpu-only", "--pipeline", "x.yaml", "--component", "one")
    assert (result.status, "exclude each other" in result.stderr) == (2, True)


# Pools.


def test_pools_take_the_devices_of_several_copies() -> None:
    devices = [ComponentDevice.from_str(text) for text in ("cuda:0", "cuda:2")]
    assert sentence_transformers_pool(devices) == ["cuda:0", "cuda:2"]
    assert fastembed_pool(devices) == {"cuda": True, "device_ids": [0, 2]}
    assert fastembed_pool([ComponentDevice.from_str("cpu")]) == {"cuda": False}
    processors = [ComponentDevice.from_str("cpu")] * 2  # sentence-transformers' own default without accelerators
    assert (sentence_transformers_pool(processors), fastembed_pool(processors)) == (["cpu", "cpu"], {"cuda": False})
    for wrong in ([], devices[:1] * 2):
        with pytest.raises(DeviceError):
            sentence_transformers_pool(wrong)
    with pytest.raises(DeviceError, match="not on `mps`"):
        fastembed_pool([ComponentDevice.from_str("mps")])


COPIES = Policy.parse('prefer = ["cuda", "cpu"]\n[component.emb]\nneeds = "2 GiB"\nreplicas = "each"\n')
TWO = Policy.parse('prefer = ["cuda", "cpu"]\n[component.emb]\nneeds = "2 GiB"\nreplicas = 2\n')
ONE = Policy.parse('prefer = ["cuda", "cpu"]\n[component.emb]\nneeds = "2 GiB"\n')


@pytest.fixture
def pooled(models: Path) -> Callable[[str], Pipeline]:
    """Pipelines of an embedder whose workers were on other devices when it was saved."""
    pytest.importorskip("fastembed")
    from haystack_integrations.components.embedders.fastembed import FastembedDocumentEmbedder

    def made(kind: str) -> Pipeline:
        if kind == "fastembed":
            kwargs = {"cuda": True, "device_ids": [2, 3]}
            return pipeline_of(emb=FastembedDocumentEmbedder(model_kwargs=kwargs, parallel=2))
        workers = {"device": ["cuda:2", "cuda:3"], "convert_to_numpy": True}
        model = str(models / "sentences")
        return pipeline_of(emb=SentenceTransformersTextEmbedder(model=model, device=BACK, encode_kwargs=workers))

    return made


@pytest.mark.parametrize("way", ["decide", "apply"])
def test_replicas_are_the_workers_of_a_pool(way: str, pooled: Callable[[str], Pipeline]) -> None:
    def changed(kind: str, policy: Policy, host: str) -> Any:
        pipeline = pooled(kind)
        if way == "decide":
            return loaded(pipeline.dumps(), policy, host).get_component("emb")
        apply(pipeline, policy, host)
        return pipeline.get_component("emb")

    one = changed("sentence_transformers", COPIES, "2x24gb")
    assert one.encode_kwargs == {"device": ["cuda:0", "cuda:1"], "convert_to_numpy": True}
    assert one.device.to_torch_str() == "cuda:0"
    one = changed("fastembed", COPIES, "2x24gb")
    assert (one.model_kwargs, one.parallel) == ({"cuda": True, "device_ids": [0, 1]}, 2)
    # One device takes out what was saved for several, which would win.
    one = changed("sentence_transformers", ONE, "2x24gb")
    assert (one.encode_kwargs, one.device.to_torch_str()) == ({"convert_to_numpy": True}, "cuda:0")
    one = changed("fastembed", ONE, "1x24gb")
    assert (one.model_kwargs, one.parallel) == ({"cuda": True, "device_ids": [0]}, None)
    # Copies of a number share the CPU.
    one = changed("sentence_transformers", TWO, "cpu-only")
    assert (one.encode_kwargs["device"], one.device.to_torch_str()) == (["cpu", "cpu"], "cpu")
    one = changed("fastembed", TWO, "cpu-only")
    assert (one.model_kwargs, one.parallel) == ({"cuda": False}, 2)


def test_a_class_that_runs_one_copy_says_so(models: Path) -> None:
    policy = Policy.parse('prefer = "cuda"\n[component.llm]\nreplicas = 2\n')
    text = pipeline_of(llm=generator(models)).dumps()
    with pytest.warns(DevPolicyWarning, match="its class runs one copy"):
        loaded(text, policy)


def test_replicas_without_a_size_are_told_so(pooled: Callable[[str], Pipeline]) -> None:
    policy = Policy.parse('prefer = "cuda"\n[component.emb]\nreplicas = "each"\n')
    with pytest.warns(DevPolicyWarning, match="its size is not known"):
        one = loaded(pooled("fastembed").dumps(), policy).get_component("emb")
    assert one.model_kwargs["device_ids"] == [0]


def test_the_workers_of_a_pool_are_shown_where_they_were(pooled: Callable[[str], Pipeline], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(pooled("sentence_transformers").dumps(), encoding="utf-8")
    (one,) = survey(COPIES, tmp_path / "x.yaml", "2x24gb").components
    assert one.replaced == "cuda:2, cuda:3"
    assert [copy.to_torch_str() for copy in one.decision.copies] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("converters.docling.converter.DoclingConverter", "AcceleratorOptions"),
        ("preprocessors.hanlp.chinese_document_splitter.ChineseDocumentSplitter", "CUDA_VISIBLE_DEVICES"),
        ("extractors.presidio.presidio_entity_extractor.PresidioEntityExtractor", "spacy.require_gpu"),
    ],
)
def test_a_class_without_a_parameter_for_its_device_says_the_way(path: str, way: str, tmp_path: Path) -> None:
    cls = f"haystack_integrations.components.{path}"
    (tmp_path / "x.yaml").write_text(f"components: {{one: {{type: {cls}, init_parameters: {{}}}}}}\n", encoding="utf-8")
    policy = Policy.parse('prefer = "cuda"\n[component.one]\nneeds = "1 GiB"\n')
    found = survey(policy, tmp_path / "x.yaml", "1x24gb")
    assert found.components == ()
    assert [(one.code, way in one.help) for one in found.findings] == [("DP509", True)]


@pytest.mark.parametrize(
    ("path", "parameters", "variable", "told"),
    [
        ("converters.docling.converter.DoclingConverter", "{}", "", ["DP509"]),
        ("converters.docling.converter.DoclingConverter", "{converter: {a: 1}}", "", []),
        ("converters.docling.converter.DoclingConverter", "{}", "DOCLING_DEVICE", []),
        ("preprocessors.hanlp.chinese_document_splitter.ChineseDocumentSplitter", "{}", "", ["DP509"]),
        ("extractors.presidio.presidio_entity_extractor.PresidioEntityExtractor", "{}", "", []),
    ],
)
def test_a_class_that_takes_any_gpu_is_told_of_unnamed(
    path: str, parameters: str, variable: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable:
        monkeypatch.setenv(variable, "cuda:1")
    cls = f"haystack_integrations.components.{path}"
    text = f"components: {{one: {{type: {cls}, init_parameters: {parameters}}}}}\n"
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    found = survey(Policy.parse('prefer = "cuda"'), tmp_path / "x.yaml", "1x24gb")
    assert [one.code for one in found.findings] == told
