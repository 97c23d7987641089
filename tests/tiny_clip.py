"""A tiny CLIP of the real classes, randomly initialised: what `hspace.clip.Clip` is made of."""

import tiny_pipelines
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel


def parts():
    """Model, tokenizer and image processor."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    words = tiny_pipelines.tokenizer()
    text = shape | {
        "vocab_size": len(words),
        "eos_token_id": words.eos_token_id,
        "max_position_embeddings": 40,
    }
    config = CLIPConfig(
        text_config=text, vision_config=shape | {"image_size": 16, "patch_size": 8}, projection_dim=8
    )
    half = [0.5] * 3
    return CLIPModel(config).eval(), words, CLIPImageProcessorPil(image_mean=half, image_std=half)
