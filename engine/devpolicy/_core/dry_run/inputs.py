"""What a model is called with, from its own configuration and signature.

Owns the inputs: tokens of the workload's length, pixels and sound in the shapes that the configuration names, and of a
vision-language model a prompt with as many image tokens as its own tower gives features.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_PARTS = ("vision_config", "backbone_config", "audio_config", "encoder", "text_config")
BANDS = ("num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels", "mel_bins")
"""What configurations call the bands of a spectrogram."""
_PATCHES = 32
"""Patches along each side of an image, for towers that take images of any size."""
_SAMPLES = 16_000
"""Samples of sound: one second, as most models take it."""
_FRAMES = 128


@dataclass(frozen=True, slots=True)
class Size:
    """How much a model is called with."""

    batch: int
    prompt: int
    new_tokens: int
    beams: int = 1


def candidates(model: Any, size: Size) -> Iterator[dict[str, Any]]:
    """Yield inputs of a model, the likeliest first; which of them it takes shows when it is called."""
    names = inspect.signature(model.forward).parameters
    if "pixel_values" in names and "input_ids" in names and hasattr(model, "get_image_features"):
        for image in _images(model, size):
            yield from _with_image(model, image, size, names)
    yield from _other_than_text(model, size, names)
    if "input_ids" in names:
        yield {**_tokens(model, size), **_decoder(model, names, size)}
    elif "inputs_embeds" in names:
        width = _of(model.config, "hidden_size", "d_model") or 1
        yield {"inputs_embeds": torch.empty(size.batch, size.prompt, width, dtype=model.dtype)}


def _other_than_text(model: Any, size: Size, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield inputs of a model of sound or of images, with the text that goes with them."""
    main = getattr(model, "main_input_name", "input_ids")
    if main == "input_features":
        for frames in _features(model, size):
            yield {main: frames, **_decoder(model, names, size)}
    elif main == "input_values":
        for shape in ((size.batch, _SAMPLES), (size.batch, 1, _SAMPLES)):
            yield {main: torch.empty(shape, dtype=model.dtype), **_decoder(model, names, size)}
    elif "pixel_values" in names or (main == "pixel_values_videos" and main in names):
        for image in _images(model, size):
            yield {**image, **(_tokens(model, size) if "input_ids" in names else {})}


def _tokens(model: Any, size: Size) -> dict[str, Any]:
    """Return a prompt of ordinary tokens; how long it may be is the caller's to know."""
    return {"input_ids": torch.full((size.batch, size.prompt), _ordinary(model), dtype=torch.long)}


def _ordinary(model: Any) -> int:
    """Return a token without a special meaning."""
    taken = {value for _, value in _special(model.config)}
    return next(token for token in range(1, len(taken) + 2) if token not in taken)


def _special(config: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    for key, value in vars(config).items():
        if isinstance(value, int) and key.endswith(("_token_id", "_token_index")):
            yield key, value
        elif depth < 2 and key in _PARTS:
            yield from _special(value, depth + 1) if hasattr(value, "to_dict") else ()


def _decoder(model: Any, names: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Return what the decoder of a pair is given where the model is called, and not asked to generate."""
    if "decoder_input_ids" not in names or model.can_generate():
        return {}
    return {"decoder_input_ids": torch.ones(size.batch, max(1, size.new_tokens), dtype=torch.long)}


def _images(model: Any, size: Size) -> Iterator[dict[str, Any]]:
    """Yield images in the forms that processors give them: whole, as patches of a grid, and in tiles."""
    config, dtype = model.config, model.dtype
    vision = getattr(config, "vision_config", None) or config
    channels = _of(config, "num_channels", "in_channels", "in_chans") or 3
    patch, merge = _of(vision, "patch_size"), _of(vision, "spatial_merge_size") or 1
    image_features = getattr(model, "get_image_features", None)
    names = inspect.signature(image_features).parameters if image_features is not None else {}
    if "image_grid_thw" in names and patch:
        side = _PATCHES // merge * merge
        width = channels * (_of(vision, "temporal_patch_size") or 1) * patch * patch
        pixels = torch.empty(size.batch * side * side, width, dtype=dtype)
        yield {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]] * size.batch)}
        return
    height = _of(vision, "image_size", "input_size") or 224
    frames = _of(config, "num_frames", "frames_per_clip")
    name = getattr(model, "main_input_name", "pixel_values")
    if name == "pixel_values_videos":
        yield {name: torch.empty(size.batch, frames or 8, channels, height, height, dtype=dtype)}
    yield {"pixel_values": torch.empty(size.batch, channels, height, height, dtype=dtype)}
    yield {"pixel_values": torch.empty(size.batch, 1, channels, height, height, dtype=dtype)}


def _with_image(model: Any, image: dict[str, Any], size: Size, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a prompt for an image, with as many tokens as the tower returns for it."""
    config = model.config
    token = next((value for key, value in _special(config) if key.startswith("image_token")), None)
    if token is None:
        return
    there = {key: value.to(model.device) for key, value in image.items()}
    found = model.get_image_features(**there, return_dict=True)
    # Llama 4 hands on what its tower gives, and projects it later.
    fields = (getattr(found, name, None) for name in ("pooler_output", "last_hidden_state"))
    features = next((field for field in fields if field is not None), found)
    parts = features if isinstance(features, list | tuple) else [features]
    count = sum(part.numel() // part.shape[-1] for part in parts) // size.batch
    del found, features, parts
    ids = torch.full((size.batch, max(size.prompt, count + 1)), _ordinary(model), dtype=torch.long)
    ids[:, :count] = token
    kinds = (ids == token).long()
    more = {name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in names}
    yield {"input_ids": ids, **image, **more}


def _features(model: Any, size: Size) -> Iterator[torch.Tensor]:
    """Yield spectrograms: with as many frames as an encoder of a fixed length takes, else some."""
    bands = _of(model.config, *BANDS) or 80
    positions = _of(model.config, "max_source_positions")
    if positions:
        yield torch.empty(size.batch, bands, 2 * positions, dtype=model.dtype)
    yield torch.empty(size.batch, _FRAMES, bands, dtype=model.dtype)
    yield torch.empty(size.batch, bands, _FRAMES, dtype=model.dtype)


def _of(config: Any, *keys: str) -> int | None:
    """Return the first number under one of these keys, in a configuration or in its parts."""
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, list | tuple) and value and all(isinstance(one, int) for one in value):
            value = max(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    for part in _PARTS:
        inner = getattr(config, part, None)
        if hasattr(inner, "to_dict"):
            found = _of(inner, *keys)
            if found is not None:
                return found
    return None
