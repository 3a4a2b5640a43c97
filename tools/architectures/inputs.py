"""Inputs for a tiny model of any class, found by the names of its forward's parameters.

Owns the guesses, the plainest first: what the model calls its main input, then what else its signature asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from tools.architectures.tiny import TOKENS, exceptions

from devpolicy._core.dry_run.inputs import BANDS

Inputs = dict[str, Any]
_MAIN = ("input_ids", "pixel_values", "input_features", "input_values", "inputs_embeds")
_FRAMES = (*BANDS, "feature_projection_input_dim")
_CODECS = ("encodec", "dac", "mimi", "xcodec", "dia", "tokenizer", "neucodec")


def attempts(model: Any) -> Iterator[Inputs]:
    """Yield keyword arguments that a model may run with, each a fresh draw of the same numbers."""
    seen: list[frozenset[str]] = []
    for make in (
        _given,
        _plain,
        _with_pixels,
        _required,
        _patches,
        _grid,
        _features,
        _square,
        _everything,
        _video,
        _one,
        _generous,
        _fitted,
        _long,
    ):
        try:
            made = make(model)
        except Exception:  # noqa: BLE001 - a guess that this configuration has no sizes for
            continue
        if made is None:
            continue
        shapes = frozenset(f"{key}{getattr(one, 'shape', '')}" for key, one in made.items())
        if shapes not in seen:
            seen.append(shapes)
            yield made


def _names(model: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def find(config: Any, *keys: str, default: Any = None) -> Any:
    """Return the first of some keys that a configuration or one of its parts has."""
    for key in keys:
        value = getattr(config, key, None)
        if value is not None:
            return value
    for name in getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        if hasattr(part, "to_dict"):
            value = find(part, *keys)
            if value is not None:
                return value
    return default


def _tokens() -> torch.Tensor:
    return torch.randint(5, 60, (1, TOKENS))


def _image(config: Any) -> torch.Tensor:
    size = find(config, "image_size", "input_size", default=64)
    size = (size, size) if isinstance(size, int) else tuple(size)
    return torch.randn(1, find(config, "num_channels", "in_channels", "in_chans", default=3), *size[-2:])


def _sound(config: Any) -> int:
    return int(find(config, *_FRAMES, default=80))


def _given(model: Any) -> Inputs | None:
    """Return the inputs that the table of exceptions has for a type."""
    given = exceptions().get(model.config.model_type, {}).get("inputs")
    if given is None:
        return None
    torch.manual_seed(7)
    makers = {**_makers(model), "tokens": _tokens}
    return {name: makers[one]() if isinstance(one, str) else _made(name, one) for name, one in given.items()}


def _made(name: str, shape: list[Any]) -> torch.Tensor:
    """Return what a list says: the values where it holds lists, else numbers of the kind that a parameter's name is."""
    if isinstance(shape[0], list):
        return torch.tensor(shape)
    if "mask" in name and "prompt" not in name:
        return torch.ones(*shape, dtype=torch.long)
    return torch.randint(5, 60, shape) if name.endswith("_ids") else torch.randn(*shape)


def _plain(model: Any) -> Inputs:
    torch.manual_seed(7)
    config, names = model.config, _names(model)
    main = model.main_input_name
    if main not in names:
        main = next((name for name in _MAIN if name in names), main)
    made: Inputs = _main(model, main)
    if main == "pixel_values" and "input_ids" in names:
        made["input_ids"] = _tokens()
    if "decoder_input_ids" in names:
        made["decoder_input_ids"] = _tokens()
    if "attention_mask" in names and "input_ids" in made and "pixel_values" not in made:
        made["attention_mask"] = torch.ones(1, TOKENS, dtype=torch.long)
    if config.model_type.startswith("instructblip"):
        made["qformer_input_ids"] = made["input_ids"]
    return made


def _main(model: Any, main: str) -> Inputs:
    """Return what a model calls its main input, else text."""
    config = model.config
    match main:
        case "pixel_values":
            return {main: _image(config)}
        case "pixel_values_videos":
            frames = find(config, "num_frames", "frames_per_clip", default=8)
            return {main: _image(config)[:, None].repeat(1, frames, 1, 1, 1)}
        case "input_features":
            return {main: _spectrogram(model)}
        case "input_values":
            codec = any(word in config.model_type for word in _CODECS)
            return {main: torch.randn(1, 1, 8000) if codec else torch.randn(1, 8000)}
        case "inputs_embeds":
            return {main: torch.randn(1, TOKENS, find(config, "hidden_size", default=64))}
    return {"input_ids": _tokens()}


def _spectrogram(model: Any) -> torch.Tensor:
    mel, frames = _sound(model.config), find(model.config, "max_source_positions")
    whisper = "Whisper" in type(model).__name__ or model.config.model_type == "whisper"
    if frames and (whisper or "Encoder" in type(model).__name__):
        return torch.randn(1, mel, 2 * frames)
    return torch.randn(1, 64, mel)


