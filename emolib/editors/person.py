"""Edit every named person of a scene: crop, edit with any editor, paste back; nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emolib import images
from emolib import images as pictures
from emolib.editors import compose
from emolib.editors.base import PERSON, Editor
from emolib.runtime import InputError


@dataclass(frozen=True)
class Target:
    """One person: the face `box` [x0, y0, x1, y1] px in picture number `picture` of the batch.

    emotion         what to feel; overrules the call's
    mask            (H, W), nonzero where this person may change; default the crop, less other people's faces
    description     for the prompt, "woman with red hair"
    source_emotion  what is felt now, if known
    strength        overrules the editor's
    eyes            ((x, y), (x, y)) px, as seen from left to right: a tilted face is edited upright
    """

    box: Sequence[int]
    emotion: str | None = None
    mask: Any = None
    description: str = PERSON
    picture: int = 0
    source_emotion: str | None = None
    strength: float | None = None
    eyes: Sequence[Sequence[float]] | None = None

    @property
    def tilt(self) -> float:
        """Angle of the eyes' line in radians, clockwise as seen; 0 where the eyes are not known."""
        if self.eyes is None:
            return 0.0
        (x0, y0), (x1, y1) = self.eyes
        return math.atan2(y1 - y0, x1 - x0)


@dataclass(frozen=True)
class PerPerson:
    """An editor for scenes: every target person is cropped, brought to the model's size, edited, pasted back.

    The crops are edited as one batch for each strength. Pixels outside the masks, and everybody who is no
    target, are the source's bit for bit. What the model's size cannot hold of a large face stays the source's
    wherever the edit left it alone. Where two people's regions overlap, their changes add up.

    size     side that `editor` works at, px
    margin   what the crop adds around the face box, on each side, as a share of the box's longer side; by
             default what EmoFaces' portraits have, of which MiniSD learned
    feather  width of the soft rim, inside the mask, as a share of the crop's side
    """

    editor: Editor
    size: int
    margin: float = pictures.FACE_MARGIN
    feather: float = 0.06

    def __call__(
        self,
        images: Tensor,
        emotion: str | None = None,
        *,
        generator: torch.Generator,
        people: Sequence[Target],
        bystanders: Sequence[Target] = (),
    ) -> Tensor:
        """(B, 3, H, W) scenes in, the same out; `people` change, `bystanders` (masks, else boxes) must not.

        InputError: a bad box, mask, picture number, no emotion, a strength for an editor that has none."""
        if not people:
            return images.clone()
        check_targets([*people, *bystanders], len(images))
        if emotion is None and any(person.emotion is None for person in people):
            raise InputError("name an emotion, for the call or for each person")
        height, width = images.shape[-2:]
        boxes = [pictures.square_box(person.box, height, width, margin=self.margin) for person in people]
        regions = [
            region(person, box, people, bystanders, images) for person, box in zip(people, boxes, strict=True)
        ]
        crops = [upright(images, person, box) for person, box in zip(people, boxes, strict=True)]
        asked = torch.cat([pictures.resize(crop, self.size) for crop in crops])
        edited = self._edit(asked, emotion, people, generator)
        result = images.clone()
        for i, (person, box) in enumerate(zip(people, boxes, strict=True)):
            spot = slice(person.picture, person.picture + 1)
            side = box[2] - box[0]
            before, after = (pictures.resize(x[i, None], side) for x in (asked, edited))
            change = compose.change_of(crops[i], before, after)
            change = pictures.rotate(change, -person.tilt, corners="zeros")
            patch = pictures.crop(result[spot], box) + change
            opacity = pictures.feather(regions[i], round(self.feather * side))
            result[spot] = pictures.paste(result[spot], patch.clamp(-1, 1), box, opacity)
        return result

    def _edit(
        self, crops: Tensor, emotion: str | None, people: Sequence[Target], generator: torch.Generator
    ) -> Tensor:
        """All crops edited; those of one strength as one batch."""
        edited = crops.clone()
        for strength in dict.fromkeys(person.strength for person in people):
            rows = [i for i, person in enumerate(people) if person.strength == strength]
            group = [people[i] for i in rows]
            told = {}
            if any(person.description != PERSON for person in group):
                told["description"] = [person.description for person in group]
            if any(person.source_emotion for person in group):
                told["source_emotion"] = [person.source_emotion for person in group]
            labels = [person.emotion or emotion for person in group]
            edited[rows] = stronger(self.editor, strength)(crops[rows], labels, generator=generator, **told)
        return edited


