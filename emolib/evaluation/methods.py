"""Load who competes: editors by name, an importable object, or a folder of edits that somebody else made."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emolib import images
from emolib.data.framing import FACE_MARGIN
from emolib.editors import OTHERS
from emolib.editors.person import PerPerson, with_strength
from emolib.evaluation import store
from emolib.evaluation.builders import EDITORS, Options, build_hosted, build_instruct
from emolib.evaluation.tasks import Task, TaskSet
from emolib.judges.emotion import Judge
from emolib.runtime import InputError, generator, one_of, read_json

if TYPE_CHECKING:  # they load diffusers, which scoring finished pictures does not need
    from emolib.diffusion.backbone import Backbone
    from emolib.editors.base import Editor
    from emolib.editors.hosted import Service

SCENE_SIDE = 96  # px, for editors in scenes that do not say their own size

Edit = Callable[[Task, Tensor, int], Tensor]
"""`edit(task, source (1, 3, H, W), seed) -> (T, 3, H, W)`, one for each of the task's T changes."""


@dataclass(frozen=True)
class Method:
    """A contestant.

    caption      its repr: all hyper-parameters
    judges_used  judges that its loop asks; the headline judge must not be among them
    key          stands for its hyper-parameters, weights and way of being called
    edit         makes the edits, or None for a submission, whose `submitted` pictures are there
    back         edits them back to what the source felt, None where that cannot be asked
    networks     whose evaluations are counted
    size         native picture side of its diffusion model, px; None where there is none
    weights      digests of its backbones' weights
    service      the hosted service that it asks, which counts what was refused
    """

    name: str
    caption: str
    judges_used: tuple[str, ...]
    key: str
    edit: Edit | None
    submitted: Mapping[tuple[str, str], Path] | None = None
    back: Edit | None = None
    networks: tuple[torch.nn.Module, ...] = ()
    size: int | None = None
    weights: tuple[str, ...] = ()
    service: Service | None = None


def _keep_source(task: Task, source: Tensor, seed: int) -> Tensor:
    return source.expand(len(task.changes), -1, -1, -1).clone()


def _show_truth(task: Task, source: Tensor, seed: int) -> Tensor:
    missing = [change.name for change in task.changes if change.truth is None]
    if missing:
        raise InputError(f"method 'truth': {task.id} has no true answer for {missing[0]}; use EmoFaces")
    return images.to_tensor([change.truth() for change in task.changes])


UNEDITED: dict[str, Edit] = {"nothing": _keep_source, "truth": _show_truth}
"""What is no editor: the unedited source, and the true answer."""

SLOW = ("null-text",)
DETAILED = ("edit-friendly+detail", "asyrp+detail")
COURSE = ("nothing", *(name for name in EDITORS if name not in SLOW), *DETAILED, "truth")
"""What "course" names, in the order of the table: all bounds and editors but the slow ones, and two that
give the autoencoder's detail back."""


def load_methods(
    specs: Sequence[str], tasks: TaskSet, options: Options
) -> tuple[tuple[Method, ...], dict[str, str]]:
    """Load the methods that `specs` name; also why those of "course" that cannot be had here are missing.

    InputError as `load_method`, for a method that was named itself.
    """
    methods, missing = [], {}
    for spec in specs:
        if spec != "course":
            methods.append(load_method(spec, tasks, options))
            continue
        for name in COURSE:
            try:
                methods.append(load_method(name, tasks, options))
            except InputError as error:
                missing[name] = f"not in this table ({error})"
    return tuple(methods), missing


def load_method(spec: str, tasks: TaskSet, options: Options) -> Method:
    """Load the method that `spec` names: NAME[+detail][@STRENGTH], instruct:MODEL[+LORA][+whole][@STRENGTH],
    hosted:SERVICE[/MODEL][+whole], module:attribute[@STRENGTH], or a folder.

    "+detail" gives back what the autoencoder took where the edit did nothing (`editors.compose.KeepDetail`),
    "+whole" edits a scene as one picture, not person by person. An object from outside is an `Editor`; it and
    a folder must say which judges their loop asked (`judges_used`, empty for none). InputError: unknown, not
    importable, nothing declared.
    """
    base, _, strength = spec.partition("@")
    if base in UNEDITED and not strength:
        return Method(base, base, (), store.make_key(base), UNEDITED[base])
    name = base.removesuffix("+detail")  # a name may have a plus of its own
    if name in EDITORS:
        editor = _adjust_editor(EDITORS[name](options), spec, strength, detail=name != base)
        return _describe(spec, editor, (), tasks, "")
    kind, colon, model = base.partition(":")
    if kind in OTHERS and colon:
        name = model.removesuffix("+whole")
        build = build_hosted if kind == "hosted" else build_instruct
        editor = _adjust_editor(build(name, options), spec, strength)
        return _describe(spec, editor, (), tasks, "", whole=name != model)
    if Path(spec).is_dir():
        return read_submission(Path(spec), tasks)
    if ":" not in base:
        one_of(
            base,
            (
                "course",
                *UNEDITED,
                *EDITORS,
                "instruct:MODEL",
                "hosted:SERVICE",
                "module:attribute",
                "a folder of edits",
            ),
            "method",
        )
    editor, source = import_object(base, "method")
    judges = getattr(editor, "judges_used", None)
    if not callable(editor) or isinstance(editor, type) or judges is None:
        raise InputError(
            f"method {base!r} is no editor that says which judges it asks: it must be callable, with"
            " judges_used = () for none"
        )
    return _describe(spec, _adjust_editor(editor, spec, strength), tuple(judges), tasks, source)