def _makers(model: Any) -> dict[str, Callable[[], Any]]:
    config = model.config
    hidden = find(config, "hidden_size", default=64)
    states = lambda: torch.randn(1, TOKENS, hidden)  # noqa: E731
    ones = lambda: torch.ones(1, TOKENS, dtype=torch.long)  # noqa: E731
    return {
        "pixel_values": lambda: _image(config),
        "pixel_mask": lambda: torch.ones(1, *_image(config).shape[-2:], dtype=torch.long),
        "bbox": lambda: torch.randint(0, 60, (1, TOKENS, 4)).sort(-1).values,
        "input_ids": _tokens,
        "decoder_input_ids": _tokens,
        "qformer_input_ids": _tokens,
        "attention_mask": ones,
        "token_type_ids": lambda: torch.zeros(1, TOKENS, dtype=torch.long),
        "hidden_states": states,
        "inputs_embeds": states,
        "encoder_hidden_states": states,
        "query_embeds": states,
        "input_features": lambda: torch.randn(1, 64, _sound(config)),
        "input_features_mask": lambda: torch.ones(1, 64, dtype=torch.long),
        "input_values": lambda: torch.randn(1, 8000),
        "grid_thw": lambda: torch.tensor([[1, 4, 4]]),
        "image_grid_thw": lambda: torch.tensor([[1, 4, 4]]),
        "state": lambda: torch.randn(1, 32),
        "visual_feats": lambda: torch.randn(1, 4, find(config, "visual_feat_dim", default=2048)),
        "visual_pos": lambda: torch.rand(1, 4, 4),
        "visual_embeds": lambda: torch.randn(1, 4, 512),
        "image": lambda: torch.randn(1, 3, 64, 64),
        "past_values": lambda: torch.randn(
            1, _history(config), find(config, "num_input_channels", "input_size", default=1)
        ),
        "past_observed_mask": lambda: torch.ones(1, _history(config), find(config, "input_size", default=1)),
        "past_time_features": lambda: torch.randn(1, _history(config), find(config, "num_time_features", default=1)),
        "past_values_padding": lambda: torch.zeros(1, _history(config)),
        "freq": lambda: torch.zeros(1, 1, dtype=torch.long),
        "flattened_patches": lambda: torch.rand(1, 16, 2 + 3 * find(config, "patch_size", default=16) ** 2),
        "pixel_attention_mask": lambda: torch.ones(1, 16, dtype=torch.long),
        "spatial_shapes": lambda: torch.tensor([[4, 4]]),
        "prompt_pixel_values": lambda: _image(config),
        "prompt_masks": lambda: _image(config),
        "audio_mel": lambda: torch.randn(1, 64, _sound(config)),
        "audio_mel_mask": lambda: torch.zeros(1, 64, dtype=torch.bool),
        "task_inputs": lambda: torch.randint(5, 60, (1, TOKENS)),
        "visual_token_type_ids": lambda: torch.ones(1, 4, dtype=torch.long),
        "noise_embeds": states,
        "context_hidden_states": states,
        "pixel_position_ids": lambda: torch.stack(
            torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1
        ).view(1, 16, 2),
        "merge_sizes": lambda: torch.tensor([1]),
        "image_embeds_position_mask": lambda: torch.cat([torch.ones(1, 4), torch.zeros(1, TOKENS - 4)], 1).bool(),
        "states": lambda: torch.randn(1, TOKENS, find(config, "state_dim", default=17)),
        "actions": lambda: torch.randn(1, TOKENS, find(config, "act_dim", default=4)),
        "rewards": lambda: torch.randn(1, TOKENS, 1),
        "returns_to_go": lambda: torch.randn(1, TOKENS, 1),
        "timesteps": lambda: torch.arange(TOKENS)[None],
        "input_audio": lambda: torch.randn(1, 8000),
    }


def _history(config: Any) -> int:
    """Return how much of the past a model of time series wants."""
    context = find(config, "context_length", default=512)
    return int(context) + max(find(config, "lags_sequence", default=[0]) or [0])


def _required_names(model: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in _names(model).items() if one.default is one.empty and one.kind not in kinds]


def _with_pixels(model: Any) -> Inputs | None:
    made, makers = _plain(model), _makers(model)
    more = [name for name in ("pixel_values", "bbox") if name in _names(model) and name not in made]
    return {**made, **{name: makers[name]() for name in more}} if more else None


def _required(model: Any) -> Inputs | None:
    names, makers = _names(model), _makers(model)
    made = {name: one for name, one in _plain(model).items() if name in names}
    more = [name for name in _required_names(model) if name in makers and name not in made]
    return {**made, **{name: makers[name]() for name in more}} if more else None


