"""What several lessons do again and again: load faces, lay them out, note a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from emolib import images
from emolib.course.figures.pictures import contact_sheet
from emolib.data.emofaces import Portraits
from emolib.metrics.estimates import Estimate
from emolib.metrics.measured import Measured


def load_faces(data: Portraits, people: Sequence[int], emotions: str | Sequence[str], size: int) -> Tensor:
    """Load pictures of people, all under the first emotion, then all under the next.

    Returns (emotions x people, 3, size, size) in [-1, 1]; split(len(people)) gives the emotions apart."""
    emotions = [emotions] if isinstance(emotions, str) else emotions
    pictures = [data.image(person, emotion) for emotion in emotions for person in people]
    return images.resize(images.to_tensor(pictures), size)


def show_people(columns: Mapping[str, Tensor], people: int = 3) -> None:
    """Show the first `people` people, one row each; `columns` is {name: (B, 3, H, W) of all people}."""
    rows = [torch.stack(row) for row in zip(*columns.values(), strict=True)]
    contact_sheet([images.to_pil(row) for row in rows[:people]], columns=list(columns), inches=1.1)
    plt.show()


def show_edits(source: Tensor, edits: Mapping[str, Mapping[str, Tensor]], people: int = 2) -> None:
    """Show the first `people` people: a row for each kind of edit, a column for each emotion.

    The source, (B, 3, H, W) of all people, comes first. `edits` is {kind: {emotion: (B, 3, H, W)}}, where all
    kinds have the same emotions."""
    count = min(people, len(source))
    rows = [[source[k], *(x[k] for x in kind.values())] for k in range(count) for kind in edits.values()]
    columns = ["source", *next(iter(edits.values()))]
    contact_sheet([images.to_pil(torch.stack(row)) for row in rows], rows=[*edits] * count, columns=columns)
    plt.show()


def note(measured: Measured, name: str, estimate: Estimate) -> None:
    """Write a number down for the table at the end of a lesson, and print it."""
    measured.add(name, *estimate)
    print(f"{name}: {estimate}")
