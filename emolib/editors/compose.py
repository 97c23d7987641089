"""Editors around editors: keep the source's detail, edit in stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from emolib.editors.base import Draws, Editor, LatentEditor, Request

DRIFT = 0.04  # a mean change below this (of the range of 2) is the model's drift; twice of it is an edit
THRESHOLD = 0.15  # a change of this size (of the range of 2) is an edit; half of it is the model's roughness


def change_of(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What to add to `source`, of which a model made `after`, and would have made `before` of no edit at all.

    Where the two differ much this leads to `after`; where they differ little, the detail that `source` has
    over `before` stays. Where they are equal it is exactly 0. All (B, 3, H, W), `source` and `before` may be
    one picture for all.
    """
    difference = after - before
    moved = (2 * difference.abs().mean(1, keepdim=True) / THRESHOLD - 1).clamp(0, 1)
    return difference - moved * (source - before)


def soft_mask(difference: Tensor, threshold: float) -> Tensor:
    """Find where `difference` (B, 3, H, W) is large in the mean of a neighbourhood: (B, 1, H, W) in [0, 1].

    0 up to half the threshold, 1 from all of it. The neighbourhood reaches a thirty-second of the picture
    each way (5 pixels of 64 wide), so that a single pixel neither makes a region nor a hole.
    """
    side = 2 * max(1, round(min(difference.shape[-2:]) / 32)) + 1
    size = difference.abs().mean(1, keepdim=True)
    size = F.avg_pool2d(size, side, stride=1, padding=side // 2, count_include_pad=False)
    return (2 * size / threshold - 1).clamp(0, 1)


def extent(before: Tensor, after: Tensor) -> Tensor:
    """Find where `after` differs from `before` by more than a model's drift: (B, 1, H, W) in [0, 1].

    A mask from the edit itself, after DiffEdit (Couairon et al. 2022, section 3.1), which takes it from two
    noise predictions.
    """
    return soft_mask(after - before, 2 * DRIFT)


def kept(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Give `source` the edit that leads a model from `before` to `after`, and nothing else of the model's.

    Pictures as in `change_of`; the result lies in [-1, 1].
    """
    return (source + extent(before, after) * change_of(source, before, after)).clamp(-1, 1)


@dataclass(frozen=True)
class KeepDetail(Editor):
    """An editor that leaves alone what it does not mean to edit, and blurs only what it does.

    An autoencoder returns no picture as it was: a latent-space edit changes every pixel a little, and costs
    hair, skin, the colour of a collar. Here the loss is measured on the source and undone by `change_of`;
    what remains counts where it is the edit and no drift (`extent`). Costs one more decoding of each source.
    """

    editor: LatentEditor

    @property
    def strength(self) -> float:
        return self.editor.strength

    def edit(self, images: Tensor, request: Request, generator: Draws) -> Tensor:
        model = self.editor.backbone
        z = model.encode(images)  # once, for the edit and for what the autoencoder makes of no edit
        edited = model.decode(self.editor.edit_latents(z, request, generator)).to(images.device)
        return kept(images, model.decode(z).to(images.device), edited)


@dataclass(frozen=True)
class Staged(Editor):
    """A strong change in two gentle ones: first to the emotion `via`, from there to the target.

    After each stage, what hardly changed is set back to the *original* picture, so that two passes do not
    wear the picture out twice: see `anchored`, whose `threshold` is `anchor` (0: no anchoring). A person who
    is known to feel `via` needs no first stage.
    """

    editor: Editor
    via: str = "neutral"
    anchor: float = 0.1

    def edit(self, images: Tensor, request: Request, generator: Draws) -> Tensor:
        # All emotions of one picture share the first stage.
        labels, who, felt = request.emotions, request.descriptions[: len(images)], request.source_emotions
        half = images
        if set(felt) != {self.via}:
            half = self.editor(images, self.via, generator=generator, description=who, source_emotion=felt)
            half = anchored(images, half, self.anchor)
        arrived = [label == self.via for label in labels]
        if all(arrived):
            return half.expand(len(labels), -1, -1, -1).clone()
        result = self.editor(half, labels, generator=generator, description=who, source_emotion=self.via)
        result = anchored(images, result, self.anchor)
        result[arrived] = half.expand_as(result)[arrived]
        return result


def anchored(original: Tensor, edited: Tensor, threshold: float) -> Tensor:
    """Return `edited` where it differs from `original` by more than `threshold`, else `original`.

    Both float32 (B, 3, H, W), `original` may be one picture for all. The difference is a local mean, in
    units of pixels; the transition is soft, from half the threshold to all of it. 0 returns `edited`.
    """
    if threshold == 0:
        return edited
    weight = soft_mask(edited - original, threshold)
    return torch.lerp(original.expand_as(edited), edited, weight.expand_as(edited))
