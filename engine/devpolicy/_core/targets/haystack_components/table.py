"""What each component class of Haystack and its integrations takes, one row a class.

Owns facts alone: the consumer that stands behind a component, and which init parameters hold its device and keyword
arguments. How a plan is written there is the matter of `forms`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from packaging.version import Version

Form = Literal[
    "device",  # one device in `device`
    "text",  # one device in `device`, as text
    "text-or-map",  # the same, and a map in keyword arguments of `from_pretrained`
    "ours",  # `device` is devpolicy's own class
    "pipeline",  # `device`, and keyword arguments of `transformers.pipeline`
    "from_pretrained",  # `device`, and keyword arguments of `from_pretrained`
    "sentence-transformers",  # one device in `device`, a map in keyword arguments of `from_pretrained`
    "sentence-transformers-onnx",  # the same library on ONNX Runtime: an execution provider in keyword arguments
    "fastembed",  # `cuda` and `device_ids` in keyword arguments
    "provider",  # an execution provider in a parameter of its own, its device in keyword arguments
    "llama-cpp",  # `n_gpu_layers`, `main_gpu` and `split_mode` in keyword arguments
]

KWARGS = ("huggingface_pipeline_kwargs", "pipeline_kwargs", "model_kwargs")
"""Init parameters in which components save `device` or `device_map`, which then win over the parameter `device`."""

ONE_DEVICE, ANY_MAP = "haystack-torch", "haystack"


@dataclass(frozen=True, slots=True)
class Takes:
    """What a component class takes."""

    form: Form
    target: str
    """The consumer that is planned for: a name of `devpolicy._core.abilities`."""
    kwargs: str | None = None
    """The init parameter that holds keyword arguments of the library."""
    checkpoint: bool = False
    """Whether its model is one whose size devpolicy can read from the files."""
    holder: str | None = None
    """The attribute whose own attributes are the init parameters; `None` is the instance itself."""
    pool: Literal["encode_kwargs", "parallel"] | None = None
    """The init parameter by which it runs a whole copy on each of several devices; `None` where it runs one."""
    known: bool = True
    """Whether the class has a row of its own, or is only read from its signature."""

    @property
    def single(self) -> Takes:
        """The same, for a device that is asked for without the way to hand over a map."""
        return replace(self, target=ONE_DEVICE) if self.target == ANY_MAP else self


@dataclass(frozen=True, slots=True)
class TakesNone:
    """A component class that runs a model and has no parameter for the device, and what to do instead."""

    instead: str
    takes_any: bool = False
    """Whether it takes the accelerator that it finds, which no policy then counts: a warning, named or not."""
    parameter: str = ""
    """The init parameter that says where, after all."""
    variable: str = ""
    """The environment variable that does."""
    annotated: str = ""
    """The type of its parameter `device`, where it has one of a type that is not written."""

    def given(self, params: Mapping[str, Any]) -> TakesNone:
        """The same, as init parameters and the environment change it."""
        told = params.get(self.parameter) is not None or self.variable in os.environ
        return replace(self, takes_any=self.takes_any and not told)


def pipeline(kwargs: str) -> Takes:
    """What a component takes that hands keyword arguments to `transformers.pipeline`."""
    return Takes("pipeline", ANY_MAP, kwargs, checkpoint=True)


_HF_PIPELINE = pipeline("huggingface_pipeline_kwargs")
_HF_MODEL = Takes("from_pretrained", ANY_MAP, "model_kwargs", checkpoint=True)
_SENTENCES = Takes("sentence-transformers", ANY_MAP, "model_kwargs", checkpoint=True)
_ENCODER = replace(_SENTENCES, pool="encode_kwargs")
_FASTEMBED = Takes("fastembed", "onnxruntime", "model_kwargs", pool="parallel")
_OPTIMUM = Takes("provider", "onnxruntime", "model_kwargs", holder="_params")
_LLAMA_CPP = Takes("llama-cpp", "llama-cpp", "model_kwargs")
_OUTLINES = Takes("text-or-map", ANY_MAP, "model_kwargs", checkpoint=True)
_SPACY = Takes("device", "haystack-spacy")
_SPACY_BACKEND = replace(_SPACY, holder="_backend")
_PRESIDIO = TakesNone("it loads spaCy itself, so call `spacy.require_gpu(id)` or `spacy.require_cpu()` before warm-up")

ROWS: Mapping[str, Takes | TakesNone] = {
    # haystack-ai
    "SASEvaluator": Takes("device", ONE_DEVICE, checkpoint=True),
    # haystack-ai before 3, which had the others under the names that they have now
    "ExtractiveReader": _HF_MODEL,
    "HuggingFaceLocalChatGenerator": _HF_PIPELINE,
    "HuggingFaceLocalGenerator": _HF_PIPELINE,
    "NamedEntityExtractor": replace(pipeline("pipeline_kwargs"), holder="_backend"),
    "TransformersSimilarityRanker": _HF_MODEL,
    # transformers-haystack
    "TransformersChatGenerator": _HF_PIPELINE,
    "TransformersExtractiveReader": _HF_MODEL,
    "TransformersNamedEntityExtractor": pipeline("pipeline_kwargs"),
    "TransformersTextRouter": _HF_PIPELINE,
    "TransformersZeroShotDocumentClassifier": _HF_PIPELINE,
    "TransformersZeroShotTextRouter": _HF_PIPELINE,
    # sentence-transformers-haystack
    "SentenceTransformersDiversityRanker": _SENTENCES,
    "SentenceTransformersDocumentEmbedder": _ENCODER,
    "SentenceTransformersDocumentImageEmbedder": _ENCODER,
    "SentenceTransformersSimilarityRanker": _SENTENCES,
    "SentenceTransformersSparseDocumentEmbedder": _SENTENCES,
    "SentenceTransformersSparseTextEmbedder": _SENTENCES,
    "SentenceTransformersTextEmbedder": _ENCODER,
    # spacy-haystack: Haystack's `to_spacy` stands between, and gives -1, the CPU, for all but cuda.
    "SpacyNamedEntityExtractor": _SPACY,
    # funasr-haystack, whisper-haystack
    "FunASRTranscriber": Takes("device", ONE_DEVICE),
    "LocalWhisperTranscriber": Takes("device", ONE_DEVICE),
    # fastembed-haystack
    "FastembedDocumentEmbedder": _FASTEMBED,
    "FastembedLateInteractionRanker": _FASTEMBED,
    "FastembedRanker": _FASTEMBED,
    "FastembedSparseDocumentEmbedder": _FASTEMBED,
    "FastembedSparseTextEmbedder": _FASTEMBED,
    "FastembedTextEmbedder": _FASTEMBED,
    # optimum-haystack
    "OptimumDocumentEmbedder": _OPTIMUM,
    "OptimumTextEmbedder": _OPTIMUM,
    # llama-cpp-haystack
    "LlamaCppChatGenerator": _LLAMA_CPP,
    "LlamaCppGenerator": _LLAMA_CPP,
    # outlines-haystack
    "LlamaCppChoiceGenerator": _LLAMA_CPP,
    "LlamaCppJSONGenerator": _LLAMA_CPP,
    "LlamaCppTextGenerator": _LLAMA_CPP,
    "TransformersChoiceGenerator": _OUTLINES,
    "TransformersJSONGenerator": _OUTLINES,
    "TransformersTextGenerator": _OUTLINES,
    # docling-haystack, hanlp-haystack, presidio-haystack
    "ChineseDocumentSplitter": TakesNone(
        "HanLP takes the GPU that it finds, so set `CUDA_VISIBLE_DEVICES`", True, variable="CUDA_VISIBLE_DEVICES"
    ),
    "DoclingConverter": TakesNone(
        "give it a `converter` whose `AcceleratorOptions` name the device, or set `DOCLING_DEVICE`",
        takes_any=True,
        parameter="converter",
        variable="DOCLING_DEVICE",
    ),
    "PresidioDocumentCleaner": _PRESIDIO,
    "PresidioEntityExtractor": _PRESIDIO,
    "PresidioTextCleaner": _PRESIDIO,
}

PACKAGES = ("haystack", "haystack_integrations", "outlines_haystack")
"""The packages whose classes have rows: another's class of the same name is read from its signature."""


