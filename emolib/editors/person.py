"""People in a picture, and the editor for scenes: crop, edit, paste back; nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from emolib import images, runtime
from emolib.data.framing import FACE_MARGIN
from emolib.editors import compose
from emolib.editors.base import PERSON, Editor
from emolib.images import Box

Eyes = tuple[tuple[float, float], tuple[float, float]]
STRIP = 256
"""Rows of a large crop that are worked on together, which needs less memory than all of them."""
FEATHER = 0.06
"""The width of an edit's soft rim, as a share of its square's side."""


@dataclass(frozen=True)
class Person:
    """One person of a picture.

    box             the face, [x0, y0, x1, y1] px
    emotion         what to feel; None: this person stays as they are
    source_emotion  what is felt now, if known
    description     for the prompt, "woman with red hair"
    strength        of the edit, in [0, 1]; None: the editor's own
    mask            (H, W), nonzero where this person is and may change; None: the crop, less other people
    eyes            ((x, y), (x, y)) px, as seen from left to right: a tilted face is edited upright
    """

    box: Box
    emotion: str | None = None
    source_emotion: str | None = None
    description: str = PERSON
    strength: float | None = None
    mask: Any = field(default=None, repr=False, compare=False)
    eyes: Eyes | None = None

    @property
    def tilt(self) -> float:
        """Angle of the eyes' line in radians, clockwise as seen; 0 where the eyes are not known."""
        if self.eyes is None:
            return 0.0
        (x0, y0), (x1, y1) = self.eyes
        return math.atan2(y1 - y0, x1 - x0)


@dataclass(frozen=True)
class PerPerson:
    """An editor for scenes: who has an emotion is cropped, brought to the model's size, edited, pasted back.

    The crops are edited as one batch for each strength. Pixels outside the masks, and everybody who has no
    emotion, are the source's bit for bit. What the model's size cannot hold of a large face stays the
    source's wherever the edit left it alone. Where two people's regions overlap, their changes add up.

    size     side that `editor` works at, px
    margin   what the crop adds around the face box, on each side, as a share of the box's longer side
    feather  width of the soft rim, inside the mask, as a share of the crop's side
    """

    editor: Editor
    size: int
    margin: float = FACE_MARGIN
    feather: float = FEATHER

    def __call__(self, picture: Tensor, people: Sequence[Person], *, seed: int) -> Tensor:
        """Edit `picture` (1, 3, H, W); the same comes out.

        `people` are everybody in it, in the picture's order. Number k draws from `generator(seed, "person",
        k)`: who else is edited changes no draw. InputError: a bad box. TypeError: a strength for an editor
        that has none."""
        chosen = [k for k, person in enumerate(people) if person.emotion is not None]
        if not chosen:
            return picture.clone()
        height, width = picture.shape[-2:]
        boxes = {k: images.square_box(people[k].box, height, width, margin=self.margin) for k in chosen}
        small = {k: images.resize(upright(picture, people[k], boxes[k]), self.size) for k in chosen}
        edited, result = self._edit(small, people, seed), picture.clone()
        for k, box in boxes.items():
            side = box[2] - box[0]
            pair = (images.resize(x[k], side) for x in (small, edited))
            pictures = [x.split(STRIP, dim=-2) for x in (upright(picture, people[k], box), *pair)]
            change = torch.cat([compose.change_of(*strip) for strip in zip(*pictures, strict=True)], dim=-2)
            del pictures
            patch = images.rotate(change, -people[k].tilt, corners="zeros")
            del change
            place = images.crop(result, box)
            patch.add_(place).clamp_(-1, 1)
            opacity = images.feather(region(people, k, box, picture), round(self.feather * side))
            place.lerp_(patch, images.crop(opacity, box).to(patch))
        return result

    def _edit(self, crops: dict[int, Tensor], people: Sequence[Person], seed: int) -> dict[int, Tensor]:
        """Edit all crops (1, 3, size, size) by their person's number; those of one strength as one batch."""
        edited = {}
        for strength in dict.fromkeys(people[k].strength for k in crops):
            rows = [k for k in crops if people[k].strength == strength]
            draws = [runtime.generator(seed, "person", k) for k in rows]
            batch = with_strength(self.editor, strength)(
                torch.cat([crops[k] for k in rows]),
                [people[k].emotion for k in rows],
                generator=draws if len(draws) > 1 else draws[0],
                description=[people[k].description for k in rows],
                source_emotion=[people[k].source_emotion for k in rows],
            )
            edited |= dict(zip(rows, batch.split(1), strict=True))
        return edited


