"""What the loop sees of pictures: the autoencoder's posteriors, computed once, and their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emolib.backbone import Backbone
from emolib.emotions.words import article

TEMPLATES = (
    "photo of {article} {word} {description}",
    "a photo of {article} {word} {description}",
    "portrait of {article} {word} {description}",
    "a picture of {article} {word} {description}",
)


@dataclass(frozen=True, eq=False)
class Examples:
    """N pictures of one concept, as the loop needs them.

    mean, std  (N, F, C, h, w) float32 on the model's device: the normal that a picture's latents are drawn
               from anew in every step; F is 2 with the mirror image, else 1. (One frozen draw would be
               learned with its noise.)
    prompts    N tuples of V texts: what a picture may be shown with
    neutral    the same people without the emotion, row by row; the loss is then a difference
    """

    mean: Tensor
    std: Tensor
    prompts: tuple[tuple[str, ...], ...]
    neutral: Examples | None = None

    def __len__(self) -> int:
        return len(self.mean)


def prompts(word: str, descriptions: Sequence[str], templates: Sequence[str] = TEMPLATES):
    """For each description a tuple of texts, one for each template: "photo of a <awe> woman", ..."""
    fill = {"article": article(word), "word": word}
    return tuple(tuple(t.format(description=who, **fill) for t in templates) for who in descriptions)


@torch.no_grad()
def cache(
    backbone: Backbone, images: Tensor, texts: tuple[tuple[str, ...], ...], *, flip: bool = True
) -> Examples:
    """Encode pictures (N, 3, S, S) in [-1, 1], one by one, and with `flip` their mirror images."""
    views = [images, images.flip(-1)] if flip else [images]
    moments = [[backbone.posterior(one) for one in view.split(1)] for view in views]
    mean, std = (
        torch.stack([torch.cat([pair[k] for pair in view]) for view in moments], dim=1) for k in (0, 1)
    )
    return Examples(mean, std, texts)


def fingerprint(examples: Mapping[str, Examples]) -> str:
    """Changes with the pictures, the prompts and the autoencoder: which run a checkpoint belongs to."""
    digest = hashlib.sha256()
    for name, one in examples.items():
        for part in (one, one.neutral):
            if part is not None:
                digest.update(repr((name, part.prompts)).encode())
                digest.update(part.mean.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def set_aside(module: nn.Module) -> Iterator[None]:
    """Within, a network that is not needed waits in the CPU's memory."""
    device = next(module.parameters()).device
    module.to("cpu")
    try:
        yield
    finally:
        module.to(device)
