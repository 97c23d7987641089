"""Measure one task: every picture is decoded once, each judge looks once, all numbers come from those.

A row is a face of a change. Portraits have one face a picture; in scenes a face is cropped, and what concerns
the whole picture (background) is repeated on its rows, of which `first` marks one a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emolib import images as pictures
from emolib.diffusion.presets import FACE_MARGIN
from emolib.emotions import words
from emolib.evaluation import methods, store
from emolib.evaluation.tasks import Face, Task, TaskSet
from emolib.judges import identity
from emolib.judges.emotion import Judge
from emolib.metrics import control, emotion, preservation, protocols, quality
from emolib.metrics.optional import Compare
from emolib.metrics.protocols import Comparison
from emolib.runtime import InputError

Arrays = dict[str, np.ndarray]
PARTS = ("probs", "features", "affect")  # of what a judge sees in a face
Embed = Callable[[Tensor, np.ndarray], Tensor]
"""`embed(pictures (B, 3, H, W), face boxes (B, 4)) -> (B, D)`: who is it?"""


@dataclass(frozen=True)
class Instruments:
    """What measures: the headline judge, others, an identity embedding, protocols, optional columns."""

    judge: Judge
    others: Mapping[str, Judge] = field(default_factory=dict)
    identity: Embed | None = None
    protocols: tuple[str, ...] = ("standard",)
    extra: Mapping[str, Compare] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Decoded:
    """A task's source (1, 3, H, W) and true answers (T, 3, H, W; None if unknown), and its faces.

    whole  the picture is one face as it is, else faces are cropped and brought to `side` px
    """

    task: Task
    source: Tensor
    truths: Tensor | None
    whole: bool
    side: int

    @cached_property
    def key(self) -> str:
        """Stands for all that the task gives an editor: pixels, boxes, masks, emotions and their words."""
        faces = [face for change in self.task.changes for face in change.faces]
        told = [words.ADJECTIVES.get(name) for face in faces for name in (face.emotion, face.target)]
        masks = [None if face.mask is None else _digest(np.asarray(face.mask)) for face in faces]
        return store.make_key(repr(self.task), told, masks, self.whole, _digest(self.source.numpy()))

    @cached_property
    def truth_key(self) -> str:
        """Stands for the true answers' pixels."""
        return "" if self.truths is None else _digest(self.truths.numpy())

    @cached_property
    def rows(self) -> list[tuple[int, Face]]:
        """(number of the change, face) of every row."""
        return [(t, face) for t, change in enumerate(self.task.changes) for face in change.faces]

    def faces(self, images: Tensor) -> Tensor:
        """Cut out the (R, 3, h, w) faces of edits (T, 3, H, W), or of the one source (1, 3, H, W)."""
        index = [t if len(images) > 1 else 0 for t, _ in self.rows]
        if self.whole:
            return images[index]
        crops = [
            pictures.resize(pictures.crop(images[i, None], self._square(face)), self.side)
            for i, (_, face) in zip(index, self.rows, strict=True)
        ]
        return torch.cat(crops)

    def _square(self, face: Face) -> pictures.Box:
        return pictures.square_box(face.box, *self.source.shape[-2:], margin=FACE_MARGIN)

    def _full_mask(self, face: Face) -> Tensor:
        height, width = self.source.shape[-2:]
        if face.mask is not None:
            return torch.as_tensor(face.mask) != 0
        return preservation.box_mask([face.box], height, width)[0]

    @cached_property
    def face_masks(self) -> Tensor:
        """(R, h, w) bool on the faces: what is meant to change."""
        masks = [self._full_mask(face) for _, face in self.rows]
        if self.whole:
            return torch.stack(masks)
        cut = [pictures.crop(m, self._square(f)) for m, (_, f) in zip(masks, self.rows, strict=True)]
        size = (self.side, self.side)
        return torch.cat([torch.nn.functional.interpolate(m[None, None].float(), size)[0] > 0.5 for m in cut])

    @cached_property
    def picture_masks(self) -> Tensor:
        """(T, H, W) bool: the union of the people that each change asks for."""
        union = torch.zeros(len(self.task.changes), *self.source.shape[-2:], dtype=torch.bool)
        for t, face in self.rows:
            if face.target is not None:
                union[t] |= self._full_mask(face)
        return union


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def decode_task(task: Task, *, whole: bool, side: int) -> Decoded:
    """Decode source and true answers, once for all methods. `side` is that of faces in scenes, px."""
    source = pictures.to_tensor(task.picture())
    truths = None
    if all(change.truth is not None for change in task.changes):
        truths = pictures.to_tensor([change.truth() for change in task.changes])
        store.check_sizes(truths, source, f"truth of {task.id}")
    return Decoded(task, source, truths, whole, side)