def move_person(person: Person, window: Box) -> Person:
    """Give a person's place in a part of the picture."""
    x, y, x1, y1 = window
    box = (person.box[0] - x, person.box[1] - y, person.box[2] - x, person.box[3] - y)
    eyes = person.eyes and tuple((u - x, v - y) for u, v in person.eyes)
    mask = person.mask if person.mask is None else person.mask[y:y1, x:x1]
    return replace(person, box=box, eyes=eyes, mask=mask)


def find_windows(
    people: Sequence[Person], chosen: Sequence[int], height: int, width: int, margin: float
) -> list[tuple[Box, set[int]]]:
    """Find the parts of a picture that edits of the people `chosen` read or write, and who is edited in each.

    No two of them overlap. InputError: a box outside the picture."""
    windows: list[tuple[Box, set[int]]] = []
    for k in chosen:
        x0, y0, x1, y1 = images.square_box(people[k].box, height, width, margin=margin)
        rim, members = math.ceil(FEATHER * (x1 - x0)) + 1, {k}
        window = (max(x0 - rim, 0), max(y0 - rim, 0), min(x1 + rim, width), min(y1 + rim, height))
        while near := [w for w in windows if _overlap(w[0], window)]:
            windows = [w for w in windows if w not in near]
            corners = [window, *(box for box, _ in near)]
            window = (*map(min, *(c[:2] for c in corners)), *map(max, *(c[2:] for c in corners)))
            members = members.union(*(others for _, others in near))
        windows.append((window, members))
    return windows


def _overlap(a: Box, b: Box) -> bool:
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])


def with_strength(editor: Editor, strength: float | None) -> Editor:
    """Return the editor at another strength, also within a wrapper; itself for None. TypeError: has none."""
    if strength is None:
        return editor
    if hasattr(editor, "editor"):
        return replace(editor, editor=with_strength(editor.editor, strength))
    return replace(editor, strength=strength)


def region(people: Sequence[Person], k: int, box: Box, picture: Tensor) -> Tensor:
    """Find where person `k` may change: bool (H, W), their crop or mask, less all other masks or boxes."""
    inside = area(box, picture)
    if people[k].mask is not None:
        inside &= shape(people[k], picture)
    for i, other in enumerate(people):
        if i != k:
            inside &= ~shape(other, picture)
    return inside


def shape(person: Person, picture: Tensor) -> Tensor:
    """Find where a person is: bool (H, W), the mask, else the box."""
    if person.mask is None:
        return area(person.box, picture)
    return torch.as_tensor(person.mask, device=picture.device) != 0


def area(box: Sequence[int], picture: Tensor) -> Tensor:
    """Mark the pixels of a box: bool (H, W)."""
    inside = torch.zeros(picture.shape[-2:], dtype=torch.bool, device=picture.device)
    x0, y0, x1, y1 = (int(value) for value in box)
    inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return inside


def upright(picture: Tensor, person: Person, box: Box) -> Tensor:
    """Cut out the person, (1, 3, side, side), turned until the eyes are level."""
    return images.rotate(images.crop(picture, box), person.tilt).clamp(-1, 1)


@torch.no_grad()
def with_sources(
    picture: Tensor, people: Sequence[Person], judge: Callable[[Tensor], Any], *, margin: float = FACE_MARGIN
) -> list[Person]:
    """Fill in the `source_emotion` that a judge sees in whoever is to change and has none.

    `margin` is that of the edit (`PerPerson`), whose crops of `picture` (1, 3, H, W) the judge is shown.
    """
    height, width = picture.shape[-2:]
    filled = list(people)
    for k, person in enumerate(people):
        if person.emotion is not None and person.source_emotion is None:
            box = images.square_box(person.box, height, width, margin=margin)
            face = images.resize(upright(picture, person, box), judge.size)
            filled[k] = replace(person, source_emotion=judge.labels[int(judge(face).emotion[0])])
    return filled
