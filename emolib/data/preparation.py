"""Prepare pictures for a network as its transformers image processor says: resized, cropped, normalised.

Every network that looks at pictures (judges, CLIP, DINO) is fed through here. The processors themselves work
on 8-bit pictures and let no gradient through; here the same is done with tensors.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from emolib.images import crop, resize, to_pil


@dataclass(frozen=True)
class Preparation:
    """`prepare(images) -> pixels`: how a network takes its pictures. Differentiable, except with `processor`.

    size       what pictures (B, 3, H, W) in [-1, 1] are resized to: height and width, or the shorter side
    crop       height and width of the middle that is cut out then; None: all of it
    mean, std  of the pixels, scale [0, 1], that the result is normalised by
    mode       "bicubic" or "bilinear"
    processor  a transformers image processor that does something else; it gets 8-bit pictures
    """

    size: tuple[int, int] | int = (96, 96)
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    mode: str = "bicubic"
    processor: Any = None

    def __call__(self, images: Tensor) -> Tensor:
        if self.processor is not None:
            return self.processor(to_pil(images), return_tensors="pt")["pixel_values"].to(images)
        height, width = images.shape[-2:]
        size = self.size
        if isinstance(size, int):
            size = (size, size * width // height) if height <= width else (size * height // width, size)
        images = resize(images, size, mode=self.mode).clamp(-1, 1)
        if self.crop is not None:
            top, left = ((have - keep) // 2 for have, keep in zip(size, self.crop, strict=True))
            images = crop(images, (left, top, left + self.crop[1], top + self.crop[0]))
        # A pixel x in [-1, 1] is (x + 1) / 2 in the units that mean and std are stated in.
        mean, std = (torch.tensor(value).view(3, 1, 1).to(images) for value in (self.mean, self.std))
        return (images - (2 * mean - 1)) / (2 * std)

    @property
    def side(self) -> int:
        """The height of what the network gets, px."""
        size = self.crop or self.size
        return size if isinstance(size, int) else size[0]

    @property
    def share(self) -> float:
        """The share of a square picture's side that the network gets to see; the rest is cut off."""
        size = self.size if isinstance(self.size, int) else self.size[0]
        return min(1.0, self.crop[0] / size) if self.crop else 1.0


def load_preparation(folder: str | os.PathLike[str]) -> Preparation:
    """Read the preparation that the image processor of a transformers model in `folder` does.

    On one small picture the result is compared with the processor's own; where they differ (flipped colours,
    say), the processor itself prepares. OSError, ValueError: there is none, or it cannot be read."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    across, down = torch.linspace(-1, 1, 56).expand(40, 56), torch.linspace(1, -1, 40)[:, None].expand(40, 56)
    shown = torch.stack([across, down, across * down])[None]
    expected = processor(to_pil(shown), return_tensors="pt")["pixel_values"]
    with suppress(KeyError):  # a kind of size that is not known here
        ours = _preparation_of(processor)
        got = ours(shown)
        if got.shape == expected.shape and (got - expected).abs().max() <= 0.02 * expected.abs().max():
            return ours
    return Preparation(tuple(expected.shape[-2:]), processor=processor)


def _preparation_of(processor: Any) -> Preparation:
    """KeyError: its size is neither height and width nor the shorter side."""
    size = {name: value for name, value in dict(processor.size).items() if value}
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    crop = crop and (crop["height"], crop["width"])
    share = getattr(processor, "crop_pct", None)
    if "height" in size:
        resized: tuple[int, int] | int = (size["height"], size["width"])
    else:
        resized = size["shortest_edge"]
        if share and resized < 384:  # as ConvNeXt was trained; from 384 px on its pictures are squeezed
            crop, resized = crop or (resized, resized), int(resized / share)
        elif share:
            resized = (resized, resized)
    normal = processor.do_normalize
    mean, std = (processor.image_mean, processor.image_std) if normal else ((0.0,) * 3, (1.0,) * 3)
    mode = "bilinear" if processor.resample == Image.Resampling.BILINEAR else "bicubic"
    return Preparation(resized, crop, tuple(mean), tuple(std), mode)