def measure_reference(decoded: Decoded, instruments: Instruments) -> Arrays:
    """Measure what the judges see in source and truth: (R, ...) arrays, the same for every method."""
    source, boxes, n = decoded.faces(decoded.source), _boxes(decoded), len(decoded.rows)
    if decoded.whole:  # the rows share one source face: look once, repeat what was seen
        source, boxes = source[:1], boxes[:1]
    k, same = len(source), torch.zeros(n, dtype=torch.long) if decoded.whole else torch.arange(n)
    shown = source if decoded.truths is None else torch.cat([source, decoded.faces(decoded.truths)])
    views = _view(instruments.judge, shown)
    found = {f"source_{part}": value[:k][same] for part, value in views.items()}
    if decoded.truths is not None:
        found |= {f"truth_{part}": value[k:] for part, value in views.items()}
    for label, judge in instruments.others.items():
        found[f"source_probs@{label}"] = judge(source).probs[same]
    if instruments.identity is not None:
        found["source_identity"] = instruments.identity(source, boxes)[same]
    return {name: _array(value) for name, value in found.items()}


def _view(judge: Judge, images: Tensor) -> dict[str, Tensor]:
    """probs (B, K), features (B, D), affect (B, 2) of B faces, from one pass."""
    verdict, features = judge.describe(images)
    affect = torch.stack([verdict.valence, verdict.arousal], 1)
    return {"probs": verdict.probs, "features": features, "affect": affect}


def _view_new(
    decoded: Decoded, shown: Sequence[Tensor], known: Arrays, judge: Judge
) -> list[dict[str, Tensor]]:
    """`_view` of several sets of faces, each (R, 3, h, w), in one pass; not of source or truth bit for bit.

    Those were judged before. Again, in a batch of another size, the last digits would differ, and an
    untouched picture would have moved a little.
    """
    source = decoded.faces(decoded.source)
    truth = None if decoded.truths is None else decoded.faces(decoded.truths)
    views, new = [], []
    for faces in shown:
        # Begin with what the source showed, put in what the truth showed, ...
        view = {part: torch.from_numpy(known[f"source_{part}"].copy()) for part in PARTS}
        unknown = ~_equal(faces, source)
        if truth is not None:
            true = unknown & _equal(faces, truth)
            for part, value in view.items():
                value[true] = torch.from_numpy(known[f"truth_{part}"])[true]
            unknown &= ~true
        views.append(view)
        new.append(unknown)
    # ... and let the judge look at all the others at once.
    fresh = torch.cat([faces[unknown] for faces, unknown in zip(shown, new, strict=True)])
    if len(fresh):
        for part, value in _view(judge, fresh).items():
            pieces = value.cpu().split([int(unknown.sum()) for unknown in new])
            for view, unknown, piece in zip(views, new, pieces, strict=True):
                view[part][unknown] = piece
    return views


def _equal(images: Tensor, others: Tensor) -> Tensor:
    return (images == others).flatten(1).all(1)


