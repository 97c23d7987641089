"""What can be said of a run before anything is edited: each raises InputError, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from emolib.evaluation.tasks import TaskSet
from emolib.judges import emotion
from emolib.runtime import InputError, one_of


def labels(found: TaskSet, judge: emotion.Judge) -> None:
    """The judge knows every emotion that is asked for."""
    faces = [face for task in found.tasks for change in task.changes for face in change.faces]
    unknown = sorted({face.target for face in faces if face.target} - set(judge.labels))
    if unknown:
        known = ", ".join(judge.labels)
        raise InputError(
            f"{found.name}: the {judge.name} judge does not know {unknown[0]!r}; it knows {known}"
        )


def others(names: Iterable[str]) -> None:
    """Each is a role, a folder, or has the form of a Hub id: a slip in a role's name is none of these."""
    for name in names:
        if "/" not in name and not Path(name).is_dir():
            one_of(name, emotion.ROLES, "judge (or folder, or Hub id owner/name)")


def asked(metrics: Sequence[str], others: Mapping[str, emotion.Judge], missing: Mapping[str, str]) -> None:
    """A column of another judge, emo_a@NAME, is one of a judge that was asked for."""
    known = dict.fromkeys([*others, *(name.partition("@")[2] for name in missing if "@" in name)])
    for name in metrics:
        judge = name.partition("@")[2]
        if judge and judge not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"metric {name!r}: no judge {judge!r} stands beside the headline's ({there})")