def _describe(
    name: str, editor: Any, judges: tuple[str, ...], tasks: TaskSet, source: str, whole: bool = False
) -> Method:
    """The contestant that an editor is; `source` digests the file of one from outside."""
    parts = list(list_parts(editor))
    digests = {id(part): digest_weights(part) for part in parts}
    backbones = [part for part in parts if hasattr(part, "unet")]
    networks = [getattr(part, "unet", part) for part in parts if not isinstance(part, Judge)]
    caption = repr(editor) if dataclasses.is_dataclass(editor) else name
    size = min((backbone.size for backbone in backbones), default=None)
    service = getattr(editor, "service", None)
    models = backbones if service is None else [service]
    margin = min((model.preset.margin for model in models), default=FACE_MARGIN)
    side = size or getattr(service, "size", SCENE_SIDE)
    scene = partial(_edit_whole, editor) if whole else partial(_edit_scene, editor, side, margin)
    return Method(
        name,
        caption,
        tuple(sorted({*judges, *(part.name for part in parts if isinstance(part, Judge))})),
        store.make_key(caption, source, list(digests.values()), tasks.whole, *([whole] * whole)),
        partial(_edit_portrait, editor) if tasks.whole else scene,
        back=partial(_edit_back, editor) if tasks.whole else None,
        networks=tuple(network for network in networks if isinstance(network, torch.nn.Module)),
        size=size,
        weights=tuple(digests[id(backbone)] for backbone in backbones),
        service=service,
    )


def _adjust_editor(editor: Any, name: str, strength: str, detail: bool = False) -> Any:
    """The editor at this strength ("": its own), within `KeepDetail` for `detail`."""
    from emolib.editors.compose import KeepDetail

    try:
        editor = with_strength(editor, float(strength)) if strength else editor
    except ValueError as error:  # none to set, no number, or one that the editor refuses
        raise InputError(f"method {name!r}: {error}") from None
    if detail and not hasattr(editor, "backbone"):
        raise InputError(f"method {name!r}: {type(editor).__name__} has no autoencoder to make up for")
    return KeepDetail(editor) if detail else editor


