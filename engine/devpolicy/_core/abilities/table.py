"""The consumers that come with the package, one row each.

Owns the facts. A row is checked against the consumer's own parser, log or class by the tests of its target.
"""

from __future__ import annotations

from dataclasses import replace

from devpolicy._core.abilities.values import CARRIED, LOADING, Abilities, StreamingMode, Target
from devpolicy._core.loading.engines import SGLANG, VLLM
from devpolicy._core.loading.support import TRANSFORMERS

_HAYSTACK_TYPES = frozenset({"cuda", "mps", "xpu", "cpu"})
_NOT_CACHE = CARRIED - {"kv_dtype"}
"""Transformers keeps a cache in the dtype in which the model computes."""
_NOT_LOADING = CARRIED - LOADING
"""A device is all that is said of the model: whoever loads it decides the rest."""
_MAP = Abilities(
    unit="module",
    assigns="units",
    keeps={"cpu": "streams", "disk": "streams"},
    main_device="lowest",
    schemes=TRANSFORMERS,
    carries=_NOT_CACHE,
)

_STAGES = Abilities(
    types=frozenset({"cuda"}),
    unit="layer",
    assigns="counts",
    runs_per_device=1,
    groups=frozenset({"pipeline", "tensor"}),
    keeps={"cpu": "budget"},
    fixed={"input": "first", "head": "last"},
    shares_ties="alone",
    cache="engine",
    budget="same-fraction-of-total",
    carries=frozenset({"dtype", "context", "batch", "kv_dtype"}),
)
_WHOLE_LAYERS = "leave the rule out: the engine runs whole layers on GPUs"

SHIPPED = (
    Target("hf", _MAP, distribution="transformers", about="Transformers and accelerate: `from_pretrained`"),
    Target(
        "haystack",
        # Its components choose the class, and load no adapter and no GGUF file.
        replace(
            _MAP,
            types=_HAYSTACK_TYPES,
            carries=_NOT_CACHE - {"architecture", "adapter"},
            schemes={name: support for name, support in TRANSFORMERS.items() if name != "gguf"},
        ),
        distribution="haystack-ai",
        about="components of a Haystack pipeline",
    ),
    Target(
        "torch",
        Abilities(reads=frozenset({"safetensors", "gguf"}), schemes=TRANSFORMERS, carries=_NOT_LOADING),
        distribution="torch",
        about="one `torch.device`",
    ),
    Target(
        "llama.cpp",
        Abilities(
            types=frozenset({"cuda", "mps", "xpu", "cpu"}),
            reads=frozenset({"gguf"}),
            unit="tensor",
            assigns="runs",
            runs_per_device=1,
            cpu="prefix",
            keeps={"cpu": "computes"},
            fixed={"input": "cpu"},
            shares_ties="never",
            cache="all-or-nothing",
            carries=frozenset({"context", "batch", "kv_dtype"}),
        ),
        instead="leave the rule out: llama.cpp keeps weights on the CPU, and computes there",
        distribution="llama-cpp-python",
        about="GGUF files: llama.cpp's flags and variables, Ollama, llama-cpp-python",
    ),
    Target(
        "diffusers",
        Abilities(
            types=frozenset({"cuda", "mps", "xpu", "cpu"}),
            reads=frozenset({"diffusers"}),
            unit="part",
            assigns="units",
            streaming=(
                StreamingMode("model", "component"),
                StreamingMode("group", "group"),
                StreamingMode("sequential", "leaf"),
            ),
            carries=frozenset({"dtype", "variant"}),
        ),
        instead="leave the rule out: components are whole, and `overflow` streams all of them",
        distribution="diffusers",
        about="pipelines: components over devices, or streamed through one",
    ),
    Target(
        "onnx",
        Abilities(types=frozenset({"cuda", "mps", "xpu", "cpu"}), reads=frozenset({"onnx"}), carries=frozenset()),
        instead="leave the rule out: a session runs the whole model on one device",
        distribution="onnxruntime",
        about="ONNX files: the providers of ONNX Runtime, Optimum, sentence-transformers",
    ),
    Target(
        "vllm",
        replace(
            _STAGES, carries=_STAGES.carries | {"quantization"}, schemes=VLLM, states=3, state_pages=True, step=8192
        ),
        instead=_WHOLE_LAYERS,
        distribution="vllm",
        about="vLLM: tensor groups, pipeline stages of unlike sizes, offload on the CPU",
    ),
    Target(
        "sglang",
        replace(_STAGES, budget="same-fraction-of-free", schemes=SGLANG, states=6, step=8192),
        instead=_WHOLE_LAYERS,
        distribution="sglang",
        about="SGLang: tensor groups, pipeline stages of unlike sizes, offload on the CPU",
    ),
    Target(
        "ktransformers",
        replace(
            _STAGES,
            keeps={"cpu": "experts"},
            groups=frozenset({"pipeline"}),
            budget="same-fraction-of-free",
            states=6,
            step=8192,
        ),
        instead="leave the rule out: `overflow` runs the last experts of every layer on the CPU",
        distribution="kt-kernel",
        about="KTransformers, by SGLang's flags: experts that run on the CPU",
    ),
    Target(
        "exllamav3",
        replace(
            _STAGES,
            assigns="budgets",
            any_order=False,
            groups=frozenset(),
            keeps={},
            fixed={"input": "cpu", "head": "last"},
            shares_ties="never",
            budget="per-device",
            step=8192,
            carries=frozenset({"context", "batch"}),
        ),
        instead="leave the rule out: the engine fills GPUs with whole layers, one after the other",
        distribution="exllamav3",
        about="exllamav3: a budget for each GPU",
    ),
    Target(
        "spacy",
        Abilities(types=frozenset({"cuda", "mps", "cpu"}), carries=_NOT_LOADING),
        distribution="spacy",
        about="one device",
    ),
)

_WITHOUT_MAP = (
    'leave the rule out for this component; a class of your own that takes a map is given one by `target = "hf"`'
)

BEHIND_COMPONENTS = tuple(
    Target(
        name,
        Abilities(
            types=frozenset(types), schemes=TRANSFORMERS if name == "haystack-torch" else {}, carries=_NOT_LOADING
        ),
        instead=_WITHOUT_MAP,
    )
    for name, types in {
        "haystack-torch": ("cuda", "mps", "xpu", "cpu"),
        "haystack-spacy": ("cuda", "cpu"),
        "haystack-cpu": ("cpu",),
        "onnxruntime": ("cuda", "cpu"),
        "llama-cpp": ("cuda", "mps", "cpu"),
    }.items()
)
"""Consumers behind a component of a framework: what it hands on may be less than its library takes.

The component's class says which one is meant, so a policy does not name them.
"""
