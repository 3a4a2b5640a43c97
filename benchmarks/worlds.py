"""The modules that are planned, all on the meta device: the catalogue's, and two larger than anything in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from catalogue_models import CATALOGUE
from devpolicy._core.model.config import build


@dataclass(frozen=True, slots=True)
class World:
    """How a module is made, and how patient one must be with the peers' planners on it."""

    build: Callable[[], Any]
    most_repeats: int = 99
    minutes: bool = False
    """The peers need minutes, so their memory is not traced."""


def unfused_moe() -> Any:
    """100,000 modules as they stood before experts were fused: 128 layers of 156 experts of five modules."""
    import torch
    from torch import nn

    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(2048, 768, bias=False)
            self.up_proj = nn.Linear(2048, 768, bias=False)
            self.down_proj = nn.Linear(768, 2048, bias=False)
            self.act_fn = nn.SiLU()

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, nn.Linear(2048, 2048, bias=False))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = nn.RMSNorm(2048)
            self.self_attn = Attention()
            self.post_attention_layernorm = nn.RMSNorm(2048)
            self.router = nn.Linear(2048, 156, bias=False)
            self.experts = nn.ModuleList(Expert() for _ in range(156))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(128_000, 2048)
            self.layers = nn.ModuleList(Block() for _ in range(128))
            self.norm = nn.RMSNorm(2048)

    with torch.device("meta"):
        return pretrained(model=Decoder(), lm_head=nn.Linear(2048, 128_000, bias=False), no_split=["Block"])


def flat_list() -> Any:
    """One list of 16,000 layers, each of which may stand anywhere."""
    import torch
    from torch import nn

    with torch.device("meta"):
        return pretrained(layers=nn.ModuleList(nn.Linear(1024, 1024) for _ in range(16_000)), no_split=[])


def pretrained(*, no_split: list[str], **children: Any) -> Any:
    """Wrap modules as a Transformers model, which is what its planner takes."""
    from transformers import PreTrainedConfig, PreTrainedModel

    class Model(PreTrainedModel):
        config_class = PreTrainedConfig
        _no_split_modules = no_split

        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            for name, child in children.items():
                setattr(self, name, child)
            self.post_init()

    return Model(PreTrainedConfig())


WORLDS: dict[str, World] = {
    **{name: World(partial(build, published.config)) for name, published in CATALOGUE.items()},
    "unfused-moe": World(unfused_moe, most_repeats=3),
    "flat-list": World(flat_list, most_repeats=1, minutes=True),
}
