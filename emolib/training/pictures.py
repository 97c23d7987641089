"""The pictures that a concept is learned from: read from a folder, brought to size, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from emolib import images as pictures
from emolib.data import emofaces
from emolib.data.manifest import Manifest
from emolib.data.open import open_dataset
from emolib.emotions.words import PERSON
from emolib.runtime import InputError, one_of, progress

NEUTRAL = "neutral"
GREY_LEVEL = 2 / 255  # one of 255 steps, in [-1, 1]


@dataclass(eq=False)
class Pictures:
    """Pictures of people who all feel the same, and who they are.

    images        float32 (N, 3, S, S) in [-1, 1]
    descriptions  who is in each, e.g. "woman with red hair": what is said, the token need not carry
    neutral       float32 (N, 3, S, S): the same people without the emotion, in the same order; or None
    notes         what the user should know, one line each

    Raises InputError if nothing can be learned from them: none, a single one without its neutral
    counterpart, all the same, one flat colour, or pairs that do not differ.
    """

    images: Tensor
    descriptions: tuple[str, ...] = ()
    neutral: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.descriptions = self.descriptions or (PERSON,) * len(self.images)
        fault = _find_fault(self.images, self.neutral)
        if fault:
            raise InputError(fault)
        if (self.images - self.images.mean(1, keepdim=True)).abs().max() < GREY_LEVEL:
            self.notes = (*self.notes, "all pictures are without colour: the token will learn that too")

    def __len__(self) -> int:
        return len(self.images)


def _find_fault(images: Tensor, neutral: Tensor | None) -> str | None:
    """Say why nothing can be learned, naming the picture by its number; None where something can."""
    n = len(images)
    if not n:
        return "no pictures; give 8 to 16 of different people who feel the same"
    for i, image in enumerate(images):
        if (image.amax((1, 2)) - image.amin((1, 2))).max() < GREY_LEVEL:
            return f"picture {i + 1} is one flat colour: nothing can be learned from it; remove it"
    if neutral is None and n == 1:
        return (
            "one picture cannot tell the feeling from the face; give 8 to 16 of different people, or pairs"
            " neutral / emotion"
        )
    for i, (felt, calm) in enumerate(zip(images, images if neutral is None else neutral, strict=True)):
        if neutral is not None and torch.equal(felt, calm):
            return f"pair {i + 1} is twice the same picture; give one neutral and one not"
    if n > 1 and bool((images == images[:1]).all()):
        return f"all {n} pictures are the same one; give different people"
    return None


def pictures_of_people(
    portraits: emofaces.Portraits, identities: Sequence[int], emotion: str, size: int, *, pairs: bool = True
) -> Pictures:
    """EmoFaces people under `emotion` as squares of `size` px, described as in the captions; `pairs` adds
    their neutral portraits. InputError for a person or an emotion that the split does not have."""
    felt, calm = (
        torch.cat([square(portraits.image(i, label), size) for i in identities])
        for label in (emotion, NEUTRAL)
    )
    who = tuple(emofaces.description(portraits.record(i, emotion)) for i in identities)
    return Pictures(felt, who, calm if pairs else None)


def read_pictures(
    path: str | Path,
    size: int,
    *,
    emotion: str | None = None,
    preferred: str | None = None,
    pairs: bool = False,
    against: str = NEUTRAL,
    limit: int | None = None,
) -> Pictures:
    """Read the pictures of a data set (see `data.open`) as squares of `size` px.

    Plain pictures count as one emotion; among several, `emotion` says which, else `preferred` if it is one of
    them. `pairs` wants two labels, "neutral" and the emotion, and joins pictures of one person as
    `Manifest.person_keys` says; `against` is another label in place of "neutral". At most `limit` are read,
    the first. A column `description` is taken over. Raises InputError, also for pictures under half of
    `size`.
    """
    manifest = open_dataset(path)
    if preferred and emotion is None:
        holds = (manifest.frame["emotion"] == preferred).any() or (Path(path) / preferred).is_dir()
        emotion = preferred if holds else None
    emotion = _choose_label(manifest, emotion, path, against if pairs else None)
    frame = manifest.frame
    felt = [i for i, label in enumerate(frame["emotion"]) if emotion is None or label == emotion]
    calm: list[int] | None = None
    if pairs:
        felt, calm = (side[:limit] for side in _pairs(manifest, felt, path, against))
    felt = felt[:limit]
    images, notes = _open(manifest, felt, size)
    neutral = None if calm is None else _open(manifest, calm, size)[0]
    who = tuple(map(str, frame["description"].iloc[felt])) if "description" in frame else ()
    try:
        return Pictures(images, who, neutral, notes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _choose_label(
    manifest: Manifest, emotion: str | None, path: str | Path, against: str | None
) -> str | None:
    """Choose the label to take; None takes everything (nothing is labelled, or all alike)."""
    pairs = against is not None
    present = [label for label in manifest.labels if (manifest.frame["emotion"] == label).any()]
    choice = [label for label in present if label != against]
    named = [label for label in (against, emotion) if label and label not in present] if pairs else []
    empty = [Path(path) / label for label in named if (Path(path) / label).is_dir()]
    fault = None
    if empty:
        fault = f"{empty[0]}: holds no picture; put there those of the same people, under the same file names"
    elif pairs and (against not in present or not choice):
        fault = (
            f"{path}: pairs need two folders, {against!r} and one named after the emotion, with pictures of"
            " one person under one file name"
        )
    elif emotion is None and len(choice) > 1:
        fault = f"{path}: holds pictures of {', '.join(choice)}; say which with --emotion"
    if fault:
        raise InputError(fault)
    if emotion in choice or (len(choice) <= 1 and not pairs):
        return emotion if emotion in choice else None
    return choice[0] if emotion is None else one_of(emotion, choice, f"emotion in {path}")


def _pairs(
    manifest: Manifest, felt: list[int], path: str | Path, against: str
) -> tuple[list[int], list[int]]:
    people, labels = manifest.person_keys(), manifest.frame["emotion"]
    calm = {
        person: i for i, (person, label) in enumerate(zip(people, labels, strict=True)) if label == against
    }
    both = [i for i in felt if people[i] in calm]
    if not both:
        raise InputError(f"{path}: no person is there both {against} and with the emotion (by file name)")
    return both, [calm[people[i]] for i in both]


def _open(manifest: Manifest, rows: list[int], size: int) -> tuple[Tensor, tuple[str, ...]]:
    """(N, 3, size, size) of these rows, and a note if they differ in size."""
    squares, sizes = [], set()
    for i in progress(rows, "reading"):  # one by one: photographs are large, squares are not
        image = manifest.image(i)
        if 2 * min(image.size) < size:
            place = manifest.where(manifest.frame.iloc[i])
            raise InputError(
                f"{place}: {image.width} x {image.height} pixels is too small for a model of {size}; give"
                f" pictures of {size // 2} or more"
            )
        sizes.add(image.size)
        squares.append(square(image, size))
    note = f"pictures of {len(sizes)} sizes: the middle square of each is brought to {size} x {size}"
    return torch.cat(squares), (note,) if len(sizes) > 1 else ()


def square(image: Image.Image, size: int) -> Tensor:
    """The middle square of a picture as float32 (1, 3, size, size) in [-1, 1]."""
    return pictures.resize(pictures.crop_middle(pictures.to_tensor(image)), size)
