"""What people in a picture feel now: an inversion that starts from the right word edits better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from emolib import images
from emolib.editors.person import Target, upright


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
