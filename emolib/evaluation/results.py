"""From rows to numbers: every column of every method with n and a 95 % interval, whole and by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from emolib.emotions import spaces
from emolib.emotions.sets import MIKELS
from emolib.evaluation.columns import PAIRED, column
from emolib.evaluation.tasks import TaskSet
from emolib.metrics import control, emotion, estimates, quality
from emolib.metrics import control as joint
from emolib.metrics.estimates import Estimate

FACE_SIZES = (32, 64, 128)  # px, limits of the longer side's classes
Numbers = dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows (N,) of every method have in common: an edited face each.

    known  arrays of `observe.reference`, one after the other
    """

    tasks: TaskSet
    known: Mapping[str, np.ndarray]
    threshold: float = float("nan")

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Columns named as in `FIELDS`, (N,) each; valence and arousal are the target's."""
        out: dict[str, list] = {name: [] for name in FIELDS}
        for task in self.tasks.tasks:
            for change in task.changes:
                for face in change.faces:
                    wanted = face.target or ""
                    values = {
                        "group": task.group,
                        "picture": f"{task.id}>{change.name}",
                        "source": face.emotion or "unknown",
                        "target": wanted,
                        "first": face is change.asked[0],
                        "asked": face.target is not None,
                        "distance": _distance(face.emotion, wanted),
                        "people": str(len(change.faces)),
                        "size": _size(face.box),
                        "valence": face.valence,
                        "arousal": face.arousal,
                    }
                    for name, value in values.items():
                        out[name].append(value)
        return {name: np.array(values) for name, values in out.items()}

    def strangers(self) -> float:
        """The identity cosine that 1 % of pairs of sources of different people reach."""
        unit = self.known["source_identity"].astype(np.float64)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        group = self.table["group"]
        apart = (unit @ unit.T)[group[:, None] != group[None]]
        return float(np.quantile(apart, 0.99)) if len(apart) else float("nan")

    def parts(self) -> dict[str, dict[str, np.ndarray]]:
        """The breakdowns: name -> value -> (N,) bool; those with one value are left out."""
        asked = self.table["asked"]
        found = {}
        for name in ("target", "distance", "people", "size"):
            values = self.table[name]
            order = sorted(set(values[asked].tolist()), key=_order)
            if len(order) > 1:
                found[name] = {value: asked & (values == value) for value in order}
        return found


FIELDS = (
    "group", "picture", "source", "target", "first", "asked", "distance", "people", "size",
    "valence", "arousal",
)  # fmt: skip


def _distance(source: str | None, target: str) -> str:
    """The wheel distance in degrees, as text; what has no place on the wheel is named."""
    if source not in MIKELS or target not in MIKELS:
        return "to neutral" if target == "neutral" else f"from {source or 'unknown'}"
    return f"{spaces.wheel_distance(source, target):.0f}"


def _size(box: Sequence[int]) -> str:
    side = max(box[2] - box[0], box[3] - box[1])
    return next(
        (f"under {limit} px" for limit in FACE_SIZES if side < limit), f"{FACE_SIZES[-1]} px and more"
    )


def _order(value: str) -> tuple:
    number = "".join(c for c in value if c.isdigit())
    labels = ("neutral", *MIKELS)
    place = labels.index(value) if value in labels else len(labels)
    return (value.endswith("more"), float(number) if number else 1e9, place, value)