def measure_edits(decoded: Decoded, edits: Tensor, known: Arrays, instruments: Instruments) -> Arrays:
    """Measure every column (R,) of a method's edits (T, 3, H, W), and `features` (R, D), `probs` (R, K)."""
    source, edit = decoded.faces(decoded.source), decoded.faces(edits)
    labels, faces = instruments.judge.labels, [face for _, face in decoded.rows]
    recoloured = quality.match_colours(edit, source)
    seen, seen_recoloured = _view_new(decoded, (edit, recoloured), known, instruments.judge)
    # A bystander has no target, the judge need not know what they feel: their columns are taken out below.
    target = torch.tensor([labels.index(face.target) if face.target else 0 for face in faces])
    before = torch.from_numpy(known["source_probs"])
    compared = Comparison(edit, source, decoded.face_masks, seen["probs"], before, target, labels)
    columns = protocols.standard(compared, background=decoded.whole)
    columns |= _measure_pictures(decoded, edits, compared, instruments)
    columns |= {
        "p_target": emotion.target_probability(compared.probs, target),
        "emo_s_colour": emotion.emotion_score(seen_recoloured["probs"], before, target),
        "esmi": _esmi(compared),
    }
    affect = torch.tensor([[face.valence, face.arousal] for face in faces])
    columns["valence_error"], columns["arousal_error"] = (seen["affect"] - affect).abs().unbind(1)
    for name, judge in instruments.others.items():
        columns |= _second_opinion(name, judge, edit, known, decoded)
    if instruments.identity is not None:
        embedded = instruments.identity(edit, _boxes(decoded))
        columns["identity"] = preservation.cosine(embedded, torch.from_numpy(known["source_identity"]))
    if decoded.truths is not None:
        columns |= _against_truth(decoded, edit, source)
    columns = _set_bystanders_apart(columns, compared, decoded)
    arrays = {name: _array(value) for name, value in columns.items()}
    return arrays | {"features": _array(seen["features"]), "probs": _array(compared.probs)}


def measure_control(decoded: Decoded, edits: Tensor, again: Tensor, back: Tensor) -> Arrays:
    """Measure edits (T, 3, H, W) against those of another seed (`again`) and those edited `back`."""
    index = torch.tensor([t for t, _ in decoded.rows])
    columns = {
        "seed_spread": control.seed_spread(torch.stack([edits, again])),
        "reversibility": preservation.psnr(back, decoded.source.expand_as(back)),
    }
    return {name: value[index].numpy() for name, value in columns.items()}


def _measure_pictures(
    decoded: Decoded, edits: Tensor, faces: Comparison, instruments: Instruments
) -> dict[str, Tensor]:
    """Columns of whole pictures, repeated on their faces: background, other protocols and networks."""
    whole, columns, index = faces, {}, slice(None)
    if not decoded.whole:
        index = torch.tensor([t for t, _ in decoded.rows])
        asked = [(r, t) for r, (t, face) in enumerate(decoded.rows) if face.target is not None]
        first = [next(r for r, t in asked if t == change) for change in range(len(edits))]
        judged = (faces.probs[first], faces.source_probs[first], faces.target[first])
        source = decoded.source.expand_as(edits)
        whole = Comparison(edits, source, decoded.picture_masks, *judged, faces.labels)
        columns = protocols.measure_background(whole, preservation.ssim_map(edits, source))
    for name in instruments.protocols:
        if name != "standard":
            columns |= protocols.PROTOCOLS[name](whole)
    columns |= {name: compare(whole) for name, compare in instruments.extra.items()}
    return {name: value[index] for name, value in columns.items()}


def _esmi(c: Comparison) -> Tensor:
    change = (c.edit - c.source).abs().mean(1)
    inside, total = (change * c.mask).sum((1, 2)), change.sum((1, 2))
    before, after = (emotion.kl_divergence(c.target, p) for p in (c.source_probs, c.probs))
    return torch.from_numpy(control.esmi(before, after, inside, total))


def _second_opinion(
    name: str, judge: Judge, edit: Tensor, known: Arrays, decoded: Decoded
) -> dict[str, Tensor]:
    """Emo-A and Emo-S of another judge; NaN where it does not know the target."""
    before = torch.from_numpy(known[f"source_probs@{name}"])
    untouched = _equal(edit, decoded.faces(decoded.source))[:, None]
    probs = torch.where(untouched, before, judge(edit).probs.cpu())
    wanted = [face.target or face.emotion for _, face in decoded.rows]
    there = torch.tensor([label in judge.labels for label in wanted])
    target = torch.tensor([judge.labels.index(label) if label in judge.labels else 0 for label in wanted])
    columns = {
        f"emo_a@{name}": emotion.top_k(probs, target, 1).float(),
        f"emo_s@{name}": emotion.emotion_score(probs, before, target),
    }
    return {key: torch.where(there, value, torch.nan) for key, value in columns.items()}


