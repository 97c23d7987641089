"""Tiny Stable Diffusions of the real classes, randomly initialised: SD 1.x and SDXL as saved folders.

Built once a process; nothing is learned, nothing downloaded.
"""

import functools
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from emolib.diffusion import backbone
from emolib.interventions import alignment
from emolib.interventions.directions import Directions, Table

SIDE, SCALING = 32, 0.7  # native pixels; a latent scale that is nobody's default
_folders = tempfile.TemporaryDirectory(prefix="tiny-pipelines-")


def positions(pipe, text, word):
    """Where the tokens of a word of the prompt `text` stand."""
    return next(span.tokens for span in alignment.spans(pipe, text) if span.text == word)


def tokenizer():
    """CLIP's tokenizer with one token per character."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=40)


def text_config(words, width, projection=16):
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=40,
        projection_dim=projection,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )


def vae(latent_channels=4):
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        sample_size=SIDE,
        scaling_factor=SCALING,
        force_upcast=False,
    )


def unet(**options):
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    )


SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def sd_pipeline(prediction_type="epsilon", **unet_options):
    torch.manual_seed(0)
    words = tokenizer()
    scheduler = DDIMScheduler(
        **SCHEDULE, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type
    )
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(words, 16)),
        tokenizer=words,
        unet=unet(cross_attention_dim=16, **unet_options),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline():
    torch.manual_seed(0)
    words = tokenizer()
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 20,
    }
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(words, 16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(words, 24, projection=20)),
        tokenizer=words,
        tokenizer_2=tokenizer(),
        unet=unet(cross_attention_dim=40, **extra),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading"),
        add_watermarker=False,
    )


@functools.cache
def folder(kind):
    """Where the tiny "sd" or "sdxl" is saved."""
    path = Path(_folders.name) / kind
    {"sd": sd_pipeline, "sdxl": sdxl_pipeline}[kind]().save_pretrained(path)
    return path


@functools.cache
def tiny(kind):
    """The tiny "sd" or "sdxl", loaded by `backbone.load_backbone` on the CPU."""
    return backbone.load_backbone(folder(kind), device="cpu")


def pictures(n=1, side=SIDE, seed=0):
    """(n, 3, side, side) smooth random pictures in [-1, 1]."""
    coarse = torch.rand((n, 3, 4, 4), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def noise(*shape, seed=0):
    """Normal draws of that shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bank(kind, scale=1.0):
    """Random h-space directions from neutral for the tiny "sd" or "sdxl"."""
    deltas = {name: noise(1, 16, 8, 8, seed=i) for i, name in enumerate(("anger", "awe", "smirking"))}
    shifts = {name: Table(scale * delta, torch.tensor([600])) for name, delta in deltas.items()}
    return Directions(shifts, "neutral", "", kind, 16, {"sd": 16, "sdxl": 40}[kind])
