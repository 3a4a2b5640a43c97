"""What a Transformers configuration determines of memory beside the weights: KV cache, activations, context.

Owns what is read of one, but for the formulas of caches and activations. Works on a configuration as a plain table and
on module paths, so it needs neither torch nor Transformers, and what it does not find is left out, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from devpolicy._core.model.activations import beside, per_token
from devpolicy._core.model.architectures import FAILED, measured
from devpolicy._core.model.caches import caches
from devpolicy._core.model.config_keys import Config, number, size, text_part
from devpolicy._core.model.decoder import Decoder
from devpolicy._core.model.generation import beams_of
from devpolicy._core.model.tree import DTYPE_BITS, Activated, Beside, Module

_BEHIND_PADDING = frozenset({
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "mpnet", "data2vec-text",
    "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "esm", "altclip_text_model",
    "bridgetower_text_model", "clap_text_model",
})  # fmt: skip
"""Types whose positions are numbered from the one behind the padding token: a table of 514 does for 512 tokens."""
_TOWER = re.compile(r"vision|visual|audio|image|projector|connector|multi_modal|resampler")


def config_of(found: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return the configuration of the first module that has one, as a table, and that module's path."""
    for path, module in found:
        config = module.__dict__.get("config")
        if hasattr(config, "model_type") and hasattr(config, "to_dict"):
            table = config.to_dict()
            if isinstance(table, dict):
                return table, path
    return {}, ""


def derive(
    config: Config,
    tree: Sequence[Module],
    prefix: str = "",
    *,
    shapes: bool = True,
    takes_cache: bool | None = None,
) -> dict[str, Any]:
    """Return the fields of a `ModelTree` that a configuration determines.

    `tree` are the modules in order, `prefix` the path of the one that the configuration describes. `shapes`: their
    tensors have the shapes of the modules' own, as those of quantised checkpoints have not. `takes_cache` says whether
    the code of a model in it takes a cache, where that is known.
    """
    if not config:
        return {}
    text = text_part(config)
    root = next((module.class_name for module in tree if module.path == prefix), "")
    vocabulary = number(text, "vocab_size") or number(config, "vocab_size") or 0
    scores_each_token = root.endswith("ForMaskedLM")
    seen = measured(root)
    divided = None
    if seen is not None and seen.verdict in FAILED:
        divided = f"{'wrong' if seen.stale else seen.verdict}: {seen.reason}"
    metadata = {"model_type": config.get("model_type"), "class": root, "divided": divided}
    kept = tuple(caches(Decoder(config, text, tree, prefix, shapes))) if _decodes(config, text, takes_cache) else ()
    windows = any(cache.window is not None and cache.window > 1 for cache in kept) or "local_attention" in text
    # The formulas are those of language models: of convolutions and of images nothing is known.
    return {
        "kv_cache": kept,
        "reads": tuple(_reads(text, config, tree, root)),
        "context": _context(config, text),
        "activation_elements_per_token": per_token(text, tree) + vocabulary * scores_each_token if vocabulary else 0,
        "beside": beside(config, text, tree, windows=windows) if vocabulary else Beside(),
        "logits_elements": vocabulary if "LM" in root or root.endswith("ForConditionalGeneration") else 0,
        "attention_heads": size(text, "heads") or 0,
        "attention_bias": _bias(text),
        "beams": beams_of(config, text),
        "dtype": named_dtype(config),
        "metadata": tuple((key, str(value)) for key, value in metadata.items() if value),
    }


def _context(config: Config, text: Config) -> int | None:
    """Return the most tokens that a model has positions for, `None` where that is not known."""
    found = size(text, "decoder_context") or size(text, "context") or size(config, "context")
    kind = text.get("model_type", config.get("model_type"))
    if found is None or kind not in _BEHIND_PADDING or text.get("position_embedding_type", "absolute") != "absolute":
        return found
    padding = text.get("pad_token_id")
    first = 1 + (padding if isinstance(padding, int) and 0 <= padding < found - 1 else 1)
    return max(1, found - first)


def _bias(config: Config) -> str:
    """Return which bias attention adds by the distance of tokens, empty where it adds none."""
    if number(config, "relative_attention_num_buckets"):
        return "relative"
    return "alibi" if config.get("alibi") or config.get("model_type") in ("bloom", "mpt") else ""


def named_dtype(config: Config) -> str | None:
    """Return the dtype that a configuration names, by itself or in the part that describes the language model."""
    return dtype_of(config) or dtype_of(text_part(config))


def dtype_of(config: Config) -> str | None:
    """Return the dtype that a configuration names, under its new or its old key."""
    for key in ("dtype", "torch_dtype"):
        value = config.get(key)
        name = str(value).removeprefix("torch.")
        if value is not None and name in DTYPE_BITS:
            return name
    return None


def _decodes(config: Config, text: Config, takes_cache: bool | None) -> bool:
    """Return whether a class may generate with a cache; `takes_cache`: whether its code has one, where known."""
    if takes_cache is not None:
        return takes_cache
    return bool(config.get("is_encoder_decoder")) or "use_cache" in text


def _reads(text: Config, config: Config, modules: Sequence[Module], root: str) -> Iterator[Activated]:
    """Yield the modules of which one token reads less than all: experts, and what runs before the first token."""
    used, experts = size(text, "experts"), size(text, "all_experts")
    some = (used, experts) if used and experts and used < experts else None
    generates = "LM" in root or root.endswith("ForConditionalGeneration")
    encodes, towers = generates and bool(config.get("is_encoder_decoder")), generates and text is not config
    before: str | None = None
    for module in modules if some or encodes or towers else ():
        path = module.path
        if before is not None and path.startswith(f"{before}."):
            continue
        name = path.rpartition(".")[2]
        if (encodes and name == "encoder") or (towers and _TOWER.search(name)):
            before = path
            yield Activated(path, per_request=True)
        elif some and name == "experts":
            yield Activated(path, *some)
