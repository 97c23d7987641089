"""Who competes: editors by name, an importable object, or a folder of edits that somebody else made."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emolib import images as pictures
from emolib.data import emofaces
from emolib.editors import METHODS
from emolib.evaluation import cache, calls, parts, submission
from emolib.evaluation.calls import Edit
from emolib.evaluation.tasks import Task, TaskSet
from emolib.runtime import InputError, nearest

if TYPE_CHECKING:  # they load diffusers, which scoring finished pictures does not need
    from emolib.diffusion.backbone import Backbone
    from emolib.editors.base import Editor

PALETTE_PEOPLE = 50
SCENE_SIDE = 96  # px, for editors in scenes that do not say their own size


@dataclass(frozen=True)
class Options:
    """What the methods of the table are made with: the model's name, device and memory of `backbone.load`.

    `steps`, if given, is the `num_inference_steps` of all of them.
    """

    model: str = "minisd"
    device: str = "auto"
    memory: str = "auto"
    steps: int | None = None


@dataclass(frozen=True)
class Method:
    """A contestant.

    caption      its repr: all hyper-parameters
    judges_used  judges that its loop asks; the headline judge must not be among them
    key          stands for everything its edits depend on but the data and the seed
    edit         makes them, or None for a `submission` whose pictures are there
    back         edits them back to what the source felt, None where that cannot be asked
    networks     whose evaluations are counted
    size         native picture side of its diffusion model, px; None where there is none
    weights      digests of its backbones' weights
    """

    name: str
    caption: str
    judges_used: tuple[str, ...]
    key: str
    edit: Edit | None
    submitted: submission.Submission | None = None
    back: Edit | None = None
    networks: tuple[torch.nn.Module, ...] = ()
    size: int | None = None
    weights: tuple[str, ...] = ()


def _nothing(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
    return source.expand(len(task.changes), -1, -1, -1).clone()


def _truth(task: Task, source: Tensor, generator: torch.Generator) -> Tensor:
    missing = [change.name for change in task.changes if change.truth is None]
    if missing:
        raise InputError(f"method 'truth': {task.id} has no true answer for {missing[0]}; use EmoFaces")
    return pictures.to_tensor([change.truth() for change in task.changes])


def _with_defaults(where: str, options: Options) -> Editor:
    """The editor class at `where` ("module:class"), with its own settings."""
    editor = resolve_name(where)(_model(options))
    return editor if options.steps is None else dataclasses.replace(editor, num_inference_steps=options.steps)


def _colour(options: Options) -> Editor:
    """Colour transfer to the palettes that the emotions have among EmoFaces' first train people."""
    from emolib.editors import colour

    people = emofaces.portraits("train")
    rows = people.frame.index[people.frame["identity"].isin(people.identities[:PALETTE_PEOPLE])]
    images = pictures.to_tensor([people.image_at(i) for i in rows])
    return colour.fit_colours(images, people.frame["emotion"][rows].tolist())


_models: dict[Options, Backbone] = {}


def _model(options: Options) -> Backbone:
    """The backbone of these options, loaded once for all methods."""
    from emolib.diffusion import backbone

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

SLOW = ("null-text",)
DETAILED = ("edit-friendly+detail", "asyrp+detail")
COURSE = ("nothing", *(name for name in EDITORS if name not in SLOW), *DETAILED, "truth")
"""What "course" stands for: every editor of the lessons but the one that takes thirteen times as long, and
the two with the most joint successes on validation people with their detail given back."""


def load_all(
    specs: Sequence[str], tasks: TaskSet, options: Options
) -> tuple[tuple[Method, ...], dict[str, str]]:
    """The methods that `specs` name, and why those of "course" that cannot be had here are missing.

    InputError as `load`, for a method that was named itself.
    """
    found, missing = [], {}
    for spec in specs:
        for name in COURSE if spec == "course" else (spec,):
            try:
                found.append(load(name, tasks, options))
            except InputError as error:
                if spec != "course":
                    raise
                missing[name] = f"not in this table ({error})"
    return tuple(found), missing


def load(spec: str, tasks: TaskSet, options: Options) -> Method:
    """The method that `spec` names: NAME[+detail][@STRENGTH], module:attribute[@STRENGTH], or a folder.

    "+detail" gives back what the autoencoder took where the edit did nothing (`editors.compose.KeepDetail`).

    An object from outside is an `Editor`, a folder what `submission.load` takes; both must say which judges
    their loop asked (`judges_used`, empty for none). InputError: unknown, not importable, nothing declared.
    """
    base, _, strength = spec.partition("@")
    if base in BOUNDS and not strength:
        return Method(base, base, (), cache.key(base), BOUNDS[base])
    name = base.removesuffix("+detail")  # a name may have a plus of its own
    if name in EDITORS:
        editor = EDITORS[name](options)
        editor = _at(editor, spec, strength) if strength else editor
        return _method(spec, editor if name == base else _with_detail(editor, spec), (), "", tasks, "")
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
    known = ("course", *BOUNDS, *EDITORS)
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
    held = list(parts.inside(editor))
    used = {*declared, *(part.name for part in held if parts.is_judge(part))}
    models = [part for part in held if hasattr(part, "unet")]
    networks = [getattr(part, "unet", part) for part in held if not parts.is_judge(part)]
    networks = [network for network in networks if isinstance(network, torch.nn.Module)]
    caption = repr(editor) if dataclasses.is_dataclass(editor) else name
    digests = {id(part): parts.weights(part) for part in held}
    key = cache.key(caption, source, list(digests.values()), tasks.whole)
    size = min((model.size for model in models), default=None)
    edit = calls.pictures(editor) if tasks.whole else calls.people(editor, size or SCENE_SIDE)
    back = calls.back(editor) if tasks.whole else None
    return Method(
        name,
        caption,
        tuple(sorted(used)),
        key,
        edit,
        back=back,
        networks=tuple(networks),
        size=size,
        weights=tuple(digests[id(model)] for model in models),
    )


def _with_detail(editor: Any, name: str) -> Any:
    from emolib.editors.compose import KeepDetail

    if not hasattr(editor, "backbone"):
        raise InputError(f"method {name!r}: {type(editor).__name__} has no autoencoder to make up for")
    return KeepDetail(editor)


def _at(editor: Any, name: str, strength: str) -> Any:
    if not dataclasses.is_dataclass(editor) or not hasattr(editor, "strength"):
        raise InputError(f"method {name!r}: {type(editor).__name__} has no strength to set")
    try:
        return dataclasses.replace(editor, strength=float(strength))
    except ValueError as error:  # InputError too: the editor's own complaint
        raise InputError(f"method {name!r}: {error}") from None


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
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"method {spec!r} cannot be imported ({error})") from None
    if not callable(found) or isinstance(found, type):
        raise InputError(f"method {spec!r} is no editor: it must be called with pictures and an emotion")
    return found, hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def _plain(judge: str) -> str:
    """A judge's name however it was written: "data/judges/HeldOut" and "held-out" are "heldout"."""
    return re.sub(r"[^a-z0-9]", "", Path(judge).name.casefold())


def check_roles(methods: Sequence[Method], headline: str) -> None:
    """InputError if a method's loop asked the judge that gives the headline numbers, or two share a name."""
    for method in methods:
        if _plain(headline) in map(_plain, method.judges_used):
            raise InputError(
                f"method {method.name!r} asks the {headline} judge in its own loop, so that judge cannot"
                " score it; use the guide there, or leave the method out"
            )
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two methods are called {twice!r}; give each a name of its own")
