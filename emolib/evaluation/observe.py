"""One task measured: every picture decoded once, one pass of each judge, all numbers from those.

A row is a face of a change. Portraits have one face a picture; in scenes a face is cropped, and what concerns
the whole picture (background) is repeated on its rows, of which `first` marks one a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from emolib import images as pictures
from emolib.evaluation.tasks import Face, Task
from emolib.judges.emotion import Judge
from emolib.metrics import control as joint
from emolib.metrics import control as steering
from emolib.metrics import emotion, preservation, protocols, quality
from emolib.metrics.optional import Compare
from emolib.metrics.protocols import Comparison

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
    """A task's source (1, 3, H, W) and true answers (T, 3, H, W; None if unknown), and its faces."""

    task: Task
    source: Tensor
    truths: Tensor | None
    whole: bool
    side: int

    @cached_property
    def rows(self) -> list[tuple[int, Face]]:
        """(number of the change, face) of every row."""
        return [(t, face) for t, change in enumerate(self.task.changes) for face in change.faces]

    def faces(self, images: Tensor) -> Tensor:
        """(R, 3, h, w) faces of edits (T, 3, H, W), or of the one source (1, 3, H, W)."""
        index = [t if len(images) > 1 else 0 for t, _ in self.rows]
        if self.whole:
            return images[index]
        crops = [
            pictures.resize(pictures.crop(images[i, None], self._square(face)), self.side)
            for i, (_, face) in zip(index, self.rows, strict=True)
        ]
        return torch.cat(crops)

    def _square(self, face: Face) -> pictures.Box:
        return pictures.square_box(face.box, *self.source.shape[-2:], margin=pictures.FACE_MARGIN)

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


def decode(task: Task, *, whole: bool, side: int) -> Decoded:
    """Decode the source and the true answers, once for all methods. `side` is that of faces in scenes."""
    source = pictures.to_tensor(task.picture())
    truths = None
    if all(change.truth is not None for change in task.changes):
        truths = pictures.to_tensor([change.truth() for change in task.changes])
        protocols.check_sizes(truths, source, f"truth of {task.id}")
    return Decoded(task, source, truths, whole, side)


def reference(decoded: Decoded, instruments: Instruments) -> Arrays:
    """What the judges see in source and truth: (R, ...) arrays, the same for every method."""
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


def _viewed(
    decoded: Decoded, shown: Sequence[Tensor], known: Arrays, judge: Judge
) -> list[dict[str, Tensor]]:
    """`_view` of several sets of faces, each (R, 3, h, w), in one pass; not of source or truth bit for bit.

    Those were judged before. Again, in a batch of another size, the last digits would differ, and an
    untouched picture would have moved a little.
    """
    source = decoded.faces(decoded.source)
    truth = None if decoded.truths is None else decoded.faces(decoded.truths)
    found, new = [], []
    for images in shown:
        views = {part: torch.from_numpy(known[f"source_{part}"].copy()) for part in PARTS}
        unknown = ~_equal(images, source)
        if truth is not None:
            true = unknown & _equal(images, truth)
            for part, value in views.items():
                value[true] = torch.from_numpy(known[f"truth_{part}"])[true]
            unknown &= ~true
        found.append(views)
        new.append(unknown)
    fresh = torch.cat([images[unknown] for images, unknown in zip(shown, new, strict=True)])
    if len(fresh):
        for part, value in _view(judge, fresh).items():
            pieces = value.cpu().split([int(unknown.sum()) for unknown in new])
            for views, unknown, piece in zip(found, new, pieces, strict=True):
                views[part][unknown] = piece
    return found


def _equal(images: Tensor, others: Tensor) -> Tensor:
    return (images == others).flatten(1).all(1)