def _patches(model: Any) -> Inputs | None:
    """Return an image as the patches that some vision towers take, with the grid that they come from."""
    names, config = _names(model), model.config
    if "grid_thw" not in names:
        return None
    tower = getattr(config, "vision_config", config)
    size = getattr(tower, "patch_size", 16)
    size = size if isinstance(size, int) else size[0]
    channels = find(config, "num_channels", "in_channels", "in_chans", default=3)
    width = channels * (getattr(tower, "temporal_patch_size", None) or 1) * size * size
    first = next(name for name in names if name != "self")
    torch.manual_seed(7)
    return {first: torch.randn(16, width), "grid_thw": torch.tensor([[1, 4, 4]])}


def _grid(model: Any) -> Inputs | None:
    """Return an image as patches that keep their sides, with the grid that they come from."""
    names, config = _names(model), model.config
    grid = next((name for name in ("grid_thw", "image_grid_thw", "target_sizes", "tgt_sizes") if name in names), None)
    if grid is None:
        return None
    size = find(config, "patch_size", default=14)
    first = next(name for name in names if name != "self")
    torch.manual_seed(7)
    corners = torch.tensor([[1, 4, 4]]) if "thw" in grid else torch.tensor([[4, 4]])
    channels = find(config, "num_channels", "in_channels", default=3)
    made = {first: torch.randn(16, channels, size, size), grid: corners}
    return made | ({"merge_sizes": torch.tensor([1])} if "merge_sizes" in names else {})


def _video(model: Any) -> Inputs | None:
    """Return frames, with the text that goes with them."""
    names, config, made = _names(model), model.config, _plain(model)
    if "pixel_values" not in names:
        return None
    frames = find(config, "num_frames", default=8)
    return {**made, "pixel_values": _image(config)[:, None].repeat(1, frames, 1, 1, 1)}


def _one(model: Any) -> Inputs | None:
    """Return what must be given, and nothing else."""
    makers = _makers(model)
    torch.manual_seed(7)
    needed = _required_names(model)
    return {name: makers[name]() for name in needed} if needed and all(name in makers for name in needed) else None


def _generous(model: Any) -> Inputs | None:
    """Return all that the model may be given and that is not another form of what it is given already."""
    names, makers = _names(model), _makers(model)
    other = {"inputs_embeds", "hidden_states", "encoder_hidden_states", "query_embeds"} - set(_required_names(model))
    torch.manual_seed(7)
    return {name: makers[name]() for name in names if name in makers and name not in other}


def _fitted(model: Any) -> Inputs | None:
    """Return features or patches as wide as the first weights of the model, with what else must be given."""
    names, makers = _names(model), _makers(model)
    first = next(name for name in names if name != "self")
    weight = next((one for one in model.parameters() if one.dim() > 1 and one.numel() > one.shape[0]), None)
    if weight is None or first not in ("input_features", "pixel_values", "hidden_states", "input_values", "audio_mel"):
        return None
    torch.manual_seed(7)
    width = weight.shape[1]
    # Patches of an image stand in a row where a grid says how, else they are those of one image.
    rows = torch.randn(16, width) if any("thw" in name for name in names) else torch.randn(1, 16, width)
    made = {first: rows} | {name: makers[name]() for name in _required_names(model) if name in makers and name != first}
    if "input_features_mask" in made:
        made["input_features_mask"] = torch.ones(1, 16, dtype=torch.long)
    return made


def _long(model: Any) -> Inputs | None:
    """Return sound of the length that the model wants, or with a channel of its own."""
    names, config, made = _names(model), model.config, _plain(model)
    frames = find(config, "max_source_positions")
    if "input_features" in names and frames:
        return {**made, "input_features": torch.randn(1, _sound(config), 2 * frames)}
    if "input_values" in names:
        return {**made, "input_values": torch.randn(1, 1, 7680)}
    return None


def _features(model: Any) -> Inputs | None:
    names, makers, needed = _names(model), _makers(model), _required_names(model)
    made = {name: one for name, one in _plain(model).items() if name in needed or name == "input_ids"}
    more = [name for name in ("input_features", "input_values", "past_values") if name in names and name not in made]
    return {**made, **{name: makers[name]() for name in more}} if more else None


def _square(model: Any) -> Inputs | None:
    """Return sound whose axes are the other way round."""
    names, made = _names(model), _plain(model)
    if "input_features" in names:
        return {**made, "input_features": torch.randn(1, _sound(model.config), 128)}
    if "input_values" in names:
        return {**made, "input_values": torch.randn(1, getattr(model.config, "max_length", 128), _sound(model.config))}
    return None


def _everything(model: Any) -> Inputs | None:
    """Return all that the model must have and all that it may have of images and sound."""
    names, makers = _names(model), _makers(model)
    wanted = {*_required_names(model), "pixel_values", "input_features", "input_ids", "decoder_input_ids"}
    torch.manual_seed(7)
    return {name: makers[name]() for name in names if name in wanted and name in makers}
