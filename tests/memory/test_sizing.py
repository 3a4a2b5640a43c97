"""The sequence that memory is computed for: prompt and answer together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devpolicy import ModelTree
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import size_model

GPT2 = ModelTree.load("gpt2")  # made for 1,024 tokens
LLAMA = ModelTree.load("llama-3.2-1b")  # made for 131,072


@pytest.mark.parametrize(
    ("tree", "workload", "context"),
    [
        (LLAMA, Workload(), 4096),
        (GPT2, Workload(), 1024),
        (GPT2, Workload(context=2000), 2000),
        (LLAMA, Workload(new_tokens=256), 4096),
        (LLAMA, Workload(new_tokens=4096), 4097),
        (LLAMA, Workload(new_tokens=10_000), 10_001),
        (GPT2, Workload(new_tokens=1024), 1025),
        (LLAMA, Workload(context=8192, new_tokens=256), 8192),
    ],
)
def test_a_context_holds_the_answer_and_a_prompt(tree: ModelTree, workload: Workload, context: int) -> None:
    sizing = size_model(tree, workload)
    assert sizing.context == context
    stated = size_model(tree, replace(workload, context=context))
    assert (sizing.kv_cache, sizing.activations) == (stated.kv_cache, stated.activations)


@pytest.mark.parametrize("answer", [0, 1, 256, 4095])
def test_an_answer_inside_the_context_takes_the_same_memory(answer: int) -> None:
    plain, answering = size_model(LLAMA, Workload()), size_model(LLAMA, Workload(new_tokens=answer))
    assert (plain.kv_cache, plain.activations) == (answering.kv_cache, answering.activations)