def measure(decoded: Decoded, edits: Tensor, known: Arrays, instruments: Instruments) -> Arrays:
    """Every column (R,) of a method's edits (T, 3, H, W), and `features` (R, D), `probs` (R, K)."""
    source, edit = decoded.faces(decoded.source), decoded.faces(edits)
    labels, rows = instruments.judge.labels, [face for _, face in decoded.rows]
    shown = (edit, quality.match_colours(edit, source))
    seen, recoloured = _viewed(decoded, shown, known, instruments.judge)
    # A bystander has no target, the judge need not know what they feel: their columns are taken out below.
    target = torch.tensor([labels.index(face.target) if face.target else 0 for face in rows])
    before = torch.from_numpy(known["source_probs"])
    faces = Comparison(edit, source, decoded.face_masks, seen["probs"], before, target, labels)
    columns = protocols.standard(faces)
    columns |= _picture_columns(decoded, edits, faces, instruments, columns)
    columns |= {
        "p_target": emotion.target_probability(faces.probs, target),
        "emo_s_colour": emotion.emotion_score(recoloured["probs"], before, target),
        "esmi": _esmi(faces),
    }
    wanted = torch.tensor([[face.valence, face.arousal] for face in rows])
    errors = emotion.affect_error(seen["affect"], wanted)
    columns["valence_error"], columns["arousal_error"] = errors.unbind(1)
    for label, judge in instruments.others.items():
        columns |= _second_opinion(label, judge, edit, known, decoded)
    if instruments.identity is not None:
        who = instruments.identity(edit, _boxes(decoded))
        columns["identity"] = preservation.cosine(who, torch.from_numpy(known["source_identity"]))
    if decoded.truths is not None:
        columns |= _against_truth(decoded, edit, source)
    columns = _bystanders_apart(columns, faces, decoded)
    found = {name: value.float().numpy() for name, value in columns.items()}
    return found | {"features": _array(seen["features"]), "probs": _array(faces.probs)}


def control(decoded: Decoded, edits: Tensor, again: Tensor, back: Tensor) -> Arrays:
    """Columns of edits (T, 3, H, W) made with another seed (`again`), and edited `back` to the source."""
    index = torch.tensor([t for t, _ in decoded.rows])
    columns = {
        "seed_spread": steering.seed_spread(torch.stack([edits, again])),
        "reversibility": steering.reversibility(back, decoded.source.expand_as(back)),
    }
    return {name: value[index].numpy() for name, value in columns.items()}


def _picture_columns(
    decoded: Decoded, edits: Tensor, faces: Comparison, instruments: Instruments, standard: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Columns of whole pictures, repeated on their faces: background, other protocols, optional ones."""
    index = torch.tensor([t for t, _ in decoded.rows])
    if decoded.whole:
        whole, columns, index = faces, {}, slice(None)
    else:
        asked = [(r, t) for r, (t, face) in enumerate(decoded.rows) if face.target is not None]
        first = [next(r for r, t in asked if t == wanted) for wanted in range(len(edits))]
        judged = (faces.probs[first], faces.source_probs[first], faces.target[first])
        source = decoded.source.expand_as(edits)
        whole = Comparison(edits, source, decoded.picture_masks, *judged, faces.labels)
        of_pictures = protocols.standard(whole)
        columns = {name: of_pictures[name] for name in standard if name.startswith("background")}
    for name in instruments.protocols:
        if name != "standard":
            columns |= protocols.PROTOCOLS[name](whole)
    columns |= {name: compare(whole) for name, compare in instruments.extra.items()}
    return {name: value[index] for name, value in columns.items()}


def _esmi(c: Comparison) -> Tensor:
    change = (c.edit - c.source).abs().mean(1)
    inside, total = (change * c.mask).sum((1, 2)), change.sum((1, 2))
    before, after = (emotion.kl_divergence(c.target, p) for p in (c.source_probs, c.probs))
    return torch.from_numpy(joint.esmi(before, after, inside, total))


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


def _bystanders_apart(columns: dict[str, Tensor], faces: Comparison, decoded: Decoded) -> dict[str, Tensor]:
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
