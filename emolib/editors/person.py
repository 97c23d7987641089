"""Every person in the scene: crop, edit with any editor, paste back; nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emolib import images as pictures
from emolib.editors.contract import PERSON, Editor
from emolib.runtime import InputError


@dataclass(frozen=True)
class Target:
    """One person to edit: the face `box` [x0, y0, x1, y1] px in picture number `picture` of the batch.

    `emotion` overrules the call's; `mask` (H, W; nonzero is the person) confines the change, by default to
    the crop; `description` goes to the editor's prompt.
    """

    box: Sequence[int]
    emotion: str | None = None
    mask: Any = None
    description: str = PERSON
    picture: int = 0


@dataclass(frozen=True)
class PerPerson:
    """An editor for scenes: every target person is cropped, brought to the model's size, edited, pasted back.

    All crops are one batch of `editor`. Pixels outside the masks, and people who are no target, are the
    source's bit for bit. Where the masks of two targets overlap, the later one lies on top.

    size     side that `editor` works at, px
    margin   what the crop adds around the face box, on each side, as a share of the box's longer side
    feather  width of the soft rim, inside the mask, as a share of the crop's side
    """

    editor: Editor
    size: int
    margin: float = 0.15
    feather: float = 0.06

    def __call__(
        self,
        images: Tensor,
        emotion: str | None = None,
        *,
        generator: torch.Generator,
        people: Sequence[Target],
    ) -> Tensor:
        """(B, 3, H, W) scenes in, the same out. InputError: a bad box, mask, picture number, no emotion."""
        if not people:
            return images.clone()
        check_targets(people, emotion, len(images))
        height, width = images.shape[-2:]
        boxes = [pictures.square_box(person.box, height, width, margin=self.margin) for person in people]
        masks = [target_mask(person.mask, box, images) for person, box in zip(people, boxes, strict=True)]
        crops = torch.cat(
            [
                pictures.resize(pictures.crop(images[person.picture, None], box), self.size)
                for person, box in zip(people, boxes, strict=True)
            ]
        )
        known = [person.description for person in people]
        extra = {} if set(known) == {PERSON} else {"description": known}
        labels = [person.emotion or emotion for person in people]
        edited = self.editor(crops, labels, generator=generator, **extra)
        result = images.clone()
        for i, (person, box, mask) in enumerate(zip(people, boxes, masks, strict=True)):
            if torch.equal(edited[i], crops[i]):
                continue  # nothing was edited: do not let the resampling show
            side, spot = box[2] - box[0], slice(person.picture, person.picture + 1)
            opacity = pictures.feather(mask, round(self.feather * side))
            patch = pictures.resize(edited[i, None], side)
            result[spot] = pictures.paste(result[spot], patch, box, opacity)
        return result


def check_targets(people: Sequence[Target], emotion: str | None, n: int) -> None:
    """InputError if a target's picture is not among the n, or nothing says what it should feel."""
    for person in people:
        if not 0 <= person.picture < n:
            raise InputError(f"there is no picture {person.picture}; the batch has {n}")
        if person.emotion is None and emotion is None:
            raise InputError("name an emotion, for the call or for each person")


def target_mask(mask: Any, box: pictures.Box, images: Tensor) -> Tensor:
    """Where a target may change: bool (H, W), its mask (default everywhere) within its crop. InputError."""
    height, width = images.shape[-2:]
    inside = torch.zeros((height, width), dtype=torch.bool, device=images.device)
    pictures.crop(inside, box)[:] = True
    if mask is None:
        return inside
    mask = torch.as_tensor(mask, device=images.device)
    if mask.shape != inside.shape:
        raise InputError(
            f"mask of {' x '.join(map(str, mask.shape))} for a picture of {height} x {width} (height x width)"
        )
    return inside & (mask != 0)