def _against_truth(decoded: Decoded, edit: Tensor, source: Tensor) -> dict[str, Tensor]:
    truth = decoded.faces(decoded.truths)
    return {
        "truth_psnr": preservation.psnr(edit, truth),
        "truth_ssim": preservation.ssim(edit, truth),
        "truth_face_psnr": preservation.masked_psnr(edit, truth, decoded.face_masks),
        "beats_nothing": preservation.beats_doing_nothing(edit, source, truth).float(),
    }


def _set_bystanders_apart(
    columns: dict[str, Tensor], faces: Comparison, decoded: Decoded
) -> dict[str, Tensor]:
    """Bystanders' rows hold how much they changed and nothing else, all other rows everything else."""
    bystander = torch.tensor([face.target is None for _, face in decoded.rows])
    columns = {name: torch.where(bystander, torch.nan, value.float()) for name, value in columns.items()}
    if not decoded.whole:
        moved = ((faces.edit - faces.source).abs().amax(1) * faces.mask).amax((1, 2)) * 127.5
        changed = emotion.bystander_change(faces.probs, faces.source_probs)
        columns["bystander_emotion"] = torch.where(bystander, changed, torch.nan)
        columns["bystander_levels"] = torch.where(bystander, moved, torch.nan)
    return columns


def _boxes(decoded: Decoded) -> np.ndarray:
    """(R, 4) face boxes within the faces as `Decoded.faces` cuts them."""
    boxes: Sequence = [face.box for _, face in decoded.rows]
    if not decoded.whole:
        squares = [decoded._square(face) for _, face in decoded.rows]
        boxes = [
            [(v - s[i % 2]) * decoded.side // (s[2] - s[0]) for i, v in enumerate(box)]
            for box, s in zip(boxes, squares, strict=True)
        ]
    return np.asarray(boxes).reshape(-1, 4).clip(0, None)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def import_identity(spec: str) -> tuple[Embed, float, str]:
    """Import an identity network (ArcFace, say) by module:attribute: (embedding, NaN, what it is).

    It gets faces, float32 (B, 3, H, W) in [-1, 1], cropped to each box, and gives (B, D). What it is holds a
    digest of its file and weights, so that another network's numbers are not taken for its. InputError if it
    cannot be imported.
    """
    network, source = methods.import_object(spec, "--identity")

    @torch.no_grad()
    def embed(faces: Tensor, boxes: np.ndarray) -> Tensor:
        crops = [
            pictures.crop(face[None], tuple(box)) for face, box in zip(faces, boxes.tolist(), strict=True)
        ]
        return torch.cat([network(crop) for crop in crops])

    weights = [methods.digest_weights(part) for part in methods.list_parts(network)]
    return embed, float("nan"), f"{spec} ({store.make_key(source, weights)[:8]})"


def load_fisherfaces(todo: TaskSet, cache: Path) -> tuple[Embed, float, str]:
    """Load Fisherfaces of EmoFaces' train people, kept in `cache`: (embedding, threshold, what it is).

    InputError where the data has no train and val portraits beside it."""
    if todo.folder is None:
        raise InputError(
            f"{todo.name}: identity needs EmoFaces' train people, or --identity module:attribute"
        )
    files = [todo.folder / f"portraits-{split}.parquet" for split in ("train", "val")]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: not there, so no identity embedding can be fitted")
    key = store.make_key(store.VERSION, todo.size, *map(store.digest_file, files))
    path = cache / f"fisherfaces-{key}.entry"
    known = store.read_arrays(path)
    if known is None:
        model, people = identity.fit_on_emofaces(todo.folder, todo.size)
        known = {"mean": model.mean.numpy(), "axes": model.axes.numpy()}
        known |= {"threshold": np.array(model.threshold), "people": np.array(people)}
        store.write_arrays(path, known)
    mean, axes = (torch.from_numpy(known[name]) for name in ("mean", "axes"))
    model = identity.Fisherfaces(mean, axes, float(known["threshold"]))
    about = f"Fisherfaces of {int(known['people'])} train people, {axes.shape[1]} directions"
    return lambda faces, boxes: model(identity.crop_faces(faces, boxes)), model.threshold, about
