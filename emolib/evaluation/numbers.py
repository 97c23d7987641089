"""Turn rows into numbers: every column of every method with n and a 95 % interval, whole and by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from emolib.emotions import spaces
from emolib.emotions.sets import MIKELS
from emolib.evaluation.columns import PAIRED, get_column
from emolib.evaluation.tasks import TaskSet
from emolib.metrics import control, emotion, estimates, protocols, quality
from emolib.metrics.estimates import Estimate

FACE_SIZES = (32, 64, 128)  # px, limits of the longer side's classes
BREAKDOWNS = ("target", "distance", "people", "size")
MATCHED = ("psnr", "ssim", "identity", "background_psnr", "truth_psnr")
AT = 0.3  # Emo-S at which methods with a strength are compared
Numbers = dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class Rows:
    """What the rows (N,) of every method have in common: an edited face each.

    reference  arrays of `measure_reference`, one task after the other
    threshold  identity cosine from which two faces are one person's
    """

    tasks: TaskSet
    reference: Mapping[str, np.ndarray]
    threshold: float = float("nan")

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Columns (N,): who, from what, to what; valence and arousal are the target's."""
        rows = [
            {
                "group": task.group,
                "picture": f"{task.id}>{change.name}",
                "target": person.emotion or "",
                "first": person is change.edited[0],
                "edited": person.emotion is not None,
                "distance": _name_distance(person.source_emotion, person.emotion or ""),
                "people": str(len(change.people)),
                "size": _name_size(person.box),
                "valence": change.affect[0],
                "arousal": change.affect[1],
            }
            for task, change in self.tasks.edits
            for person in change.people
        ]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def __getitem__(self, name: str) -> np.ndarray:
        """A column (N,) of the table."""
        return self.table[name]

    def find_threshold(self) -> float:
        """Find the identity cosine that 1 % of pairs of sources of different people reach."""
        unit = self.reference["source_identity"].astype(np.float64)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        apart = (unit @ unit.T)[self["group"][:, None] != self["group"][None]]
        return float(np.quantile(apart, 0.99)) if len(apart) else float("nan")

    def list_parts(self) -> dict[str, dict[str, np.ndarray]]:
        """List the breakdowns: name -> value -> (N,) bool; those with one value are left out."""
        parts = {}
        for name in BREAKDOWNS:
            order = sorted(set(self[name][self["edited"]].tolist()), key=_order)
            if len(order) > 1:
                parts[name] = {value: self["edited"] & (self[name] == value) for value in order}
        return parts


def _name_distance(source: str | None, target: str) -> str:
    """The wheel distance in degrees, as text; what has no place on the wheel is named."""
    if source not in MIKELS or target not in MIKELS:
        return "to neutral" if target == "neutral" else f"from {source or 'unknown'}"
    return f"{spaces.wheel_distance(source, target):.0f}"


def _name_size(box: Sequence[int]) -> str:
    side = max(box[2] - box[0], box[3] - box[1])
    above = f"{FACE_SIZES[-1]} px and more"
    return next((f"under {limit} px" for limit in FACE_SIZES if side < limit), above)


def _order(value: str) -> tuple:
    number = "".join(c for c in value if c.isdigit())
    labels = ("neutral", *MIKELS)
    place = labels.index(value) if value in labels else len(labels)
    return (value.endswith("more"), float(number) if number else 1e9, place, value)


