"""Every component class that takes a device: how it is made, run, and where it keeps its device.

Written down by hand, apart from the table in the package, which is held against it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

H = "haystack_integrations.components."


@dataclass(frozen=True)
class Case:
    """One class, and what it takes to make and run it."""

    module: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    """A folder of `models.make`, given as `model`."""
    inputs: dict[str, Any] | None = None
    """What `run` takes; `None` only warms up."""
    saved: dict[str, Any] = field(default_factory=dict)
    """Init parameters of a component that was saved on `cuda:3`; by default its `device`."""
    stub: str | None = None
    """The library behind it, where a stand-in is used: what it needs cannot be had without a download."""
    no_run: str | None = None
    """Why it is not run."""
    onnx: str | None = None
    """A folder of `models.onnx_files`, which fastembed takes in place of a download."""
    refused: str | None = None
    """What the library says that cannot compute on a simulated GPU. It names the device that it was given."""
    key: str = "model"
    """The init parameter for `model`."""

    @property
    def cls(self) -> Any:
        return getattr(import_module(self.module), self.name)

    @property
    def path(self) -> str:
        return f"{self.cls.__module__}.{self.name}"

    def arguments(self, models: Path, **more: Any) -> dict[str, Any]:
        named = {self.key: str(models / self.model)} if self.model else {}
        files = {"specific_model_path": str(models / "onnx" / self.onnx)} if self.onnx else {}
        kwargs = {**self.params.get("model_kwargs", {}), **files, **more.pop("model_kwargs", {})}
        return {**self.params, **named, **more, **({"model_kwargs": kwargs} if kwargs else {})}

    @property
    def is_stub(self) -> bool:
        """Whether a stand-in of ours is behind it here, since the library itself is not installed."""
        return self.stub is not None and "stubs" in str(import_module(self.stub).__file__)


def _docs() -> list[Any]:
    from haystack import Document

    return [Document(content="hello world"), Document(content="berlin acme")]


def _sounds() -> list[Any]:
    from haystack.dataclasses import ByteStream
    from tests.targets.haystack.models import sound

    return [ByteStream(sound(), mime_type="audio/wav")]


ST, TF, FE = "sentence_transformers", "transformers", "fastembed"
_QUIET = {"progress_bar": False}
_LABELS = {"labels": ["contradiction", "neutral", "entailment"]}
_TEXT, _QUERY, _DOCUMENTS = {"text": "hello"}, {"query": "hello"}, {"documents": _docs}
_CUDA3 = {"model_kwargs": {"cuda": True, "device_ids": [3]}}
_PROVIDER3 = {"model_kwargs": {"provider_options": {"device_id": 3}}}
_LAYERS3 = {"model_kwargs": {"n_gpu_layers": 8, "main_gpu": 3}}
_SCHEMA, _CHOICES = {"schema_object": '{"const": 1}'}, {"choices": ["hello", "world"]}
_NO_GGUF = "`engines` runs llama.cpp"
_NO_CUPY = "spaCy needs CuPy on cuda, and the simulated device has none"


def _fastembed(kind: str, name: str, onnx: str, model: str, inputs: dict[str, Any]) -> Case:
    key = "model_name" if kind == "rankers" else "model"
    quiet = {} if kind == "rankers" else _QUIET
    return Case(f"{H}{kind}.fastembed", name, {key: model, **quiet}, onnx=onnx, inputs=inputs, saved=_CUDA3)


def _optimum(name: str, inputs: dict[str, Any]) -> Case:
    saved = {"onnx_execution_provider": "CUDAExecutionProvider", **_PROVIDER3}
    return Case(f"{H}embedders.optimum", name, {"pooling_mode": "mean"}, "bert", inputs, saved=saved,
                refused="no data transfer registered .* DeviceId:1 ")  # fmt: skip


def _outlines(library: str, name: str, params: dict[str, Any], **more: Any) -> Case:
    return Case(f"outlines_haystack.generators.{library}", name, params, **more)


def _outlines_transformers(name: str, **params: Any) -> Case:
    inputs = {"prompt": "hello", "generation_kwargs": {"max_new_tokens": 2}}
    return _outlines("transformers", name, params, model="llama", key="model_name", inputs=inputs,
                     saved={"device": "cuda:3"})  # fmt: skip


def _outlines_llama_cpp(name: str, **params: Any) -> Case:
    params = {"repo_id": "a", "file_name": "x.gguf", **params}
    return _outlines("llama_cpp", name, params, stub="llama_cpp", saved=_LAYERS3, no_run=_NO_GGUF)


SINCE_3 = {
    case.name: case
    for case in (
        Case("haystack.components.evaluators", "SASEvaluator", model="sentences",
             inputs={"ground_truth_answers": ["hello"], "predicted_answers": ["world"]}),
        Case(f"{H}embedders.{ST}", "SentenceTransformersTextEmbedder", _QUIET, "sentences", {"text": "hello"}),
        Case(f"{H}embedders.{ST}", "SentenceTransformersDocumentEmbedder", _QUIET, "sentences", {"documents": _docs}),
        Case(f"{H}embedders.{ST}", "SentenceTransformersSparseTextEmbedder", model="masked"),
        Case(f"{H}embedders.{ST}", "SentenceTransformersSparseDocumentEmbedder", model="masked"),
        Case(f"{H}embedders.{ST}", "SentenceTransformersDocumentImageEmbedder", model="sentences"),
        Case(f"{H}rankers.{ST}", "SentenceTransformersDiversityRanker", model="sentences",
             inputs={"query": "hello", "documents": _docs}),
        Case(f"{H}rankers.{ST}", "SentenceTransformersSimilarityRanker", model="cross"),
        Case(f"{H}readers.{TF}", "TransformersExtractiveReader", model="answers",
             inputs={"query": "hello", "documents": _docs}),
        Case(f"{H}generators.{TF}", "TransformersChatGenerator",
             {"task": "text-generation", "generation_kwargs": {"max_new_tokens": 2}}, "llama", {"messages": "hello"}),
        Case(f"{H}extractors.{TF}", "TransformersNamedEntityExtractor", model="entities", inputs={"documents": _docs}),
        Case(f"{H}routers.{TF}", "TransformersTextRouter", _LABELS, "entailment", {"text": "hello"}),
        Case(f"{H}routers.{TF}", "TransformersZeroShotTextRouter", {"labels": ["a", "b"]}, "entailment",
             {"text": "hello"}),
        Case(f"{H}classifiers.{TF}", "TransformersZeroShotDocumentClassifier", {"labels": ["a", "b"]}, "entailment",
             {"documents": _docs}),
        Case(f"{H}extractors.spacy", "SpacyNamedEntityExtractor", model="spacy", inputs={"documents": _docs},
             no_run=_NO_CUPY),
        Case(f"{H}audio.whisper", "LocalWhisperTranscriber", {"model": "tiny"}, stub="whisper"),
        Case(f"{H}audio.funasr", "FunASRTranscriber", {"vad_model": None, "punc_model": None}, "funasr",
             {"sources": _sounds}),
        _fastembed("embedders", "FastembedTextEmbedder", "dense", "BAAI/bge-small-en-v1.5", _TEXT),
        _fastembed("embedders", "FastembedDocumentEmbedder", "dense", "BAAI/bge-small-en-v1.5", _DOCUMENTS),
        _fastembed("embedders", "FastembedSparseTextEmbedder", "sparse", "prithivida/Splade_PP_en_v1", _TEXT),
        _fastembed("embedders", "FastembedSparseDocumentEmbedder", "sparse", "prithivida/Splade_PP_en_v1", _DOCUMENTS),
        _fastembed("rankers", "FastembedRanker", "pair", "Xenova/ms-marco-MiniLM-L-6-v2", {**_DOCUMENTS, **_QUERY}),
        _fastembed("rankers", "FastembedLateInteractionRanker", "late", "colbert-ir/colbertv2.0",
                   {**_DOCUMENTS, **_QUERY}),
        _optimum("OptimumTextEmbedder", _TEXT),
        _optimum("OptimumDocumentEmbedder", _DOCUMENTS),
        Case(f"{H}generators.llama_cpp", "LlamaCppChatGenerator", {"model": "x.gguf"}, stub="llama_cpp",
             saved=_LAYERS3, no_run=_NO_GGUF),
        _outlines_llama_cpp("LlamaCppTextGenerator"),
        _outlines_llama_cpp("LlamaCppJSONGenerator", **_SCHEMA),
        _outlines_llama_cpp("LlamaCppChoiceGenerator", **_CHOICES),
        _outlines_transformers("TransformersTextGenerator"),
        _outlines_transformers("TransformersJSONGenerator", **_SCHEMA),
        _outlines_transformers("TransformersChoiceGenerator", **_CHOICES),
    )
}  # fmt: skip

BEFORE_3 = {
    case.name: case
    for case in (
        Case("haystack.components.readers.extractive", "ExtractiveReader", model="answers",
             inputs={"query": "hello", "documents": _docs}),
        Case("haystack.components.generators.hugging_face_local", "HuggingFaceLocalGenerator",
             {"task": "text-generation", "generation_kwargs": {"max_new_tokens": 2}}, "llama", {"prompt": "hello"}),
        Case("haystack.components.generators.chat.hugging_face_local", "HuggingFaceLocalChatGenerator",
             {"task": "text-generation", "generation_kwargs": {"max_new_tokens": 2}}, "llama", {"messages": "hello"}),
        Case("haystack.components.rankers.transformers_similarity", "TransformersSimilarityRanker", model="cross",
             inputs={"query": "hello", "documents": _docs}),
        Case("haystack.components.extractors.named_entity_extractor", "NamedEntityExtractor",
             {"backend": "hugging_face"}, "entities", {"documents": _docs}),
    )
}  # fmt: skip
"""Those of Haystack 2, in the environment `haystack-2`."""

CASES = BEFORE_3 if version("haystack-ai").startswith("2.") else SINCE_3

WITHOUT = {
    case.name: case
    for case in (
        Case(f"{H}converters.docling", "DoclingConverter"),
        Case(f"{H}preprocessors.hanlp", "ChineseDocumentSplitter"),
        Case(f"{H}preprocessors.presidio", "PresidioDocumentCleaner"),
        Case(f"{H}extractors.presidio", "PresidioEntityExtractor"),
        Case(f"{H}preprocessors.presidio", "PresidioTextCleaner"),
    )
}
"""Those that have no parameter for it."""


def run(case: Case, one: Any) -> None:
    """Warm a component up, and run it on what its case says."""
    from haystack.dataclasses import ChatMessage

    one.warm_up()
    if case.inputs is None:
        return
    inputs = {key: value() if isinstance(value, Callable) else value for key, value in case.inputs.items()}  # type: ignore[arg-type]
    if "messages" in inputs:
        inputs["messages"] = [ChatMessage.from_user(inputs["messages"])]
    # FunASR's component logs what fails, and returns the rest.
    assert one.run(**inputs).get("documents") != []


def device_of(one: Any) -> str:
    """Return the device that an instance holds, in whatever way, as text."""
    for kwargs in (getattr(one, name, None) for name in ("huggingface_pipeline_kwargs", "pipeline_kwargs")):
        if kwargs and "device" in kwargs:
            return str(kwargs["device"])
    kwargs = getattr(one, "model_kwargs", None) or {}
    if (params := getattr(one, "_params", None)) is not None:
        number = (params.model_kwargs or {}).get("provider_options", {}).get("device_id")
        return f"cuda:{number}" if params.onnx_execution_provider.startswith("CUDA") else "cpu"
    if "device_map" in kwargs:
        return str(kwargs["device_map"])
    if "cuda" in kwargs:
        return f"cuda:{kwargs['device_ids'][0]}" if kwargs["cuda"] else "cpu"
    if "n_gpu_layers" in kwargs:
        return f"cuda:{kwargs['main_gpu']}" if "main_gpu" in kwargs else "mps" if kwargs["n_gpu_layers"] else "cpu"
    if (backend := getattr(one, "_backend", None)) is not None and hasattr(backend, "_pipeline_kwargs"):
        return str(backend._pipeline_kwargs["device"])
    device = getattr(one, "device", None) or getattr(one, "_device", None)
    return "none" if device is None else device if isinstance(device, str) else str(device.to_torch_str())


def network_of(one: Any) -> Any:
    """Return the module or the session that a component has loaded: the first with parameters that it reaches."""
    import onnxruntime
    import torch

    seen: set[int] = set()
    rest: deque[Any] = deque([one])
    while rest:
        value = rest.popleft()  # the nearest first: libraries hold tables that import whatever is looked at
        if id(value) in seen or isinstance(value, str | int | type):
            continue
        seen.add(id(value))
        if isinstance(value, torch.nn.Module) and any(True for _ in value.parameters()):
            return value
        if isinstance(value, onnxruntime.InferenceSession):
            return value
        inner = value if isinstance(value, dict) else getattr(value, "__dict__", None)
        inner = list(inner.values()) if isinstance(inner, dict) else []
        rest += [part for part in inner if not str(type(part).__module__).startswith("haystack.core")]
    raise AssertionError(f"{type(one).__name__} holds no module")
