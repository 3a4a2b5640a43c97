"""How many states a decoder's cross-attention keeps of what it looks at: sound, images, or the past of a series.

Owns the reading of it from a configuration. Text has no number of its own: the context is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from devpolicy._core.model.config_keys import Config, number

_ENCODERS = ("encoder", "encoder_config", "audio_config", "vision_config")
_HALVES_TWICE = "post_conv_out_channels"
"""Says that two convolutions follow an encoder of images, each of which halves both sides."""


def encoder_states(config: Config) -> int | None:
    """Return the most states that an encoder gives, `None` for one of text or without a limit."""
    if number(config, "prediction_length"):
        return _past(config)
    limit = number(config, "max_source_positions")
    if limit is not None:
        return _adapted(config, limit)
    encoder = next((part for key in _ENCODERS if isinstance(part := config.get(key), Mapping)), {})
    seen = patches(encoder)
    if seen:
        return _of_image(encoder, seen)
    # `seq_len` is of patches that come in any order.
    return (
        number(encoder, "max_source_positions")
        or number(encoder, "seq_len")
        or (number(encoder, "max_position_embeddings") if "num_mel_bins" in encoder else None)
    )


def patches(config: Config) -> int | None:
    """Return how many patches an image is cut into."""
    side, patch = config.get("image_size"), number(config, "patch_size")
    sides = [side, side] if isinstance(side, int) else side
    if not patch or not isinstance(sides, list | tuple) or not all(isinstance(one, int) for one in sides):
        return None
    return int(prod(one // patch for one in sides))


def forecast(config: Config) -> int | None:
    """Return the steps that a decoder of a time series computes: those ahead, behind some that are known."""
    ahead = number(config, "prediction_length")
    return ahead and ahead + (number(config, "label_length") or 0)


def _of_image(encoder: Config, seen: int) -> int:
    if number(encoder, _HALVES_TWICE):
        return max(1, seen // 16)
    depths = encoder.get("depths")
    if isinstance(depths, list | tuple) and depths:  # Swin halves both sides behind each stage but the last
        return seen // int(4 ** (len(depths) - 1))
    # Others have one more state, for the whole image, which may be cut into tiles.
    return (seen + 1) * (number(encoder, "max_num_tiles") or 1)


def _adapted(config: Config, states: int) -> int:
    """Return how many states an adapter behind the encoder leaves."""
    stride, kernel = number(config, "adaptor_stride"), number(config, "adaptor_kernel_size")
    for _ in range(min(number(config, "num_adapter_layers") or 0, 16) if config.get("add_adapter") else 0):
        if stride and kernel:
            states = max(1, (states + stride // 2 * 2 - kernel) // stride + 1)
    return states


def _past(config: Config) -> int | None:
    """Return how many steps of the past of a time series are kept; Informer halves them behind each layer but one."""
    states = number(config, "context_length") or number(config, "prediction_length")
    for _ in range(min((number(config, "encoder_layers") or 1) - 1, 64) if config.get("distil") is True else 0):
        states = states and -(-states // 2)
    return states
