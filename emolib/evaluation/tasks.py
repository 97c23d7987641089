"""Define what an editor is asked: source pictures, the changes to make, the true answers where known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from emolib import images
from emolib.data import emofaces
from emolib.data.open import open_dataset
from emolib.editors.person import Person
from emolib.emotions.sets import EMOFACES, MIKELS
from emolib.evaluation import store
from emolib.runtime import InputError, in_range, one_of

SPLITS = ("train", "val", "test", "scenes")
SOURCES = ("rotate", "neutral", "all")
SIZES = (16, 4096)
"""Sides that pictures may be judged at, px."""

Picture = Callable[[], Any]
"""Decodes a picture now: PIL RGB."""


@dataclass(frozen=True)
class Change:
    """One edit of a source: its `name` ("anger"), everybody in the picture's order, the truth if known.

    A person without an `emotion` is a bystander, who is to stay as they are. `affect` is the valence and
    arousal of the true answer, NaN if unknown.
    """

    name: str
    people: tuple[Person, ...]
    truth: Picture | None = field(default=None, repr=False, compare=False)
    affect: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def edited(self) -> tuple[Person, ...]:
        """The people that are to change."""
        return tuple(person for person in self.people if person.emotion is not None)


@dataclass(frozen=True)
class Task:
    """One source picture and all its changes: one call of an editor, one entry of the store.

    `group` is the independent unit of statistics: the person, or the scene.
    """

    id: str
    group: str
    picture: Picture = field(repr=False, compare=False)
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class TaskSet:
    """The tasks of a data set. `whole`: a picture is one tightly framed face, judged and edited as it is.

    ids       of all tasks the data could give, of which `tasks` may be a part
    digest    of the data's bytes: another file is another benchmark
    size      what pictures were resampled to (`resize_tasks`), px; None: they are as the data has them
    note      what a reader of the table has to know of that
    """

    name: str
    tasks: tuple[Task, ...]
    whole: bool
    ids: frozenset[str]
    digest: str
    folder: Path | None = None
    size: int | None = None
    note: str = ""

    @property
    def edits(self) -> list[tuple[Task, Change]]:
        """Every change with its task, in order."""
        return [(task, change) for task in self.tasks for change in task.changes]


def load_tasks(
    data: str, *, people: int | None = None, targets: Sequence[str] = (), sources: str = "rotate"
) -> TaskSet:
    """Load the tasks of "emofaces:SPLIT" (val, test, scenes) or of any pictures that `open_dataset` takes.

    people    only so many persons (pictures, scenes): a smaller number is a part of a larger one
    targets   only these emotions; default all of Mikels' eight and, on EmoFaces, neutral
    sources   portraits: "rotate" takes one picture of every person, the nine emotions in turn;
              "neutral" takes that one; "all" takes every picture

    InputError: unknown data, split, emotion; nothing left to do.
    """
    one_of(sources, SOURCES, "kind of sources")
    for target in targets:
        one_of(target, EMOFACES, "target emotion")
    name, _, split = data.partition(":")
    if name != "emofaces":
        every = _load_pictures(data)
    elif one_of(split or "test", SPLITS, "EmoFaces split") == "scenes":
        every = _load_scenes(emofaces.scenes())
    else:
        every = _load_portraits(emofaces.portraits(split or "test"), f"emofaces:{split or 'test'}", sources)
    tasks = every.tasks
    if targets:
        tasks = tuple(replace(task, changes=_select_changes(task, targets)) for task in tasks)
    tasks = tuple(task for task in tasks if task.changes)
    # The first ones: source emotions rotate with the rank, so that a part is as balanced as the whole.
    groups = list(dict.fromkeys(task.group for task in tasks))
    groups = groups[: len(groups) if people is None else max(people, 0)]
    tasks = tuple(task for task in tasks if task.group in groups)
    if not tasks:
        raise InputError(
            f"{data}: zero pictures to edit; ask for more people or other targets (of EmoFaces' people, two"
            " emotions or more must be there)"
        )
    return replace(every, tasks=tasks)


def _select_changes(task: Task, targets: Sequence[str]) -> tuple[Change, ...]:
    """The changes that ask for nothing but these emotions."""
    return tuple(c for c in task.changes if all(person.emotion in targets for person in c.edited))


def resize_tasks(tasks: TaskSet, size: int | None) -> TaskSet:
    """Resample sources and true answers alike, bicubic: the shorter side to `size` px; None: as they are.

    A model is judged at the size it draws at: enlarged edits would be punished for detail nobody asked of it.
    The longer side keeps the proportion, to a multiple of 8 px. InputError for a size out of `SIZES`.
    """
    if size is None:
        return tasks
    in_range(size, *SIZES, what="size: the side in px that pictures are judged at")
    shape = tasks.tasks[0].picture().size
    note = f"Edited and judged at {size} px; sources and true answers are resampled alike, from {shape[0]} px"
    return replace(
        tasks,
        tasks=tuple(_resize_task(task, size) for task in tasks.tasks),
        digest=store.make_key(tasks.digest, size),
        size=size,
        note=note if min(shape) != size else "",
    )


def _resize_task(task: Task, size: int) -> Task:
    before = task.picture().size
    short = min(before)
    after = tuple(size if side == short else round(side * size / short / 8) * 8 for side in before)

    def resize_person(person: Person) -> Person:
        x0, y0, x1, y1 = (round(v * after[i % 2] / before[i % 2]) for i, v in enumerate(person.box))
        return replace(person, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))

    changes = tuple(
        replace(
            change,
            people=tuple(resize_person(person) for person in change.people),
            truth=change.truth and partial(_resample, change.truth, after),
        )
        for change in task.changes
    )
    return replace(task, picture=partial(_resample, task.picture, after), changes=changes)


def _resample(picture: Picture, size: tuple[int, int]) -> Any:
    """PIL picture at `size` = (width, height), 8-bit like every picture that is scored."""
    return images.to_pil(images.resize(images.to_tensor(picture()), (size[1], size[0])))[0]


def _load_portraits(data: emofaces.Portraits, name: str, sources: str) -> TaskSet:
    """Tasks from EmoFaces portraits: a person's picture, and every other emotion that has a true answer."""
    tasks, ids = [], set()
    pairs = set(zip(data.frame["identity"].tolist(), data.frame["emotion"].tolist(), strict=True))
    for rank, identity in enumerate(data.identities):
        labels = [label for label in EMOFACES if (identity, label) in pairs]
        ids |= {f"{identity:05d}-{label}" for label in labels}
        turn = EMOFACES[rank % len(EMOFACES)]
        starts = {"rotate": [turn], "neutral": ["neutral"], "all": list(EMOFACES)}[sources]
        tasks += [_make_portrait(data, identity, start, labels) for start in starts if start in labels]
    return TaskSet(name, tuple(tasks), True, frozenset(ids), store.digest_file(data.path), data.path.parent)


