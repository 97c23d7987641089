"""Prompts to embeddings in two halves, so that training tokenises once and encodes what differs.

`encode(backbone, tokenise(backbone, prompts))` is `backbone.embed(prompts)`; gradients flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emolib.backbone import Backbone, Embedding


def components(backbone: Backbone) -> list[tuple[str, str]]:
    """The pipeline's names of each tokenizer and its text encoder: one pair, or two for SDXL."""
    pairs = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    return [pair for pair in pairs if getattr(backbone.pipe, pair[1], None) is not None]


def encoders(backbone: Backbone) -> list[nn.Module]:
    """The text encoders, in the order of `components`."""
    return [getattr(backbone.pipe, name) for _, name in components(backbone)]


def tokenise(backbone: Backbone, prompts: Sequence[str]) -> list[Tensor]:
    """Token ids (N, L) int64 on the CPU, one tensor for each text encoder, padded to the model's length.

    A prompt that is too long loses its end, as in every pipeline.
    """
    ids = []
    for name, _ in components(backbone):
        tokenizer = getattr(backbone.pipe, name)
        # A token of several vectors is written out here: "<awe>" becomes "<awe> <awe>_1".
        texts = backbone.pipe.maybe_convert_prompt(list(prompts), tokenizer)
        length = tokenizer.model_max_length
        ids.append(
            tokenizer(
                texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids
        )
    return ids


def encode(backbone: Backbone, ids: Sequence[Tensor]) -> Embedding:
    """Token ids, one (N, L) tensor for each text encoder -> N embeddings on the model's device."""
    pairs = [(e, i.to(backbone.device)) for e, i in zip(encoders(backbone), ids, strict=True)]
    if backbone.unet.config.addition_embed_type != "text_time":
        (encoder, one), *_ = pairs
        return Embedding(encoder(one)[0].to(backbone.dtype))
    # SDXL reads the last layer but one of both, and the second one's projection of the whole prompt.
    outputs = [encoder(one, output_hidden_states=True) for encoder, one in pairs]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Embedding(hidden.to(backbone.dtype), outputs[-1][0].to(backbone.dtype))
