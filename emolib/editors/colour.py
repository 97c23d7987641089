"""Controls with the editors' contract, which know nothing of faces: what they reach, any method must beat."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from skimage import color
from torch import Tensor

from emolib.editors.base import Draws, Editor, Request
from emolib.runtime import in_range, one_of


class Palette(NamedTuple):
    """Mean and standard deviation of L*, a*, b* over pictures: CIELAB, D65; L* in [0, 100]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ColourTransfer(Editor):
    """Colour transfer (Reinhard et al. 2001) in CIELAB: give a picture the colours of an emotion's pictures.

    Each channel is shifted and scaled to the emotion's mean and standard deviation, which `fit_colours` takes
    from pictures; `strength` in [0, 1] goes from the picture's own statistics (0: the source, bit for bit) to
    the emotion's.
    """

    palettes: Mapping[str, Palette]
    strength: float = 1.0

    def __post_init__(self) -> None:
        in_range(self.strength, 0, 1, "strength")

    def edit(self, images: Tensor, request: Request, generator: Draws | None) -> Tensor:
        # Draws nothing and needs no words.
        palettes = [self.palettes[one_of(label, self.palettes, "emotion")] for label in request.emotions]
        lab = np.broadcast_to(to_lab(images), (len(palettes), *images.shape[-2:], 3))
        mean, std = lab.mean((1, 2), keepdims=True), lab.std((1, 2), keepdims=True)  # (n, 1, 1, 3)
        goal_mean, goal_std = (np.array(part)[:, None, None] for part in zip(*palettes, strict=True))
        new_mean, new_std = (
            old + self.strength * (new - old) for old, new in ((mean, goal_mean), (std, goal_std))
        )
        return from_lab((lab - mean) * (new_std / np.maximum(std, 1e-6)) + new_mean).to(images.device)


def fit_colours(images: Tensor, emotions: Sequence[str], *, strength: float = 1.0) -> ColourTransfer:
    """Fit the transfer to the mean palette of each emotion's pictures: (B, 3, H, W) in [-1, 1], B labels."""
    lab, labels = to_lab(images), np.array(emotions)
    means, stds = lab.mean((1, 2)), lab.std((1, 2))
    return ColourTransfer(
        {
            label: Palette(*(tuple(part[labels == label].mean(0).tolist()) for part in (means, stds)))
            for label in dict.fromkeys(emotions)
        },
        strength,
    )


def to_lab(images: Tensor) -> np.ndarray:
    """Turn sRGB pictures (B, 3, H, W) in [-1, 1] into CIELAB (B, H, W, 3), float64."""
    return color.rgb2lab(images.detach().cpu().double().add(1).div(2).movedim(1, -1).numpy())


def from_lab(lab: np.ndarray) -> Tensor:
    """Turn CIELAB (B, H, W, 3) into pictures; colours that sRGB does not have are clipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-image reports the clipping
        rgb = color.lab2rgb(lab)
    return torch.from_numpy(rgb).movedim(-1, 1).mul(2).sub(1).clamp(-1, 1).float().contiguous()