def _make_portrait(data: emofaces.Portraits, identity: int, start: str, labels: Sequence[str]) -> Task:
    source, changes = data.record(identity, start), []
    box = tuple(int(value) for value in source["face_box"])
    hair = "none" if source["hair_style"] == "bald" else str(source["hair_color"])
    description = emofaces.in_short(str(source["gender"]), hair)
    for label in labels:
        if label != start:
            truth = data.record(identity, label)
            person, affect = Person(box, label, start, description), (truth["valence"], truth["arousal"])
            picture = partial(data.image, identity, label)
            changes.append(Change(label, (person,), picture, tuple(map(float, affect))))
    picture = partial(data.image, identity, start)
    return Task(f"{identity:05d}-{start}", str(identity), picture, tuple(changes))


def _load_scenes(data: emofaces.Scenes) -> TaskSet:
    """Tasks from scenes: everybody changes, or one person alone while the others are bystanders."""
    tasks = []
    for number in data.ids:
        people, name = data.get(number).people, f"scene-{number}"
        changes = [
            Change(
                version,
                tuple(_make_person(p, version in ("all", f"person{k}")) for k, p in enumerate(people)),
                partial(_read_scene, data, number, version),
            )
            for version in data.versions(number)
            if version != "source"
        ]
        tasks.append(Task(name, name, partial(_read_scene, data, number, "source"), tuple(changes)))
    ids, digest = frozenset(task.id for task in tasks), store.digest_file(data.path)
    return TaskSet("emofaces:scenes", tuple(tasks), False, ids, digest, data.path.parent)


def _make_person(person: emofaces.Person, edited: bool) -> Person:
    description = emofaces.in_short(person.gender, person.hair_color)
    target = person.target if edited else None
    return Person(person.box, target, person.emotion, description, mask=person.mask)


def _read_scene(data: emofaces.Scenes, number: int, version: str) -> Any:
    return data.get(number, version).image


def _load_pictures(data: str) -> TaskSet:
    """Tasks from any pictures that `data` names, without truth: every emotion but the picture's own."""
    manifest, tasks = open_dataset(data), []
    for i, row in enumerate(manifest.frame.itertuples()):
        felt = row.emotion if isinstance(row.emotion, str) else None
        picture = partial(manifest.image, i)
        box = (0, 0, *picture().size)
        changes = tuple(Change(t, (Person(box, t, felt),)) for t in MIKELS if t != felt)
        tasks.append(Task(row.id, row.id, picture, changes))
    digest = store.digest_pictures([manifest.encoded(i) for i in range(len(manifest))])[:16]
    return TaskSet(Path(data).name, tuple(tasks), True, frozenset(task.id for task in tasks), digest)
