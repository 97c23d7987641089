"""A tiny CLIP of the real classes, randomly initialised: what `hspace.clip.Clip` is made of."""

import tiny_pipelines
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from emolib.data.preparation import Preparation

PREPARE = Preparation((16, 16))


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
    half, square = [0.5] * 3, {"height": 16, "width": 16}
    processor = CLIPImageProcessorPil(image_mean=half, image_std=half, size=square, do_center_crop=False)
    return CLIPModel(config).eval(), words, processor