@dataclass(frozen=True, eq=False)
class Scores:
    """One method's rows: `columns` (N,), `features` (N, D), `probs` (N, K), and what all methods share."""

    rows: Rows
    columns: Mapping[str, np.ndarray]
    features: np.ndarray = field(repr=False)
    probs: np.ndarray = field(repr=False)
    labels: tuple[str, ...] = ()

    def average(self, keep: np.ndarray | None = None, *, sets: bool = True) -> Numbers:
        """Average every column over the rows `keep` (N,) bool; `sets` adds the numbers of a whole set."""
        keep = np.ones(len(self.probs), dtype=bool) if keep is None else keep
        numbers = {name: self._average_column(name, keep) for name in self.columns}
        edited = keep & self.rows["edited"]
        if edited.any():
            numbers |= self._combine(edited)
        if sets:
            numbers |= self._compare_sets(np.flatnonzero(edited))
        return {name: value for name, value in numbers.items() if value is not None}

    def _average_column(self, name: str, keep: np.ndarray) -> Estimate | None:
        about, values = get_column(name), self.columns[name]
        use = keep & ~np.isnan(values)
        if about.picture:
            use &= self.rows["first"]
        measure = estimates.rate if about.kind == "rate" else estimates.mean
        return measure(values[use], groups=self.rows["group"][use]) if use.any() else None

    def _combine(self, keep: np.ndarray) -> dict[str, Estimate | None]:
        """Columns made of several others, row by row."""
        rows, groups = self.rows, self.rows["group"][keep]
        own = {name: values[keep] for name, values in self.columns.items()}
        numbers: dict[str, Estimate | None] = {}
        if estimates.mean(own["emo_s"], groups=groups).low > 0:  # else there is nothing that could be kept
            numbers["emo_s_kept"] = _finite_ratio(own["emo_s_colour"], own["emo_s"], groups)
        if "truth_probs" in rows.reference:
            hits = rows.reference["truth_probs"].argmax(1) == self._targets
            numbers["emo_a_share"] = _finite_ratio(own["emo_a"], hits[keep], groups)
            for name in ("valence", "arousal"):
                affect = rows[name][keep]
                if not np.isnan(affect).any():
                    error = emotion.constant_error(affect)
                    numbers[f"{name}_constant"] = estimates.mean(error, groups=groups)
        if "identity" in own:
            numbers["same_person"] = estimates.rate(own["identity"] >= rows.threshold, groups=groups)
        numbers |= self._combine_protocols(own, keep)
        if not np.isnan(own["background_psnr"]).all():
            kept = own.get("identity"), own["background_psnr"]
            success = control.success(own["emo_a"], *kept, identity_from=rows.threshold)
            numbers["joint"] = estimates.rate(success, groups=groups)
        if not rows.tasks.whole:
            pictures = rows["picture"][keep]
            owner = groups[np.unique(pictures, return_index=True)[1]]
            numbers["all_faces"] = estimates.rate(emotion.all_faces(own["emo_a"], pictures), groups=owner)
        return numbers

    def _combine_protocols(self, own: Mapping[str, np.ndarray], keep: np.ndarray) -> dict[str, Estimate]:
        """Columns of the protocols "ffe" and "fed" that need identity, or the judge's view of the truth."""
        values: dict[str, np.ndarray] = {}
        if "ffe_confused" in own and "identity" in own:
            values["ffe_hes"] = protocols.harmonic_score(own["p_target"], own["identity"])
        if "fed_alignment" in own and "identity" in own:
            values["fed_fidelity"] = protocols.fidelity(own["ssim"], own["identity"])
        if "fed_alignment" in own and "truth_probs" in self.rows.reference:
            source, truth = (self.rows.reference[f"{name}_probs"][keep] for name in ("source", "truth"))
            values["fed_gain"] = protocols.expression_gain(source, self.probs[keep], truth)
        groups = self.rows["group"][keep]
        use = {name: ~np.isnan(column) for name, column in values.items()}
        return {
            name: estimates.mean(column[use[name]], groups=groups[use[name]])
            for name, column in values.items()
            if use[name].any()
        }

    @cached_property
    def _targets(self) -> np.ndarray:
        """(N,) positions of the targets among the labels; 0 for bystanders."""
        targets = self.rows["target"].tolist()
        return np.array([self.labels.index(target) if target else 0 for target in targets])

    def _compare_sets(self, index: np.ndarray) -> Numbers:
        """Distances of whole sets of features, of these rows, with jackknife intervals over people."""
        groups, target = self.rows["group"][index], self.rows["target"][index]
        edit, source = self.features[index], self.rows.reference["source_features"][index]
        counts = np.unique(groups, return_counts=True)[1]
        if len(counts) < 2 or (len(counts) == 2 and counts.min() < 2):
            return {}  # whoever is left out for the interval, two pictures have to remain
        measures: dict[str, Callable[[np.ndarray], float]] = {
            "diversity": lambda rows: _diversity(edit[rows], source[rows], target[rows])
        }
        if "truth_features" in self.rows.reference:
            truth = self.rows.reference["truth_features"][index]
            measures["frechet"] = lambda rows: quality.frechet(
                *map(quality.gaussian, (edit[rows], truth[rows]))
            )
            measures["kid"] = lambda rows: quality.kernel_distance(edit[rows], truth[rows])
        ends = {name: estimates.jackknife(measure, groups) for name, measure in measures.items()}
        if "frechet" in ends:  # of few people the normal interval reaches below 0, which a distance cannot
            value, low, high = ends["frechet"]
            ends["frechet"] = value, max(low, 0.0), high
        return {name: Estimate(*x, len(index)) for name, x in ends.items() if np.isfinite(x).all()}

    def compare(self, baseline: Scores) -> dict[str, tuple[Estimate, float]]:
        """Compare the columns of `PAIRED` with a baseline's: (paired difference, Wilcoxon's p)."""
        differences = {}
        for name in PAIRED:
            if name in self.columns and name in baseline.columns:
                a, b = self.columns[name], baseline.columns[name]
                use = ~(np.isnan(a) | np.isnan(b))
                if use.any():
                    pair, groups = (a[use], b[use]), self.rows["group"][use]
                    p = estimates.wilcoxon(*pair, groups=groups)
                    differences[name] = estimates.paired(*pair, groups=groups), p
        return differences

    def confusion(self) -> np.ndarray:
        """Count (K, K) the faces that were to change: row = target, column = judged."""
        edited = self.rows["edited"]
        target, judged = (torch.from_numpy(x[edited]) for x in (self._targets, self.probs.argmax(1)))
        return emotion.confusion(judged, target, len(self.labels)).numpy()


