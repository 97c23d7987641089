"""What is asked of an editor: source pictures, the changes wanted, and the true answers where known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emolib.data import emofaces
from emolib.data.open import open_dataset
from emolib.emotions.sets import EMOFACES, MIKELS
from emolib.evaluation import cache
from emolib.runtime import InputError, one_of

SPLITS = ("train", "val", "test", "scenes")
SOURCES = ("rotate", "neutral", "all")
Picture = Callable[[], Any]
"""Decodes a picture now: PIL RGB."""


@dataclass(frozen=True)
class Face:
    """One person: face `box` [x0, y0, x1, y1] px, and the `mask` (H, W; None is the box) meant to change.

    `emotion` is felt in the source (None: unknown), `target` wanted (None: a bystander, who is to stay);
    `valence` and `arousal` are the target's, NaN if unknown; `who` is a prompt's words for the person.
    """

    box: tuple[int, int, int, int]
    emotion: str | None
    target: str | None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    valence: float = float("nan")
    arousal: float = float("nan")
    who: str = "person"


@dataclass(frozen=True)
class Change:
    """One edit of a source: its `name` ("anger"), what it asks of every face, the true answer if known."""

    name: str
    faces: tuple[Face, ...]
    truth: Picture | None = field(default=None, repr=False, compare=False)

    @property
    def asked(self) -> tuple[Face, ...]:
        """The faces that are to change."""
        return tuple(face for face in self.faces if face.target is not None)

    @property
    def bystanders(self) -> tuple[Face, ...]:
        """The faces that are to stay as they are."""
        return tuple(face for face in self.faces if face.target is None)


@dataclass(frozen=True)
class Task:
    """One source picture and all changes wanted of it: one call of an editor, one entry of the cache.

    `group` is the independent unit of statistics: the person, or the scene.
    """

    id: str
    group: str
    picture: Picture = field(repr=False, compare=False)
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class TaskSet:
    """The tasks of a data set. `whole`: a picture is one tightly framed face, judged and edited as it is.

    known     ids of all tasks the data could give, of which `tasks` may be a part
    digest    of the data's bytes: another file is another benchmark
    size      what pictures were resampled to (`resized`), px; None: they are as the data has them
    note      what a reader of the table has to know of that
    """

    name: str
    tasks: tuple[Task, ...]
    whole: bool
    known: frozenset[str]
    digest: str
    folder: Path | None = None
    size: int | None = None
    note: str = ""

    @property
    def edits(self) -> int:
        return sum(len(task.changes) for task in self.tasks)


def load(
    data: str, *, people: int | None = None, targets: Sequence[str] = (), sources: str = "rotate"
) -> TaskSet:
    """The tasks of "emofaces:val", "emofaces:test", "emofaces:scenes", a manifest (.parquet) or a folder.

    people    only so many persons (pictures, scenes): a smaller number is a part of a larger one
    targets   only these emotions; default all of Mikels' eight and, on EmoFaces, neutral
    sources   portraits: "rotate" takes one picture of every person, the nine emotions in turn;
              "neutral" takes that one; "all" takes every picture

    InputError: unknown data, split, emotion; nothing left to do.
    """
    one_of(sources, SOURCES, "kind of sources")
    for name in targets:
        one_of(name, EMOFACES, "target emotion")
    name, _, split = data.partition(":")
    found = _emofaces(split or "test", sources) if name == "emofaces" else _pictures(data)
    if targets:
        tasks = [replace(task, changes=_wanted(task, targets)) for task in found.tasks]
        found = replace(found, tasks=tuple(task for task in tasks if task.changes))
    if people is not None:
        # The first ones: source emotions rotate with the rank, so that a part is as balanced as the whole.
        groups = set(list(dict.fromkeys(task.group for task in found.tasks))[: max(people, 0)])
        found = replace(found, tasks=tuple(task for task in found.tasks if task.group in groups))
    if not found.tasks:
        raise InputError(f"{data}: zero pictures to edit; ask for more people or other targets")
    return found


def resized(found: TaskSet, size: int | None) -> TaskSet:
    """The same tasks with sources and true answers resampled alike, bicubic: the shorter side to `size` px.

    A model is judged at the size it draws at: enlarged edits would be punished for detail nobody asked of it.
    The longer side keeps the proportion, to a multiple of 8 px. None: as they are. InputError under 16 px.
    """
    if size is None:
        return found
    if size < 16:
        raise InputError(f"size {size}: pictures of 16 px or more can be judged")
    shape = found.tasks[0].picture().size
    note = f"Edited and judged at {size} px; sources and true answers are resampled alike, from {shape[0]} px"
    tasks = tuple(_resized(task, size) for task in found.tasks)
    digest = cache.key(found.digest, size)
    return replace(found, tasks=tasks, digest=digest, size=size, note=note if min(shape) != size else "")


def _resized(task: Task, size: int) -> Task:
    width, height = task.picture().size
    scale = size / min(width, height)
    to = tuple(
        size if side == min(width, height) else round(side * scale / 8) * 8 for side in (width, height)
    )

    def moved(face: Face) -> Face:
        x0, y0, x1, y1 = (round(v * to[i % 2] / (width, height)[i % 2]) for i, v in enumerate(face.box))
        return replace(face, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))

    def change(old: Change) -> Change:
        truth = None if old.truth is None else partial(_resampled, old.truth, to)
        return Change(old.name, tuple(moved(face) for face in old.faces), truth)

    picture = partial(_resampled, task.picture, to)
    return replace(task, picture=picture, changes=tuple(change(old) for old in task.changes))


def _resampled(picture: Picture, size: tuple[int, int]) -> Any:
    """PIL picture at `size` = (width, height), 8-bit like every picture that is scored."""
    from emolib import images  # imports torch

    return images.to_pil(images.resize(images.to_tensor(picture()), (size[1], size[0])))[0]


def _wanted(task: Task, targets: Sequence[str]) -> tuple[Change, ...]:
    """The changes that ask for nothing but these emotions."""
    return tuple(change for change in task.changes if all(face.target in targets for face in change.asked))


def _emofaces(split: str, sources: str) -> TaskSet:
    one_of(split, SPLITS, "EmoFaces split")
    if split == "scenes":
        return _scenes(emofaces.scenes())
    return portraits(emofaces.portraits(split), f"emofaces:{split}", sources)


def portraits(data: emofaces.Portraits, name: str, sources: str = "rotate") -> TaskSet:
    """Tasks from EmoFaces portraits: a person's picture, and every other emotion the truth is there for."""
    tasks, known = [], set()
    there = set(zip(data.frame["identity"].tolist(), data.frame["emotion"].tolist(), strict=True))
    for rank, identity in enumerate(data.identities):
        own = [label for label in EMOFACES if (identity, label) in there]
        known |= {f"{identity:05d}-{label}" for label in own}
        turn = EMOFACES[rank % len(EMOFACES)]
        starts = {"rotate": [turn], "neutral": ["neutral"], "all": list(EMOFACES)}[sources]
        tasks += [_portrait(data, identity, start, own) for start in starts if start in own]
    tasks = [task for task in tasks if task.changes]
    if not tasks:
        raise InputError(f"{data.path}: nobody is there under two emotions, so no edit has a true answer")
    digest = cache.file_digest(data.path)
    return TaskSet(name, tuple(tasks), True, frozenset(known), digest, data.path.parent)


