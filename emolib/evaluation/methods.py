"""Who competes: editors by name, an importable object, or a folder of edits that somebody else made."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emolib import images as pictures
from emolib.data import emofaces
from emolib.editors.cli import METHODS
from emolib.evaluation import cache, submission
from emolib.evaluation.tasks import Face, Task, TaskSet
from emolib.judges import Judge
from emolib.runtime import InputError, nearest

if TYPE_CHECKING:  # they load diffusers, which scoring finished pictures does not need
    from emolib.backbone import Backbone
    from emolib.editors.contract import Editor
    from emolib.editors.person import Target

PALETTE_PEOPLE = 50
SCENE_SIDE = 96  # px, for editors in scenes that do not say their own size
Edit = Callable[[Task, Tensor, torch.Generator], Tensor]
"""`edit(task, source (1, 3, H, W), generator) -> (T, 3, H, W)`, one for each of the task's T changes."""


@dataclass(frozen=True)
class Options:
    """What the methods of the table are made with: the model's name, device and memory of `backbone.load`."""

    model: str = "minisd"
    device: str = "auto"
    memory: str = "auto"


@dataclass(frozen=True)
class Method:
    """A contestant.

    caption      its repr: all hyper-parameters
    judges_used  judges that its loop asks; the headline judge must not be among them
    key          stands for everything its edits depend on but the data and the seed
    edit         makes them, or None for a `submission` whose pictures are there
    back         edits them back to what the source felt, None where that cannot be asked
    networks     whose evaluations are counted
    """

    name: str
    caption: str
    judges_used: tuple[str, ...]
    key: str
    edit: Edit | None
    submitted: submission.Submission | None = None
    back: Edit | None = None
    networks: tuple[torch.nn.Module, ...] = ()


