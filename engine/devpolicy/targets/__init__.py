"""The consumers of plans: what each can be given, how another package adds one, and the forms of engines.

    from devpolicy.targets import Abilities, Target, register

    register(Target("my-engine", Abilities(types=frozenset({"cuda"}), carries=frozenset()), forms={"my-engine": flags}))

A package that does so in an entry point of the group `devpolicy.targets` is found by policies and by the command line.
`devpolicy.testing.conformance.check_target` holds a target to what it claims.
"""

from __future__ import annotations

from devpolicy._core.abilities import Abilities, StreamingMode, Target, TargetError, register, target_of, targets
from devpolicy._core.loading import Loading
from devpolicy._core.placement.plan import Placement, Plan, PlannedWorkload
from devpolicy._core.targets.diffusers import diffusers_settings, place_pipeline, to_diffusers_kwargs
from devpolicy._core.targets.environment import environment
from devpolicy._core.targets.exllamav3 import exllamav3
from devpolicy._core.targets.llama_cpp import LlamaCppSettings, to_llama_cpp, to_llama_cpp_python
from devpolicy._core.targets.onnx import check_providers, onnx_model_kwargs, onnx_providers
from devpolicy._core.targets.stages import Stages, sglang, stages, vllm

__all__ = [
    "Abilities",
    "LlamaCppSettings",
    "Loading",
    "Placement",
    "Plan",
    "PlannedWorkload",
    "Stages",
    "StreamingMode",
    "Target",
    "TargetError",
    "check_providers",
    "diffusers_settings",
    "environment",
    "exllamav3",
    "onnx_model_kwargs",
    "onnx_providers",
    "place_pipeline",
    "register",
    "sglang",
    "stages",
    "target_of",
    "targets",
    "to_diffusers_kwargs",
    "to_llama_cpp",
    "to_llama_cpp_python",
    "vllm",
]
