"""Networks of published sizes with random weights: what a method costs does not depend on the weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone


def sd15(model: str, *, device: str, dtype: str) -> Backbone:
    """Stable Diffusion 1.5's networks at their real sizes, weights at random; `model` lends its tokenizer."""
    small = backbone.load_backbone(model, device="cpu").pipe
    words = small.tokenizer
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
    )
    words.model_max_length = text.max_position_embeddings
    widths = (128, 256, 512, 512)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),  # the defaults are SD 1's
        scheduler=small.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    return Backbone(pipe.to(device, getattr(torch, dtype)), "sd15, random weights", device)
