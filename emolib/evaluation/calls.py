"""How an editor is called on a task: a portrait with all its targets at once, or the people of a scene."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emolib.evaluation.tasks import Face, Task

if TYPE_CHECKING:  # they load diffusers, which scoring finished pictures does not need
    from emolib.editors.base import Editor
    from emolib.editors.person import Target

Edit = Callable[[Task, Tensor, torch.Generator], Tensor]
"""`edit(task, source (1, 3, H, W), generator) -> (T, 3, H, W)`, one for each of the task's T changes."""


def pictures(editor: Editor) -> Edit:
    """All changes of a portrait in one call: they share what the method does to the source."""

    def edit(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
        faces = [change.asked[0] for change in task.changes]
        felt = _felt(editor, faces[0].emotion)
        targets = [face.target for face in faces]
        return editor(source, targets, generator=generator, description=faces[0].who, **felt)

    return edit


def back(editor: Editor) -> Edit:
    """The way back: edits (T, 3, H, W) in place of the source, each asked for what the source felt."""

    def edit(task: Task, edits: Tensor, generator: torch.Generator) -> Tensor:
        faces = [change.asked[0] for change in task.changes]
        felt = _felt(editor, [face.target for face in faces])
        source = [face.emotion for face in faces]
        return editor(edits, source, generator=generator, description=faces[0].who, **felt)

    return edit


def _felt(editor: Editor, emotion: str | Sequence[str] | None) -> dict[str, Any]:
    """What the pictures show as they are, for editors whose contract asks for it."""
    known = "source_emotion" in inspect.signature(editor).parameters
    return {"source_emotion": emotion} if known else {}


def people(editor: Editor, size: int) -> Edit:
    """The people of a scene one by one, each crop at `size` px; bystanders stay as they are."""
    from emolib.editors.person import PerPerson, Target

    everybody = PerPerson(editor, size)

    def edit(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
        asked = [(_targets(change.asked), _targets(change.bystanders)) for change in task.changes]
        changed = [everybody(source, generator=generator, people=who, bystanders=rest) for who, rest in asked]
        return torch.cat(changed)

    def _targets(faces: Sequence[Face]) -> list[Target]:
        told = bool(_felt(editor, None))
        return [
            Target(f.box, f.target, f.mask, f.who, source_emotion=f.emotion if told else None) for f in faces
        ]

    return edit
