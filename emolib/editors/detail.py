"""Detail: give back what the way through a model takes from a picture, where the edit left it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from emolib.editors.contract import PERSON
from emolib.editors.latent import LatentEditor

DRIFT = 0.04  # a mean change below this (of the range of 2) is the model's drift; twice of it is an edit
THRESHOLD = 0.15  # a change of this size (of the range of 2) is an edit; half of it is the model's roughness


def change(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What to add to `source`, of which a model made `after`, and would have made `before` of no edit at all.

    Where the two differ much this leads to `after`; where they differ little, the detail that `source` has
    over `before` stays. Where they are equal it is exactly 0. All (B, 3, H, W), `source` and `before` may be
    one picture for all.
    """
    difference = after - before
    moved = (2 * difference.abs().mean(1, keepdim=True) / THRESHOLD - 1).clamp(0, 1)
    return difference - moved * (source - before)


def extent(before: Tensor, after: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1]: where `after` differs from `before` by more than a model's drift.

    A mask from the edit itself, after DiffEdit (Couairon et al. 2022, section 3.1), which takes it from two
    noise predictions. The difference is averaged over a neighbourhood, 5 pixels of 64 wide, so that a single
    pixel neither makes a region nor a hole.
    """
    side = 2 * max(1, round(min(after.shape[-2:]) / 32)) + 1
    mean = (after - before).abs().mean(1, keepdim=True)
    mean = F.avg_pool2d(mean, side, stride=1, padding=side // 2, count_include_pad=False)
    return (mean / DRIFT - 1).clamp(0, 1)


def kept(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """`source` with the edit that leads a model from `before` to `after`, and nothing else of the model's.

    Pictures as in `change`; the result lies in [-1, 1].
    """
    return (source + extent(before, after) * change(source, before, after)).clamp(-1, 1)


@dataclass(frozen=True)
class KeepDetail:
    """An editor that leaves alone what it does not mean to edit, and blurs only what it does.

    An autoencoder returns no picture as it was: a latent-space edit changes every pixel a little, and costs
    hair, skin, the colour of a collar. Here the loss is measured on the source and undone by `change`; what
    remains counts where it is the edit and no drift (`extent`). Costs one more encoding and decoding of each
    source.
    """

    editor: LatentEditor

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """See `Editor`."""
        edited = self.editor(
            images, emotion, generator=generator, description=description, source_emotion=source_emotion
        )
        if torch.equal(edited, images.expand_as(edited)):
            return edited  # strength 0
        model = self.editor.backbone
        before = model.decode(model.encode(images)).to(images.device)
        return kept(images, before, edited)
