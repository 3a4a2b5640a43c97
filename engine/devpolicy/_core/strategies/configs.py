"""A strategy for configurations of Transformers, tiny enough to build and to run in a test.

Owns which families there are and what sizes go together. Transformers is imported when a configuration is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

FAMILIES = ("gpt2", "bert", "llama", "mistral", "qwen2", "mixtral")
"""The default families by `model_type`, simplest first."""

_HEADS = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "bert": ("BertForMaskedLM", "BertModel"),
    "llama": ("LlamaForCausalLM", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
    "mixtral": ("MixtralForCausalLM", "MixtralModel"),
}
_GROUPS = ("num_key_value_heads",)
_OWN = {
    "llama": (*_GROUPS, "attention_bias", "mlp_bias"),
    "mistral": _GROUPS,
    "qwen2": _GROUPS,
    "mixtral": (*_GROUPS, "num_local_experts"),
}
"""Keys that only some families have. Key and value heads are shared by equal groups of query heads."""
_CONTEXT = 32


def transformers_configs(
    *, families: Sequence[str] = FAMILIES, min_layers: int = 1, max_layers: int = 3, tied: bool | None = None
) -> st.SearchStrategy[PreTrainedConfig]:
    """Return a strategy for Transformers configurations whose models have some thousand parameters.

    `families` are model types in the order in which they shrink, first to simplest; layers lie between `min_layers`
    and `max_layers`; `tied` asks for tied or for untied embeddings only. `architectures` names the class with the
    language head, or the bare model. Contexts are 32 tokens, vocabularies at least 8.
    """
    unknown = [name for name in families if name not in _HEADS]
    if unknown or not families:
        raise InvalidArgument(f"families are some of {', '.join(_HEADS)}, got {families!r}")
    if not 1 <= min_layers <= max_layers:
        raise InvalidArgument(f"1 <= min_layers <= max_layers does not hold: {min_layers} and {max_layers}")
    return _configs(
        tuple(families), st.integers(min_layers, max_layers), st.booleans() if tied is None else st.just(tied)
    )


@st.composite
def _configs(
    draw: st.DrawFn, families: tuple[str, ...], layers: st.SearchStrategy[int], tied: st.SearchStrategy[bool]
) -> Any:
    from transformers import AutoConfig

    family = draw(st.sampled_from(families))
    # Multiples of 8: the grouped products of mixtures of experts want rows of whole 16 bytes, in 16 bits too.
    heads, head_size = draw(st.sampled_from((1, 2, 4))), draw(st.sampled_from((8, 16)))
    common = {
        "vocab_size": draw(st.sampled_from((8, 32))),
        "tie_word_embeddings": draw(tied),
        "architectures": [draw(st.sampled_from(_HEADS[family]))],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    sizes = {"hidden": heads * head_size, "inner": draw(st.sampled_from((8, 16))), "layers": draw(layers)}
    own = _own(draw, family, heads)
    return AutoConfig.for_model(family, **common, **_named(family, heads, sizes), **own)


def _named(family: str, heads: int, sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes under the names that the family gives them."""
    if family == "gpt2":
        return {
            "n_embd": sizes["hidden"],
            "n_inner": sizes["inner"],
            "n_layer": sizes["layers"],
            "n_head": heads,
            "n_positions": _CONTEXT,
        }
    return {
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": heads,
        "max_position_embeddings": _CONTEXT,
    }


def _own(draw: st.DrawFn, family: str, heads: int) -> dict[str, Any]:
    """Draw what only some families have."""
    # Drawn for every family, since Hypothesis takes the one with fewer choices for the simpler one.
    drawn = {
        "num_key_value_heads": draw(st.sampled_from([count for count in (1, 2, 4) if heads % count == 0])),
        "num_local_experts": draw(st.sampled_from((2, 3))),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }
    return {key: drawn[key] for key in _OWN.get(family, ())}