def import_object(spec: str, what: str) -> tuple[Any, str]:
    """Import the object that "module:attribute" names; also gives a digest of the file it comes from.

    Modules of the working folder are found too. InputError: `what` (e.g. "method") cannot be imported.
    """
    module, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        value: Any = importlib.import_module(module)
        file = getattr(value, "__file__", None)
        for name in attribute.split("."):
            value = getattr(value, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{what} {spec!r} cannot be imported ({error})") from None
    return value, store.digest_file(Path(file)) if file else ""


# How an editor is called: a portrait with all its targets at once, or the people of a scene.


def _edit_portrait(editor: Editor, task: Task, source: Tensor, seed: int) -> Tensor:
    """All changes of a portrait in one call: they share what the method does to the source, and the noise."""
    people, noise = [change.edited[0] for change in task.changes], generator(seed, "person", 0)
    about = {"description": people[0].description, "source_emotion": people[0].source_emotion}
    return editor(source, [person.emotion for person in people], generator=noise, **about)


def _edit_back(editor: Editor, task: Task, edits: Tensor, seed: int) -> Tensor:
    """The way back: edits (T, 3, H, W) in place of the source, each asked for what the source felt."""
    people, noise = [change.edited[0] for change in task.changes], generator(seed, "back")
    about = {"description": people[0].description, "source_emotion": [p.emotion for p in people]}
    return editor(edits, [person.source_emotion for person in people], generator=noise, **about)


def _edit_scene(editor: Editor, size: int, margin: float, task: Task, source: Tensor, seed: int) -> Tensor:
    """The people of a scene one by one, each crop at `size` px; bystanders stay as they are."""
    scene = PerPerson(editor, size, margin)
    return torch.cat([scene(source, change.people, seed=seed) for change in task.changes])


def _edit_whole(editor: Editor, task: Task, source: Tensor, seed: int) -> Tensor:
    """The people of a scene one after the other, each by words that name them, in the whole picture."""
    edits = []
    for change in task.changes:
        edits.append(source)
        for k, person in enumerate(change.people):
            if person.emotion is not None:
                about = {"description": person.description, "source_emotion": person.source_emotion}
                noise = generator(seed, "person", k)
                edits[-1] = editor(edits[-1], person.emotion, generator=noise, **about)
    return torch.cat(edits)


def read_submission(folder: Path, tasks: TaskSet) -> Method:
    """Read finished edits: a folder with all those of `tasks` and a manifest.json; no picture is opened.

        {"method": "ours", "judges_used": [],
         "edits": [{"source": "00801-awe", "target": "anger", "path": "1.png"}, ...]}

    `source` and `target` are ids of tasks and names of changes (`emolib evaluate --list` prints them), `path`
    lies below the folder. The store of `emolib evaluate` has the same form, one folder a method. InputError
    naming the file: no manifest, no declaration of judges, an edit missing, twice, of a source that this data
    does not have, or of a picture that is not there.
    """
    file = folder / store.MANIFEST
    about = read_json(file)
    fault = next(_find_faults(about, folder, tasks), None)
    if fault:
        raise InputError(f"{file}: {fault}")
    paths = {(str(row["source"]), str(row["target"])): folder / row["path"] for row in about["edits"]}
    name = " ".join(str(about.get("method") or folder.resolve().name).replace("|", "/").split())
    judges = tuple(map(str, about["judges_used"]))
    return Method(name, name, judges, store.digest_file(file), None, paths)


def _find_faults(about: Any, folder: Path, tasks: TaskSet) -> Iterator[str]:
    """What is wrong with a manifest, one sentence each."""
    try:
        rows = [(str(row["source"]), str(row["target"]), Path(row["path"])) for row in about["edits"]]
    except (KeyError, TypeError) as error:
        lacks = f"lacks {error}" if isinstance(error, KeyError) else "not a JSON object with a list of edits"
        yield f"{lacks}; see `emolib evaluate --help`"
        return
    if not isinstance(about.get("judges_used"), list):
        yield 'does not say which judges the method asks; add "judges_used": [] for none'
    listed = {}
    for source, target, path in rows:
        if source not in tasks.ids:
            yield f"{tasks.name} has no source {source!r}; these edits are of other data"
        if (source, target) in listed:
            yield f"the edit of {source} to {target} is listed twice"
        if path.is_absolute() or ".." in path.parts:
            yield f"{str(path)!r} leaves the folder; give paths below it"
        listed[source, target] = folder / path
    due = [(task.id, change.name) for task, change in tasks.edits]
    missing = [pair for pair in due if pair not in listed]
    if missing:
        first = " to ".join(missing[0])
        yield (
            f"{len(missing)} of {len(due)} edits are missing, the first is {first};"
            " `emolib evaluate --list` names all"
        )
    yield from (f"{listed[pair]} is listed, but not there" for pair in due if not listed[pair].is_file())


# What is inside an editor: it decides which judges are asked, and names the edits.


def list_parts(value: Any) -> Iterator[Any]:
    """List the backbones, judges, networks and tensors that an editor holds, however deep in its fields."""
    if isinstance(value, (Judge, torch.nn.Module, Tensor)) or hasattr(value, "unet"):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from list_parts(getattr(value, field.name))
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from list_parts(item)


def digest_weights(part: Backbone | Judge | torch.nn.Module | Tensor) -> str:
    """Make 16 hexadecimal digits that stand for all parameters of a backbone, judge, network or tensor."""
    if isinstance(part, Tensor):
        values = [("", part)]
    else:
        networks = [part.network] if isinstance(part, Judge) else [part]
        networks = part.pipe.components.values() if hasattr(part, "pipe") else networks
        modules = [network for network in networks if isinstance(network, torch.nn.Module)]
        values = [pair for module in modules for pair in module.state_dict().items()]
    total = hashlib.sha256()
    for name, value in values:
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _plain(judge: str) -> str:
    """A judge's name however it was written: "data/judges/HeldOut" and "held-out" are "heldout"."""
    return re.sub(r"[^a-z0-9]", "", Path(judge).name.casefold())


def check_roles(methods: Sequence[Method], headline: str) -> None:
    """InputError if a method's loop asked the judge that gives the headline numbers, or two share a name."""
    names = [method.name for method in methods]
    faults = [
        f"method {method.name!r} asks the {headline} judge in its own loop, so that judge cannot score it;"
        " use the guide there, or leave the method out"
        for method in methods
        if _plain(headline) in map(_plain, method.judges_used)
    ]
    faults += [
        f"two methods are called {n!r}; give each a name of its own" for n in names if names.count(n) > 1
    ]
    if faults:
        raise InputError(faults[0])
