"""Measure one task: every picture is decoded once, each judge looks once, all numbers come from those.

A row is a face of a change. Portraits have one face a picture; in scenes a face is cropped, and what concerns
the whole picture (background) is repeated on its rows, of which `first` marks one a picture.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emolib import images as pictures
from emolib.data.framing import FACE_MARGIN
from emolib.editors.person import Person
from emolib.emotions import words
from emolib.evaluation import methods, store
from emolib.evaluation.tasks import Task, TaskSet
from emolib.judges import identity
from emolib.judges.emotion import Judge
from emolib.judges.faces import FRAMED, Face, align_face, find_points
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
        people = [person for _, person in self.rows]
        adjectives = [words.ADJECTIVES.get(x) for p in people for x in (p.emotion, p.source_emotion)]
        masks = [None if p.mask is None else _digest(np.asarray(p.mask)) for p in people]
        return store.make_key(repr(self.task), adjectives, masks, self.whole, _digest(self.source.numpy()))

    @cached_property
    def truth_key(self) -> str:
        """Stands for the true answers' pixels."""
        return "" if self.truths is None else _digest(self.truths.numpy())

    @cached_property
    def rows(self) -> list[tuple[int, Person]]:
        """(number of the change, person) of every row."""
        return [(t, person) for t, change in enumerate(self.task.changes) for person in change.people]

    @cached_property
    def change_of(self) -> Tensor:
        """(R,) number of every row's change."""
        return torch.tensor([t for t, _ in self.rows])

    @cached_property
    def bystander(self) -> Tensor:
        """(R,) bool: who is to stay as they are."""
        return torch.tensor([person.emotion is None for _, person in self.rows])

    @cached_property
    def squares(self) -> list[pictures.Box]:
        """The square of every row that is cut out of the picture."""
        size = self.source.shape[-2:]
        return [pictures.square_box(person.box, *size, margin=FACE_MARGIN) for _, person in self.rows]

    @cached_property
    def boxes(self) -> np.ndarray:
        """(R, 4) face boxes within the faces as `faces` cuts them."""
        boxes: Sequence = [person.box for _, person in self.rows]
        if not self.whole:
            boxes = [
                [(v - s[i % 2]) * self.side // (s[2] - s[0]) for i, v in enumerate(box)]
                for box, s in zip(boxes, self.squares, strict=True)
            ]
        return np.asarray(boxes).reshape(-1, 4).clip(0, None)

    def faces(self, images: Tensor) -> Tensor:
        """Cut out the (R, 3, h, w) faces of edits (T, 3, H, W), or of the one source (1, 3, H, W)."""
        images = images.expand(len(self.task.changes), -1, -1, -1)[self.change_of]
        if self.whole:
            return images
        crops = [pictures.crop(image[None], s) for image, s in zip(images, self.squares, strict=True)]
        return torch.cat([pictures.resize(crop, self.side) for crop in crops])

    @cached_property
    def _masks(self) -> list[Tensor]:
        """(H, W) bool of every row: the person's mask, else the box."""
        size = self.source.shape[-2:]
        masks = [(person.mask, person.box) for _, person in self.rows]
        return [
            preservation.box_mask([box], *size)[0] if mask is None else torch.as_tensor(mask) != 0
            for mask, box in masks
        ]

    @cached_property
    def face_masks(self) -> Tensor:
        """(R, h, w) bool on the faces: what is meant to change."""
        if self.whole:
            return torch.stack(self._masks)
        crops = [pictures.crop(m, square) for m, square in zip(self._masks, self.squares, strict=True)]
        size = (self.side, self.side)
        return torch.cat([F.interpolate(crop[None, None].float(), size)[0] > 0.5 for crop in crops])

    @cached_property
    def picture_masks(self) -> Tensor:
        """(T, H, W) bool: the union of the people that each change asks for."""
        union = torch.zeros(len(self.task.changes), *self.source.shape[-2:], dtype=torch.bool)
        for (t, person), mask in zip(self.rows, self._masks, strict=True):
            if person.emotion is not None:
                union[t] |= mask
        return union


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def decode_task(task: Task, *, whole: bool, side: int) -> Decoded:
    """Decode source and true answers, once for all methods. `side` is that of faces in scenes, px."""
    truths = None
    if all(change.truth is not None for change in task.changes):
        truths = pictures.to_tensor([change.truth() for change in task.changes])
    return Decoded(task, pictures.to_tensor(task.picture()), truths, whole, side)


def measure_reference(decoded: Decoded, instruments: Instruments) -> Arrays:
    """Measure what the judges see in source and truth: (R, ...) arrays, the same for every method."""
    source, boxes, same = decoded.faces(decoded.source), decoded.boxes, torch.arange(len(decoded.rows))
    if decoded.whole:  # the rows share one source face: look once, repeat what was seen
        source, boxes, same = source[:1], boxes[:1], same * 0
    k = len(source)
    shown = source if decoded.truths is None else torch.cat([source, decoded.faces(decoded.truths)])
    views = _view(instruments.judge, shown)
    reference = {f"source_{part}": value[:k][same] for part, value in views.items()}
    if decoded.truths is not None:
        reference |= {f"truth_{part}": value[k:] for part, value in views.items()}
    for label, judge in instruments.others.items():
        reference[f"source_probs@{label}"] = judge(source).probs[same]
    if instruments.identity is not None:
        reference["source_identity"] = instruments.identity(source, boxes)[same]
    return {name: _array(value) for name, value in reference.items()}


def _view(judge: Judge, images: Tensor) -> dict[str, Tensor]:
    """probs (B, K), features (B, D), affect (B, 2) of B faces, from one pass."""
    verdict, features = judge.describe(images)
    affect = torch.stack([verdict.valence, verdict.arousal], 1)
    return {"probs": verdict.probs, "features": features, "affect": affect}


def _view_new(
    decoded: Decoded, shown: Sequence[Tensor], reference: Arrays, judge: Judge
) -> list[dict[str, Tensor]]:
    """`_view` of several sets of faces, each (R, 3, h, w), in one pass; not of source or truth bit for bit.

    Those were judged before. Again, in a batch of another size, the last digits would differ, and an
    untouched picture would have moved a little.
    """
    source = decoded.faces(decoded.source)
    truth = source if decoded.truths is None else decoded.faces(decoded.truths)
    views, unseen = [], []
    for faces in shown:
        # Begin with what the source showed, put in what the truth showed, ...
        unseen.append(~_equal(faces, source) & ~_equal(faces, truth))
        true = ~_equal(faces, source) & _equal(faces, truth)
        view = {part: torch.from_numpy(reference[f"source_{part}"].copy()) for part in PARTS}
        if true.any():
            for part, value in view.items():
                value[true] = torch.from_numpy(reference[f"truth_{part}"])[true]
        views.append(view)
    # ... and let the judge look at all the others at once.
    fresh = torch.cat([faces[new] for faces, new in zip(shown, unseen, strict=True)])
    if len(fresh):
        for part, value in _view(judge, fresh).items():
            pieces = value.cpu().split([int(new.sum()) for new in unseen])
            for view, new, piece in zip(views, unseen, pieces, strict=True):
                view[part][new] = piece
    return views


def _equal(images: Tensor, others: Tensor) -> Tensor:
    return (images == others).flatten(1).all(1)


def measure_edits(decoded: Decoded, edits: Tensor, reference: Arrays, instruments: Instruments) -> Arrays:
    """Measure every column (R,) of a method's edits (T, 3, H, W), and `features` (R, D), `probs` (R, K)."""
    source, edit, labels = decoded.faces(decoded.source), decoded.faces(edits), instruments.judge.labels
    recoloured = quality.match_colours(edit, source)
    seen, seen_recoloured = _view_new(decoded, (edit, recoloured), reference, instruments.judge)
    # A bystander has no target, the judge need not know what they feel: their columns are taken out below.
    target = torch.tensor([labels.index(p.emotion) if p.emotion else 0 for _, p in decoded.rows])
    before = torch.from_numpy(reference["source_probs"])
    compared = Comparison(edit, source, decoded.face_masks, seen["probs"], before, target, labels)
    columns = protocols.standard(compared, background=decoded.whole)
    columns |= _measure_pictures(decoded, edits, compared, instruments)
    columns |= {
        "p_target": emotion.target_probability(compared.probs, target),
        "emo_s_colour": emotion.emotion_score(seen_recoloured["probs"], before, target),
        "esmi": _measure_esmi(compared),
    }
    affect = torch.tensor([decoded.task.changes[t].affect for t, _ in decoded.rows])
    columns["valence_error"], columns["arousal_error"] = (seen["affect"] - affect).abs().unbind(1)
    for name, judge in instruments.others.items():
        columns |= _ask_other(name, judge, compared, reference, decoded)
    if instruments.identity is not None:
        embedded = instruments.identity(edit, decoded.boxes)
        columns["identity"] = preservation.cosine(embedded, torch.from_numpy(reference["source_identity"]))
    if decoded.truths is not None:
        columns |= _compare_with_truth(compared, decoded.faces(decoded.truths))
    columns = _set_bystanders_apart(columns, compared, decoded)
    arrays = {name: _array(value) for name, value in columns.items()}
    return arrays | {"features": _array(seen["features"]), "probs": _array(compared.probs)}


def measure_control(decoded: Decoded, edits: Tensor, again: Tensor, back: Tensor) -> Arrays:
    """Measure edits (T, 3, H, W) against those of another seed (`again`) and those edited `back`."""
    columns = {
        "seed_spread": control.seed_spread(torch.stack([edits, again])),
        "reversibility": preservation.psnr(back, decoded.source),
    }
    return {name: value[decoded.change_of].numpy() for name, value in columns.items()}


def count_answers(decoded: Decoded, answers: Sequence[Mapping[str, Any]]) -> Arrays:
    """Count what a hosted service did not give, of whose records there is one for each edited face, in order:
    refused and lost (R,), 0 or 1; the source stands in for both."""
    columns, asked = {}, ~decoded.bystander.numpy()
    for name in ("refused", "lost"):
        columns[name] = np.full(len(asked), np.nan, dtype=np.float32)
        columns[name][asked] = [answer["status"] == name for answer in answers]
    return columns


def _measure_pictures(
    decoded: Decoded, edits: Tensor, faces: Comparison, instruments: Instruments
) -> dict[str, Tensor]:
    """Columns of whole pictures, repeated on their faces: background, other protocols and networks."""
    whole, columns, index = faces, {}, slice(None)
    if not decoded.whole:
        index, asked = decoded.change_of, ~decoded.bystander
        first = [int(torch.nonzero(asked & (index == t))[0]) for t in range(len(edits))]
        judged = (faces.probs[first], faces.source_probs[first], faces.target[first])
        source = decoded.source.expand_as(edits)
        whole = Comparison(edits, source, decoded.picture_masks, *judged, faces.labels)
        columns = protocols.measure_background(whole, preservation.ssim_map(edits, source))
    for name in instruments.protocols:
        if name != "standard":
            columns |= protocols.PROTOCOLS[name](whole)
    columns |= {name: compare(whole) for name, compare in instruments.extra.items()}
    return {name: value[index] for name, value in columns.items()}


def _measure_esmi(c: Comparison) -> Tensor:
    change = (c.edit - c.source).abs().mean(1)
    inside, total = (change * c.mask).sum((1, 2)), change.sum((1, 2))
    before, after = (emotion.kl_divergence(c.target, p) for p in (c.source_probs, c.probs))
    return torch.from_numpy(control.esmi(before, after, inside, total))


def _ask_other(
    name: str, judge: Judge, c: Comparison, reference: Arrays, decoded: Decoded
) -> dict[str, Tensor]:
    """Emo-A and Emo-S of another judge; NaN where it does not know the target."""
    before = torch.from_numpy(reference[f"source_probs@{name}"])
    probs = torch.where(_equal(c.edit, c.source)[:, None], before, judge(c.edit).probs.cpu())
    targets = [person.emotion or person.source_emotion for _, person in decoded.rows]
    knows = torch.tensor([label in judge.labels for label in targets])
    target = torch.tensor([judge.labels.index(label) if label in judge.labels else 0 for label in targets])
    columns = {
        f"emo_a@{name}": emotion.top_k(probs, target, 1).float(),
        f"emo_s@{name}": emotion.emotion_score(probs, before, target),
    }
    return {key: torch.where(knows, value, torch.nan) for key, value in columns.items()}


def _compare_with_truth(c: Comparison, truth: Tensor) -> dict[str, Tensor]:
    return {
        "truth_psnr": preservation.psnr(c.edit, truth),
        "truth_ssim": preservation.ssim(c.edit, truth),
        "truth_face_psnr": preservation.masked_psnr(c.edit, truth, c.mask),
        "beats_nothing": preservation.beats_doing_nothing(c.edit, c.source, truth).float(),
    }


def _set_bystanders_apart(columns: dict[str, Tensor], c: Comparison, decoded: Decoded) -> dict[str, Tensor]:
    """Bystanders' rows hold how much they changed and nothing else, all other rows everything else."""
    bystander = decoded.bystander
    columns = {name: torch.where(bystander, torch.nan, value.float()) for name, value in columns.items()}
    if not decoded.whole:
        moved = ((c.edit - c.source).abs().amax(1) * c.mask).amax((1, 2)) * 127.5
        changed = emotion.bystander_change(c.probs, c.source_probs)
        columns["bystander_emotion"] = torch.where(bystander, changed, torch.nan)
        columns["bystander_levels"] = torch.where(bystander, moved, torch.nan)
    return columns


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def lay_faces(judge: Judge) -> Judge:
    """Return the judge for faces framed as EmoFaces' are: one that wants them laid on five points has them
    laid by where that framing puts eyes and mouth. Not differentiable then."""
    if not judge.aligned:
        return judge

    def prepare(faces: Tensor) -> Tensor:
        points = FRAMED * [faces.shape[-1], faces.shape[-2]]
        laid = [align_face(face, points) for face in pictures.to_pil(faces)]
        return judge.prepare(pictures.to_tensor(laid).to(faces))

    other = copy.copy(judge)
    other.prepare = prepare
    return other


def import_identity(spec: str) -> tuple[Embed, float, str]:
    """Import an identity network (ArcFace, say) by module:attribute: (embedding, NaN, what it is).

    It gets faces, float32 (B, 3, H, W) in [-1, 1], cropped to each box, and gives (B, D). What it is holds a
    digest of its file and weights, so that another's numbers are not taken for its. InputError: not there.
    """
    network, source = methods.import_object(spec, "--identity")

    @torch.no_grad()
    def embed(faces: Tensor, boxes: np.ndarray) -> Tensor:
        pairs = zip(faces.split(1), boxes.tolist(), strict=True)
        return torch.cat([network(pictures.crop(face, tuple(box))) for face, box in pairs])

    weights = [methods.digest_weights(part) for part in methods.list_parts(network)]
    return embed, float("nan"), f"{spec} ({store.make_key(source, weights)[:8]})"


def load_photo_identity(name: str) -> tuple[Embed, float, str]:
    """Load an identity network of photographs (`judges.identity`): (embedding, threshold, what it is).

    Faces are laid by where their boxes have eyes and mouth. InputError: not here, broken."""
    network = identity.load_face_network(name)

    def embed(images: Tensor, boxes: np.ndarray) -> Tensor:
        places = [find_points(Face(tuple(box))) for box in boxes.tolist()]
        return network(pictures.to_tensor(list(map(align_face, pictures.to_pil(images), places))))

    return embed, network.threshold, name


def load_fisherfaces(tasks: TaskSet, cache: Path) -> tuple[Embed, float, str]:
    """Load Fisherfaces of EmoFaces' train people, kept in `cache`: (embedding, threshold, what it is).

    OSError or InputError where the data has no train and val portraits beside it."""
    if tasks.folder is None:
        raise InputError(f"{tasks.name}: needs EmoFaces' train people, or --identity module:attribute")
    files = [tasks.folder / f"portraits-{split}.parquet" for split in ("train", "val")]
    key = store.make_key(store.VERSION, tasks.size, *map(store.digest_file, files))
    path = cache / f"fisherfaces-{key}.entry"
    fitted = store.read_arrays(path)
    if fitted is None:
        model, people = identity.fit_on_emofaces(tasks.folder, tasks.size)
        fitted = {"mean": model.mean.numpy(), "axes": model.axes.numpy()}
        fitted |= {"threshold": np.array(model.threshold), "people": np.array(people)}
        store.write_arrays(path, fitted)
    mean, axes = (torch.from_numpy(fitted[name]) for name in ("mean", "axes"))
    model = identity.Fisherfaces(mean, axes, float(fitted["threshold"]))
    about = f"Fisherfaces of {int(fitted['people'])} train people, {axes.shape[1]} directions"
    return lambda faces, boxes: model(identity.crop_faces(faces, boxes)), model.threshold, about