def _nothing(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
    return source.expand(len(task.changes), -1, -1, -1).clone()


def _truth(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
    missing = [change.name for change in task.changes if change.truth is None]
    if missing:
        raise InputError(f"method 'truth': {task.id} has no true answer for {missing[0]}; use EmoFaces")
    return pictures.to_tensor([change.truth() for change in task.changes])


def _with_defaults(where: str, options: Options) -> Editor:
    """The editor class at `where` ("module:class"), with its own settings."""
    return resolve_name(where)(_model(options))


def _colour(options: Options) -> Editor:
    """Colour transfer to the palettes that the emotions have among EmoFaces' first train people."""
    from emolib import baselines

    people = emofaces.portraits("train")
    rows = people.frame.index[people.frame["identity"].isin(people.identities[:PALETTE_PEOPLE])]
    images = pictures.to_tensor([people.image_at(i) for i in rows])
    return baselines.fit_colours(images, people.frame["emotion"][rows].tolist())


_models: dict[Options, Backbone] = {}


def _model(options: Options) -> Backbone:
    """The backbone of these options, loaded once for all methods."""
    from emolib import backbone

    if options not in _models:
        _models[options] = backbone.load(options.model, device=options.device, memory=options.memory)
    return _models[options]


BOUNDS: dict[str, Edit] = {"nothing": _nothing, "truth": _truth}
"""What is no editor: the unedited source, and the true answer."""

EDITORS: dict[str, Callable[[Options], Editor]] = {
    "colour": _colour,
    **{name: partial(_with_defaults, where) for name, where in METHODS.items()},
}
"""Name -> maker: colour transfer, and the methods of `emolib edit`. None of these asks a judge."""


def load(spec: str, tasks: TaskSet, options: Options) -> Method:
    """The method that `spec` names: NAME[@STRENGTH] of the tables, module:attribute[@STRENGTH], or a folder.

    An object from outside is an `Editor`, a folder what `submission.load` takes; both must say which judges
    their loop asked (`judges_used`, empty for none). InputError: unknown, not importable, nothing declared.
    """
    base, _, strength = spec.partition("@")
    if base in BOUNDS and not strength:
        return Method(base, base, (), cache.key(base), BOUNDS[base])
    if base in EDITORS:
        return _method(spec, EDITORS[base](options), (), strength, tasks, "")
    if Path(spec).is_dir():
        found = submission.load(Path(spec), tasks)
        return Method(found.name, found.name, found.judges_used, found.digest, None, found)
    if ":" in base:
        editor, source = _imported(base)
        declared = getattr(editor, "judges_used", None)
        if declared is None:
            raise InputError(
                f"method {base!r} does not say which judges it asks; give it judges_used = () for none"
            )
        return _method(spec, editor, tuple(declared), strength, tasks, source)
    known = (*BOUNDS, *EDITORS)
    guess = nearest(base, known)
    hint = f"did you mean {guess!r}? " if guess else ""
    raise InputError(
        f"unknown method {spec!r}; {hint}known: {', '.join(known)}, module:attribute, a folder of edits"
    )


def _method(
    name: str, editor: Any, declared: tuple[str, ...], strength: str, tasks: TaskSet, source: str
) -> Method:
    if strength:
        editor = _at(editor, name, strength)
    parts = list(_parts(editor))
    used = {*declared, *(part.name for part in parts if _judge(part))}
    networks = [getattr(part, "unet", part) for part in parts if not _judge(part)]
    networks = [network for network in networks if isinstance(network, torch.nn.Module)]
    caption = repr(editor) if dataclasses.is_dataclass(editor) else name
    key = cache.key(caption, source, [weights(part) for part in parts], tasks.whole)
    edit = _edit_pictures(editor) if tasks.whole else _edit_people(editor)
    back = _edit_back(editor) if tasks.whole else None
    return Method(name, caption, tuple(sorted(used)), key, edit, back=back, networks=tuple(networks))


def _at(editor: Any, name: str, strength: str) -> Any:
    if not dataclasses.is_dataclass(editor) or not hasattr(editor, "strength"):
        raise InputError(f"method {name!r}: {type(editor).__name__} has no strength to set")
    try:
        return dataclasses.replace(editor, strength=float(strength))
    except ValueError as error:  # InputError too: the editor's own complaint
        raise InputError(f"method {name!r}: {error}") from None


def _edit_pictures(editor: Editor) -> Edit:
    """All changes of a portrait in one call: they share what the method does to the source."""

    def edit(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
        faces = [change.asked[0] for change in task.changes]
        felt = _felt(editor, faces[0].emotion)
        targets = [face.target for face in faces]
        return editor(source, targets, generator=generator, description=faces[0].who, **felt)

    return edit


def _edit_back(editor: Editor) -> Edit:
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


def _edit_people(editor: Editor) -> Edit:
    from emolib.editors.person import PerPerson, Target

    model = getattr(editor, "backbone", None)
    people = PerPerson(editor, getattr(model, "size", SCENE_SIDE))

    def edit(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
        asked = [(_targets(change.asked), _targets(change.bystanders)) for change in task.changes]
        changed = [people(source, generator=generator, people=who, bystanders=rest) for who, rest in asked]
        return torch.cat(changed)

    def _targets(faces: Sequence[Face]) -> list[Target]:
        told = bool(_felt(editor, None))
        return [
            Target(f.box, f.target, f.mask, f.who, source_emotion=f.emotion if told else None) for f in faces
        ]

    return edit


def _imported(spec: str) -> tuple[Any, str]:
    """The object that "module:attribute" names, and a digest of the file it comes from."""
    module, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        file = getattr(found, "__file__", None)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"method {spec!r} cannot be imported ({error})") from None
    if not callable(found) or isinstance(found, type):
        raise InputError(f"method {spec!r} is no editor: it must be called with pictures and an emotion")
    return found, hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def _parts(value: Any) -> Iterator[Any]:
    """The backbones, judges, networks and tensors that an editor holds, however deep in its fields."""
    if _judge(value) or isinstance(value, (torch.nn.Module, Tensor)) or hasattr(value, "unet"):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, Mapping):
        yield from _parts(list(value.values()))


def _judge(part: Any) -> bool:
    return isinstance(part, Judge)


def weights(part: Backbone | Judge | torch.nn.Module | Tensor) -> str:
    """Digest of all parameters of a backbone, judge or network, or of a tensor."""
    if isinstance(part, Tensor):
        values = [("", part)]
    elif isinstance(part, torch.nn.Module) or _judge(part):
        values = list((part.network if _judge(part) else part).state_dict().items())
    else:
        modules = [m for m in part.pipe.components.values() if isinstance(m, torch.nn.Module)]
        values = [pair for module in modules for pair in module.state_dict().items()]
    total = hashlib.sha256()
    for name, value in values:
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def check_roles(methods: Sequence[Method], headline: str) -> None:
    """InputError if a method's loop asked the judge that gives the headline numbers, or two share a name."""
    for method in methods:
        if headline in method.judges_used:
            raise InputError(
                f"method {method.name!r} asks the {headline} judge in its own loop, so that judge cannot"
                " score it; use the guide there, or leave the method out"
            )
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two methods are called {twice!r}; give each a name of its own")