def _finite_ratio(values: np.ndarray, ceiling: np.ndarray, groups: np.ndarray) -> Estimate | None:
    ratio = estimates.ratio(values, ceiling, groups=groups)
    return ratio if np.isfinite(ratio.value) else None


def _diversity(edit: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """Mean over the targets of the diversity of their changes; NaN where no target has two."""
    change = [
        control.change_diversity(torch.from_numpy(edit[target == t]), torch.from_numpy(source[target == t]))
        for t in sorted(set(target.tolist()))
    ]
    return float(np.nanmean(change)) if not np.isnan(change).all() else float("nan")


def group_by_strength(names: Sequence[str]) -> dict[str, list[str]]:
    """Group methods "base@strength" by base, in order of strength, where there are three or more."""
    members: dict[str, dict[float, str]] = {}
    for name in names:
        base, _, strength = name.partition("@")
        with suppress(ValueError):  # a submission may be called anything
            if math.isfinite(float(strength)):
                members.setdefault(base, {})[float(strength)] = name
    return {base: [own[k] for k in sorted(own)] for base, own in members.items() if len(own) >= 3}


def fit_curve(members: Mapping[str, Scores]) -> Numbers:
    """Fit p_target along the strengths of "base@strength": Spearman's rho, smoothness, columns at Emo-S 0.3.

    Under protocol "ffe" also its `linearity`. "at_matched_psnr" and so on interpolate the means; their
    intervals resample people.
    """
    strengths = [float(name.partition("@")[2]) for name in members]
    methods = list(members.values())
    edited = methods[0].rows["edited"]
    groups = methods[0].rows["group"][edited]

    def stack(name: str) -> np.ndarray:
        return np.stack([method.columns[name] for method in methods], axis=1)[edited]

    response, curve = stack("p_target"), {}
    rows = {"spearman": control.rank_correlation(strengths, response)}
    if "ffe_confused" in methods[0].columns:
        rows["linearity"] = control.linearity(strengths, response)
    rows["smoothness"] = control.smoothness(response)
    for name, values in rows.items():
        use = ~np.isnan(values)
        if use.any():
            curve[name] = estimates.mean(values[use], groups=groups[use])
    for name in MATCHED:
        if all(name in method.columns for method in methods):
            curve[f"at_matched_{name}"] = _match(stack("emo_s"), stack(name), groups)
    return {name: value for name, value in curve.items() if value is not None}


def _match(score: np.ndarray, kept: np.ndarray, groups: np.ndarray) -> Estimate | None:
    use = np.isfinite(kept).all(1)  # a picture that a weak setting left untouched has no finite PSNR
    if not use.any():
        return None

    def read_off(rows: np.ndarray) -> float:
        return control.at_matched(score[use][rows].mean(0), kept[use][rows].mean(0), at=AT)

    value, low, high = estimates.jackknife(read_off, groups[use])
    return None if np.isnan(value + low + high) else Estimate(value, low, high, int(use.sum()))