def _portrait(data: emofaces.Portraits, identity: int, start: str, labels: Sequence[str]) -> Task:
    row, changes = data.record(identity, start), []
    box = tuple(int(value) for value in row["face_box"])
    hair = "none" if row["hair_style"] == "bald" else str(row["hair_color"])
    who = emofaces.in_short(str(row["gender"]), hair)
    for label in labels:
        if label != start:
            truth = data.record(identity, label)
            felt = {"valence": float(truth["valence"]), "arousal": float(truth["arousal"])}
            face = Face(box, start, label, **felt, who=who)
            changes.append(Change(label, (face,), partial(data.image, identity, label)))
    picture = partial(data.image, identity, start)
    return Task(f"{identity:05d}-{start}", str(identity), picture, tuple(changes))


def _scenes(data: emofaces.Scenes) -> TaskSet:
    """Tasks from scenes: everybody changes, or one person alone while the others are bystanders."""
    tasks = []
    for number in data.ids:
        source = data.get(number)
        changes = []
        for version in data.versions(number):
            if version != "source":
                faces = tuple(
                    _person(person, asked=version in ("all", f"person{k}"))
                    for k, person in enumerate(source.people)
                )
                changes.append(Change(version, faces, partial(_image, data, number, version)))
        picture = partial(_image, data, number, "source")
        tasks.append(Task(f"scene-{number}", f"scene-{number}", picture, tuple(changes)))
    known = frozenset(task.id for task in tasks)
    return TaskSet(
        "emofaces:scenes", tuple(tasks), False, known, cache.file_digest(data.path), data.path.parent
    )


def _person(person: emofaces.Person, *, asked: bool) -> Face:
    who = emofaces.in_short(person.gender, person.hair_color)
    return Face(person.box, person.emotion, person.target if asked else None, person.mask, who=who)


def _image(data: emofaces.Scenes, number: int, version: str) -> Any:
    return data.get(number, version).image


def _pictures(data: str) -> TaskSet:
    """Tasks from any pictures that `data` names, without truth: every emotion but the picture's own."""
    found = open_dataset(data)
    tasks = []
    for i, row in enumerate(found.frame.itertuples()):
        felt = row.emotion if isinstance(row.emotion, str) else None
        picture = partial(found.image, i)
        width, height = picture().size
        face = Face((0, 0, width, height), felt, None)
        changes = tuple(Change(t, (replace(face, target=t),)) for t in MIKELS if t != felt)
        tasks.append(Task(row.id.replace("/", "-"), row.id, picture, changes))
    digest = hashlib.sha256(b"".join(hashlib.sha256(found.encoded(i)).digest() for i in range(len(found))))
    known = frozenset(task.id for task in tasks)
    return TaskSet(Path(data).name, tuple(tasks), True, known, digest.hexdigest()[:16])