@dataclass(frozen=True, eq=False)
class Measured:
    """One method's rows: `columns` (N,), `features` (N, D), `probs` (N, K), and what all methods share."""

    rows: Rows
    columns: Mapping[str, np.ndarray]
    features: np.ndarray = field(repr=False)
    probs: np.ndarray = field(repr=False)
    labels: tuple[str, ...] = ()

    def numbers(self, keep: np.ndarray | None = None, *, sets: bool = True) -> Numbers:
        """Every column over the rows `keep` (N,) bool; `sets` also those that are of a whole set."""
        keep = np.ones(len(self.probs), dtype=bool) if keep is None else keep
        found = {name: self._average(name, keep) for name in self.columns}
        found |= self._sums(keep)
        if sets:
            found |= self._sets(keep)
        return {name: value for name, value in found.items() if value is not None}

    def _average(self, name: str, keep: np.ndarray) -> Estimate | None:
        kind = column(name)
        values = self.columns[name]
        use = keep & ~np.isnan(values)
        if kind.picture:
            use &= self.rows.table["first"]
        if not use.any():
            return None
        measure = estimates.rate if kind.kind == "rate" else estimates.mean
        return measure(values[use], groups=self.rows.table["group"][use])

    def _sums(self, keep: np.ndarray) -> dict[str, Estimate | None]:
        """Columns made of several others, row by row."""
        keep = keep & self.rows.table["asked"]
        if not keep.any():
            return {}
        groups = self.rows.table["group"][keep]
        own = {name: values[keep] for name, values in self.columns.items()}
        found: dict[str, Estimate | None] = {}
        if estimates.mean(own["emo_s"], groups=groups).low > 0:  # else there is nothing that could be kept
            found["emo_s_kept"] = _ratio(own["emo_s_colour"], own["emo_s"], groups)
        if "truth_probs" in self.rows.known:
            found["emo_a_share"] = _ratio(own["emo_a"], self._truth_hits[keep], groups)
            for name in ("valence", "arousal"):
                wanted = self.rows.table[name][keep]
                if not np.isnan(wanted).any():
                    error = emotion.constant_error(wanted)
                    found[f"{name}_constant"] = estimates.mean(error, groups=groups)
        if "identity" in own:
            found["same_person"] = estimates.rate(own["identity"] >= self.rows.threshold, groups=groups)
        if not np.isnan(own["background_psnr"]).all():
            kept = own.get("identity"), own["background_psnr"]
            whole = joint.success(own["emo_a"], *kept, identity_from=self.rows.threshold)
            found["joint"] = estimates.rate(whole, groups=groups)
        if not self.rows.tasks.whole:
            pictures = self.rows.table["picture"][keep]
            owner = groups[np.unique(pictures, return_index=True)[1]]
            found["all_faces"] = estimates.rate(emotion.all_faces(own["emo_a"], pictures), groups=owner)
        return found

    @cached_property
    def _truth_hits(self) -> np.ndarray:
        target = [self.labels.index(t) if t else 0 for t in self.rows.table["target"].tolist()]
        return self.rows.known["truth_probs"].argmax(1) == np.array(target)

    def _sets(self, keep: np.ndarray) -> dict[str, Estimate | None]:
        """Distances of whole sets of features, with jackknife intervals over people."""
        index = np.flatnonzero(keep & self.rows.table["asked"])
        groups, target = (self.rows.table[name][index] for name in ("group", "target"))
        edit, source = self.features[index], self.rows.known["source_features"][index]
        counts = np.unique(groups, return_counts=True)[1]
        if len(counts) < 2 or (len(counts) == 2 and counts.min() < 2):
            return {}  # whoever is left out for the interval, two pictures have to remain
        measures: dict[str, Callable[[np.ndarray], float]] = {
            "diversity": lambda rows: _diversity(edit[rows], source[rows], target[rows])
        }
        if "truth_features" in self.rows.known:
            truth = self.rows.known["truth_features"][index]
            measures["frechet"] = lambda rows: _frechet(edit[rows], truth[rows])
            measures["kid"] = lambda rows: quality.kernel_distance(edit[rows], truth[rows])
        found = {name: estimates.jackknife(measure, groups) for name, measure in measures.items()}
        if "frechet" in found:  # of few people the normal interval reaches below 0, which a distance cannot
            value, low, high = found["frechet"]
            found["frechet"] = value, max(low, 0.0), high
        whole = {name: numbers for name, numbers in found.items() if np.isfinite(numbers).all()}
        return {name: Estimate(*numbers, len(index)) for name, numbers in whole.items()}

    def against(self, baseline: Measured) -> dict[str, tuple[Estimate, float]]:
        """Paired difference to the baseline and Wilcoxon's p over people, for the columns of `PAIRED`."""
        found = {}
        for name in PAIRED:
            if name not in self.columns or name not in baseline.columns:
                continue
            a, b = self.columns[name], baseline.columns[name]
            use = ~(np.isnan(a) | np.isnan(b))
            if use.any():
                groups = self.rows.table["group"][use]
                difference = estimates.paired(a[use], b[use], groups=groups)
                found[name] = difference, estimates.wilcoxon(a[use], b[use], groups=groups)
        return found

    def confusion(self) -> np.ndarray:
        """(K, K) counts, row = target, column = judged, over the faces that were asked."""
        asked = self.rows.table["asked"]
        target = torch.tensor([self.labels.index(t) for t in self.rows.table["target"][asked].tolist()])
        judged = torch.from_numpy(self.probs[asked].argmax(1))
        return emotion.confusion(judged, target, len(self.labels)).numpy()


def _ratio(values: np.ndarray, ceiling: np.ndarray, groups: np.ndarray) -> Estimate | None:
    found = estimates.ratio(values, ceiling, groups=groups)
    return found if np.isfinite(found.value) else None


def _frechet(features: np.ndarray, truth: np.ndarray) -> float:
    return quality.frechet(quality.gaussian(features), quality.gaussian(truth))


def _diversity(edit: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """Mean over the targets of the diversity of their changes; NaN where no target has two."""
    change = [
        control.change_diversity(torch.from_numpy(edit[target == t]), torch.from_numpy(source[target == t]))
        for t in sorted(set(target.tolist()))
    ]
    return float(np.nanmean(change)) if not np.isnan(change).all() else float("nan")
