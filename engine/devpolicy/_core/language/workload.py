"""`[workload]`: what the memory beside the weights is computed from.

Owns its keys and its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from devpolicy._core.language.kinds import CACHE_DTYPES, one_of_dtypes
from devpolicy._core.language.wishes import CONTEXT, ContextRange
from devpolicy._core.model.tree import FLOATING
from devpolicy._core.toml.tables import Kind, choice, integer, key

Optimize = Literal["token", "first-token"]
_OPTIMIZE: Kind[Optimize] = choice("token", "first-token")

KVOffload = Literal["cpu"]
_KV_OFFLOAD: Kind[KVOffload] = choice("cpu")


@dataclass(frozen=True, slots=True)
class Workload:
    """The keys of `[workload]`; `None` is a figure that is taken from the model."""

    context: int | ContextRange | None = key(
        CONTEXT,
        "Tokens of a sequence, prompt and answer together; a range: as many as there is room for.",
        default="4096, or the model's if smaller",
    )
    batch: int = key(integer(1, 2**31 - 1), "The number of sequences at once.", value=1, default="`1`")
    dtype: str | None = key(
        one_of_dtypes(*sorted(FLOATING)), "The dtype in which the model is loaded.", default="the model's own"
    )
    kv_dtype: str | None = key(
        one_of_dtypes(*CACHE_DTYPES), "The dtype of the KV cache.", default="the same as the model"
    )
    kv_offload: KVOffload | None = key(
        _KV_OFFLOAD,
        "Where the whole KV cache is stored, instead of beside its layers; only some targets support it.",
        default="with its layers",
    )
    prompt: int | None = key(
        integer(1, 2**31 - 1), "Tokens of a prompt, out of those of `context`.", default="`context` without the answer"
    )
    optimize: Optimize = key(
        _OPTIMIZE,
        'The goal of `split = "fastest"`: the time of each token of the answer, or the time to the first one.',
        value="token",
        default='`"token"`',
    )
    new_tokens: int | None = key(
        integer(0, 2**31 - 1), "Tokens of the answer to one request, out of those of `context`."
    )
    beams: int | None = key(
        integer(1, 2**16),
        "Sequences that generation keeps for each of the batch: the larger of `num_beams` and `num_return_sequences`.",
        default="the model's own",
    )