def row_of(path: str, params: Mapping[str, Any]) -> Takes | TakesNone | None:
    """Return the row of a class by its path, as these init parameters change it; `None` where it has none."""
    package, name = path.partition(".")[0], path.rpartition(".")[2]
    row = ROWS.get(name) if package in PACKAGES else None
    if isinstance(row, TakesNone):
        return row.given(params)
    if isinstance(row, Takes) and row.form == "sentence-transformers":
        return _of_backend(row, params.get("backend") or "torch")
    if isinstance(row, Takes) and row.holder == "_backend":
        backend = params.get("backend", params.get("type"))
        # A member of its enumeration, or that member's value or name.
        return _SPACY_BACKEND if str(getattr(backend, "value", backend)).lower() == "spacy" else row
    return row


def _of_backend(row: Takes, backend: str) -> Takes:
    if backend == "onnx":
        return replace(row, form="sentence-transformers-onnx", target="onnxruntime", checkpoint=False, pool=None)
    if backend == "openvino":
        return replace(row, form="device", target="haystack-cpu", checkpoint=False, pool=None)
    # Before, `device_map` was handed on, and the model then moved to `device` as a whole.
    return row if _installed("sentence-transformers", "6") else replace(row, target=ONE_DEVICE)


def _installed(package: str, least: str) -> bool:
    """Whether a package is at least of a version; one that is not here is taken for its newest."""
    try:
        return Version(version(package)) >= Version(least)
    except PackageNotFoundError:
        return True