def stronger(editor: Editor, strength: float | None) -> Editor:
    """The same editor at another strength, also within a wrapper's `editor`; itself for None. InputError."""
    if strength is None:
        return editor
    names = {field.name for field in fields(editor)} if is_dataclass(editor) else set()
    if "strength" in names:
        return replace(editor, strength=strength)
    if "editor" in names:
        return replace(editor, editor=stronger(editor.editor, strength))
    raise InputError(f"{editor!r} has no strength that a person could overrule")


def check_targets(people: Sequence[Target], n: int) -> None:
    """InputError if a target's picture is not among the n, or its eyes are no two points."""
    for person in people:
        if not 0 <= person.picture < n:
            raise InputError(f"there is no picture {person.picture}; the batch has {n}")
        if person.eyes is not None and [len(eye) for eye in person.eyes] != [2, 2]:
            raise InputError(f"eyes {person.eyes!r} are not two points ((x, y), (x, y))")


def region(
    person: Target,
    box: pictures.Box,
    people: Sequence[Target],
    bystanders: Sequence[Target],
    images: Tensor,
) -> Tensor:
    """Where a person may change: bool (H, W) within its crop. InputError for a mask of another size."""
    inside = area(box, images)
    if person.mask is not None:
        inside &= shape(person, images)
    for other in people:
        if other is not person and other.picture == person.picture and person.mask is None:
            inside &= ~shape(other, images) | area(person.box, images)
    for other in bystanders:
        if other.picture == person.picture:
            inside &= ~shape(other, images)
    return inside


def shape(person: Target, images: Tensor) -> Tensor:
    """Where a person is: bool (H, W), the mask, else the box. InputError for a mask of another size."""
    if person.mask is None:
        return area(person.box, images)
    mask = torch.as_tensor(person.mask, device=images.device)
    if mask.shape != images.shape[-2:]:
        height, width = images.shape[-2:]
        raise InputError(
            f"mask of {' x '.join(map(str, mask.shape))} for a picture of {height} x {width} (height x width)"
        )
    return mask != 0


def area(box: Sequence[int], images: Tensor) -> Tensor:
    """The pixels of a box: bool (H, W)."""
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool, device=images.device)
    x0, y0, x1, y1 = (int(value) for value in box)
    inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return inside


def upright(images: Tensor, person: Target, box: pictures.Box) -> Tensor:
    """The person's crop (1, 3, side, side), turned until the eyes are level."""
    return pictures.rotate(pictures.crop(images[person.picture, None], box), person.tilt).clamp(-1, 1)


@torch.no_grad()
def with_sources(
    picture: Tensor, people: Sequence[Target], judge: Callable[[Tensor], Any], *, margin: float = 0.0
) -> list[Target]:
    """The same `people` of a (1, 3, H, W) picture, each with the `source_emotion` that a judge sees.

    A source emotion that is known stays. `margin` is that of the edit (`person.PerPerson`), whose crops the
    judge is shown.
    """
    height, width = picture.shape[-2:]
    boxes = [images.square_box(person.box, height, width, margin=margin) for person in people]
    crops = [upright(picture, person, box) for person, box in zip(people, boxes, strict=True)]
    seen = judge(torch.cat([images.resize(crop, judge.size) for crop in crops])).emotion
    return [
        replace(person, source_emotion=person.source_emotion or judge.labels[i])
        for person, i in zip(people, seen, strict=True)
    ]
