"""Templates of models with a tower for images: CLIP, and Gemma 3, whose tower is SigLIP.

Owns the rows of the towers and of the projections to the decoder. The decoder's own are in `decoders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devpolicy._core.model.architecture_template import Config, Template, below, fill, layers
from devpolicy._core.model.templates.decoders import gemma3_text
from devpolicy._core.model.templates.family import ACTIVATIONS

_LAYER = """
                                    {C}EncoderLayer
{first_norm}
self_attn                           {C}Attention
self_attn.k_proj                    Linear weight=hidden,hidden bias=hidden
self_attn.v_proj                    Linear weight=hidden,hidden bias=hidden
self_attn.q_proj                    Linear weight=hidden,hidden bias=hidden
self_attn.out_proj                  Linear weight=hidden,hidden bias=hidden
{second_norm}
mlp                                 {C}MLP
mlp.activation_fn                   {act}
mlp.fc1                             Linear weight=inner,hidden bias=inner
mlp.fc2                             Linear weight=hidden,inner bias=hidden
{third_norm}
"""
_NORM_1 = "layer_norm1 LayerNorm weight=hidden bias=hidden"
_NORM_2 = "layer_norm2 LayerNorm weight=hidden bias=hidden"
_CLIP_LAYER = fill(_LAYER, {"C": "CLIP", "first_norm": "", "second_norm": _NORM_1, "third_norm": _NORM_2})
_SIGLIP_LAYER = fill(_LAYER, {"C": "Siglip", "first_norm": _NORM_1, "second_norm": _NORM_2, "third_norm": ""})
_TEXT = """
embeddings                          CLIPTextEmbeddings position_ids~int64=1,positions
embeddings.token_embedding          Embedding weight=vocab,hidden
embeddings.position_embedding       Embedding weight=positions,hidden
encoder                             CLIPEncoder
{layers}
final_layer_norm                    LayerNorm weight=hidden bias=hidden
"""
_VISION = """
embeddings                          CLIPVisionEmbeddings class_embedding=hidden position_ids~int64=1,places
embeddings.patch_embedding          Conv2d weight=hidden,channels,patch,patch
embeddings.position_embedding       Embedding weight=places,hidden
pre_layrnorm                        LayerNorm weight=hidden bias=hidden
encoder                             CLIPEncoder
{layers}
post_layernorm                      LayerNorm weight=hidden bias=hidden
"""
_SIGLIP = """
embeddings                          SiglipVisionEmbeddings position_ids~int64=1,patches
embeddings.patch_embedding          Conv2d weight=hidden,channels,patch,patch bias=hidden
embeddings.position_embedding       Embedding weight=patches,hidden
encoder                             SiglipEncoder
{layers}
post_layernorm                      LayerNorm weight=hidden bias=hidden
{head}
"""
_SIGLIP_HEAD = """
head                                SiglipMultiheadAttentionPoolingHead probe=1,1,hidden
head.attention                      MultiheadAttention in_proj_weight=hidden3,hidden in_proj_bias=hidden3
head.attention.out_proj             NonDynamicallyQuantizableLinear weight=hidden,hidden bias=hidden
head.layernorm                      LayerNorm weight=hidden bias=hidden
head.mlp                            SiglipMLP
head.mlp.activation_fn              {act}
head.mlp.fc1                        Linear weight=inner,hidden bias=inner
head.mlp.fc2                        Linear weight=hidden,inner bias=hidden
"""
_PROJECTOR = """
multi_modal_projector               Gemma3MultiModalProjector mm_input_projection_weight=vision_hidden,hidden
multi_modal_projector.mm_soft_emb_norm Gemma3RMSNorm weight=vision_hidden
multi_modal_projector.avg_pool      AvgPool2d
"""
_CLIP_BLOCKS = ("CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings")
_SIGLIP_BLOCKS = (
    "SiglipTextEmbeddings",
    "SiglipVisionEmbeddings",
    "SiglipEncoderLayer",
    "SiglipMultiheadAttentionPoolingHead",
)


def _part(rows: str, layer: str, config: Config, more: Mapping[str, str] | None = None) -> str:
    """Return the rows of a tower, whose layers are alike."""
    words = {"act": ACTIVATIONS[config["hidden_act"]]}
    count = config["num_hidden_layers"]
    listed = below("encoder", layers("layers", [""] * count, {"": fill(layer, words)}))
    return fill(rows, {"layers": listed, **(more or {}), **words})


def _sizes(config: Config) -> dict[str, int]:
    """Return the sizes of a tower's rows."""
    hidden = config["hidden_size"]
    found = {"hidden": hidden, "hidden3": 3 * hidden, "inner": config["intermediate_size"]}
    if "patch_size" in config:
        patches = (config["image_size"] // config["patch_size"]) ** 2
        more = {"patch": config["patch_size"], "channels": config["num_channels"], "patches": patches}
        return {**found, **more, "places": patches + 1}
    return {**found, "vocab": config["vocab_size"], "positions": config["max_position_embeddings"]}


def _named(rows: str, prefix: str, sizes: Mapping[str, int]) -> str:
    """Return rows whose sizes have names of their own, beside those of another part."""
    lines = []
    for row in rows.splitlines():
        words = [
            f"{name}={','.join(f'{prefix}{size}' if size in sizes else size for size in dimensions.split(','))}"
            if found
            else name
            for name, found, dimensions in (word.partition("=") for word in row.split())
        ]
        lines.append(" ".join(words))
    return "\n".join(lines)


def _clip(config: Config, architecture: str) -> Template | None:
    if architecture != "CLIPModel":
        return None
    parts: list[tuple[str, str, Config, str, str]] = [
        ("text_model", "CLIPTextModel", config["text_config"], _TEXT, "text_"),
        ("vision_model", "CLIPVisionModel", config["vision_config"], _VISION, "vision_"),
    ]
    rows, sizes = [". logit_scale="], {"projection": config["projection_dim"]}
    for path, cls, part, text, prefix in parts:
        own = _sizes(part)
        rows += [f"{path} {cls}", below(path, _named(_part(text, _CLIP_LAYER, part), prefix, own))]
        sizes |= {f"{prefix}{name}": size for name, size in own.items()}
    rows += [
        "visual_projection Linear weight=projection,vision_hidden",
        "text_projection Linear weight=projection,text_hidden",
    ]
    return Template("\n".join(rows), sizes, _CLIP_BLOCKS, config)


def _clip_tower(config: Config, architecture: str, kind: str) -> Template | None:
    """Return a tower of CLIP alone, with its projection where the class has one."""
    text, name = (_TEXT, "text") if kind == "Text" else (_VISION, "visual")
    sizes = {**_sizes(config), "projection": config["projection_dim"]}
    rows = _part(text, _CLIP_LAYER, config)
    if architecture == f"CLIP{kind}Model":
        return Template(rows, sizes, _CLIP_BLOCKS, config)
    if architecture != f"CLIP{kind}ModelWithProjection":
        return None
    path = f"{kind.lower()}_model"
    rows = f"{path} CLIP{kind}Model\n{below(path, rows)}\n{name}_projection Linear weight=projection,hidden"
    return Template(rows, sizes, _CLIP_BLOCKS, config)


def _gemma3(config: Config, architecture: str) -> Template | None:
    """Return Gemma 3 with its tower; the sizes of the tower have names of their own."""
    if architecture not in TOWER_CLASSES["gemma3"]:
        return None
    vision: Config = config["vision_config"]
    if vision.get("model_type") != "siglip_vision_model":
        return None
    text = gemma3_text(config["text_config"])
    own = _sizes(vision)
    head = _SIGLIP_HEAD if vision.get("vision_use_head", True) else ""
    tower = _named(_part(_SIGLIP, _SIGLIP_LAYER, vision, {"head": head}), "vision_", own)
    rows = [
        "vision_tower SiglipVisionModel", below("vision_tower", tower), _PROJECTOR,
        "language_model Gemma3TextModel", below("language_model", text.rows),
    ]  # fmt: skip
    body = "\n".join(rows)
    sizes = {**text.sizes, **{f"vision_{name}": size for name, size in own.items()}}
    no_split = (*_SIGLIP_BLOCKS, *text.no_split)
    merged: dict[str, Any] = {**config, "text_config": text.config}
    if architecture == "Gemma3Model":
        return Template(body, sizes, no_split, merged)
    ties = (("model.language_model.embed_tokens.weight", "lm_head.weight"),)
    whole = f"model Gemma3Model\n{below('model', body)}\nlm_head Linear weight=vocab,hidden"
    return Template(whole, sizes, no_split, merged, ties if config.get("tie_word_embeddings", True) else ())


TOWERS = {
    "clip": _clip,
    "clip_text_model": lambda config, cls: _clip_tower(config, cls, "Text"),
    "clip_vision_model": lambda config, cls: _clip_tower(config, cls, "Vision"),
    "gemma3": _gemma3,
}
"""The families of this module, by model type."""
TOWER_CLASSES: dict[str, tuple[str, ...]] = {
    "clip": ("CLIPModel",),
    "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3Model"),
}
"""The classes that there are templates for."""
