"""A tiny pipeline of diffusers, made of configuration classes: components of two dtypes, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def flux() -> Any:
    """Return a pipeline without tokenizers, whose text is given as embeddings."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    half = torch.bfloat16
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=4, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(4,),
        latent_channels=1, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06,
        scaling_factor=1.5,
    )  # fmt: skip
    clip = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=1000,
        bos_token_id=0, eos_token_id=2, projection_dim=32,
    )  # fmt: skip
    t5 = T5Config(d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2, vocab_size=1000)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=CLIPTextModel(clip),
        tokenizer=None,
        text_encoder_2=T5EncoderModel(t5).to(half),
        tokenizer_2=None,
        transformer=transformer.to(half),
        vae=vae,
    )


def saved(folder: Path) -> Path:
    """Save the pipeline, and return its folder."""
    flux().save_pretrained(folder)
    return folder


def run(pipeline: Any) -> Any:
    """Encode a text twice, make one step of one image without it, and return its latents."""
    import torch

    where = {"device": pipeline._execution_device, "dtype": torch.bfloat16}
    pipeline.set_progress_bar_config(disable=True)
    words = torch.zeros(1, 8, dtype=torch.long, device=pipeline._execution_device)
    with torch.no_grad():
        pipeline.text_encoder(words)
        pipeline.text_encoder_2(words)
    return pipeline(
        prompt_embeds=torch.zeros(1, 8, 32, **where),
        pooled_prompt_embeds=torch.zeros(1, 32, **where),
        generator=torch.Generator().manual_seed(0),
        height=8,
        width=8,
        num_inference_steps=1,
        output_type="latent",
    ).images
