"""Map emotions to points: valence and arousal, the wheel, mixtures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from emolib.emotions import sets
from emolib.runtime import InputError, one_of

SCALES = {
    "signed": ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0)),
    "unit": ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
    "findingemo": ((-3.0, 3.0), (0.0, 6.0), (np.nan, np.nan)),
    "symmetric3": ((-3.0, 3.0), (-3.0, 3.0), (-3.0, 3.0)),
    "one-to-ten": ((1.0, 10.0), (1.0, 10.0), (1.0, 10.0)),
}
"""Ends of valence, arousal and dominance (FindingEmo has none).
unit: NRC-VAD v1; symmetric3: EmotiCrafter; one-to-ten: EMOTIC."""

AXES = ("valence", "arousal", "dominance")


def _read_points(text: str) -> dict[str, tuple[float, ...]]:
    """Read "happy 0.83 0.53, ..."."""
    entries = (entry.split() for entry in text.split(","))
    return {label: tuple(float(x) for x in point) for label, *point in entries}


_RUSSELL = """
excited 0.62 0.76, happy 0.83 0.53, pleased 0.77 0.19, relaxed 0.69 -0.45, peaceful 0.59 -0.26,
calm 0.56 -0.31, sleepy 0.28 -0.67, tired 0.04 -0.63, bored -0.66 -0.63, sad -0.65 -0.27,
miserable -0.70 -0.08, nervous -0.63 0.27, angry -0.52 0.58, frustrated -0.65 0.51, annoyed -0.55 0.41,
afraid -0.34 0.64, anxious -0.45 0.55, astonished 0.16 0.89
"""
RUSSELL = _read_points(_RUSSELL)
"""Russell 1980, fig. 4, as read off the figure for public code; valence and arousal in [-1, 1]."""

_RUSSELL_WORD = """
happiness happy, joy happy, excitement excited, contentment pleased, serenity peaceful, sadness sad,
grief miserable, boredom bored, anger angry, annoyance annoyed, fear afraid, apprehension anxious,
surprise astonished
"""
RUSSELL_WORD = dict(pair.split() for pair in _RUSSELL_WORD.split(","))
"""Which of Russell's words stands for a label; the others have no point in his figure."""

_OURS = """
neutral 0.0 0.0 0.0, amusement 0.8 0.5 0.4, awe 0.4 0.6 -0.4, contentment 0.7 -0.3 0.3,
excitement 0.7 0.8 0.3, anger -0.6 0.7 0.4, disgust -0.7 0.3 0.1, fear -0.7 0.8 -0.6,
sadness -0.7 -0.3 -0.5, happiness 0.8 0.4 0.4, surprise 0.1 0.8 -0.1, contempt -0.5 0.1 0.5,
serenity 0.6 -0.5 0.2, joy 0.8 0.4 0.4, ecstasy 0.9 0.8 0.3, acceptance 0.4 -0.3 0.1,
trust 0.5 -0.1 0.2, admiration 0.7 0.3 -0.1, apprehension -0.4 0.4 -0.4, terror -0.8 0.9 -0.7,
distraction -0.1 0.2 -0.2, amazement 0.4 0.9 -0.1, pensiveness -0.2 -0.4 -0.1, grief -0.9 0.1 -0.6,
boredom -0.4 -0.7 -0.2, loathing -0.8 0.6 0.2, annoyance -0.5 0.4 0.1, rage -0.7 0.9 0.5,
interest 0.4 0.2 0.2, anticipation 0.3 0.4 0.2, vigilance 0.0 0.6 0.3
"""
OURS = _read_points(_OURS)
"""Our rounded targets for faces and scenes, in [-1, 1], for every label of every set.

Placed by hand on Russell's circumplex (1980), checked against published word norms (NRC-VAD: Mohammad
2018; the lexicon itself is not shipped) and corrected where a word and a face differ: surprise is not
pleasant as such, contentment is calm. Judge them against FindingEmo's own means in lesson 01.
"""

SOURCES = ("ours", "russell", "findingemo-empirical")


def convert(values, source: str, target: str) -> np.ndarray:
    """Bring valence-arousal(-dominance) from one scale to another (names in `SCALES`): linear, ends to ends.

    `values`: (..., 2) or (..., 3), float64 out, same shape. InputError for an unknown scale, dominance on a
    scale without it, and values off the source scale.
    """
    x = np.asarray(values, dtype=np.float64)
    ends = [SCALES[one_of(name, SCALES, "scale")][: x.shape[-1]] for name in (source, target)]
    (low, high), (to_low, to_high) = (np.array(scale).T for scale in ends)
    inside = (x >= low - 1e-6) & (x <= high + 1e-6) & np.isfinite(to_low)
    if not inside.all():
        place = tuple(np.argwhere(~inside)[0])
        axis = place[-1]
        ends = f"[{low[axis]:g}, {high[axis]:g}]"
        raise InputError(f"{AXES[axis]} {x[place]:g} is outside {source!r}, {ends}, or {target!r} has none")
    return to_low + (x - low) / (high - low) * (to_high - to_low)


def va(label: str, source: str = "ours", *, table: Mapping[str, tuple[float, float]] | None = None):
    """Look up (valence, arousal) of a label in [-1, 1].

    `source`: "ours" (every label), "russell" (where he has a word) or "findingemo-empirical", which
    looks the label up in `table`, made by `empirical`. InputError if the source has no such label.
    """
    source = one_of(source, SOURCES, "valence-arousal source")
    if source == "findingemo-empirical":
        return tuple(float(x) for x in table[one_of(label, table or (), "label of `table`")][:2])
    if source == "russell":
        return RUSSELL[RUSSELL_WORD[one_of(label, RUSSELL_WORD, "label with a point in Russell's figure")]]
    return OURS[one_of(label, OURS, "label")][:2]


def dominance(label: str) -> float:
    """Dominance of a label in [-1, 1] (ours)."""
    return OURS[one_of(label, OURS, "label")][2]


def va_table(order: Iterable[str], source: str = "ours", *, table=None) -> np.ndarray:
    """float64 (len(order), 2): `va` of each label of a set."""
    return np.array([va(label, source, table=table) for label in order])


def empirical(
    labels: Iterable[str], valence, arousal, *, scale: str = "findingemo"
) -> dict[str, tuple[float, float]]:
    """Mean (valence, arousal) per label in [-1, 1], from annotations on `scale`; the `table` of `va`.

    The three arguments have one length. InputError for values off the scale.
    """
    names = np.asarray(list(labels))
    points = convert(np.stack([valence, arousal], axis=-1), scale, "signed")
    return {str(n): tuple(float(x) for x in points[names == n].mean(axis=0)) for n in np.unique(names)}


def nearest_label(point, order: Iterable[str] = sets.MIKELS, source: str = "ours", *, table=None) -> str:
    """The label of `order` closest to `point` = (valence, arousal) in [-1, 1]."""
    order = tuple(order)
    distance = np.linalg.norm(va_table(order, source, table=table) - np.asarray(point, dtype=float), axis=1)
    return order[int(distance.argmin())]


_CIRCLE = ("sadness", "fear", "excitement", "awe", "contentment", "amusement", "anger", "disgust")
ANGLES = {
    "plutchik": {label: 45.0 * sets.PLUTCHIK8.index(sets.petal(label)) for label in sets.PLUTCHIK24},
    "mikels": {label: 22.5 + 45 * i for i, label in enumerate(_CIRCLE)},
}
"""Degrees. plutchik: petals 45 degrees apart, all three intensities on one ray; mikels: the circle of
Yang et al. 2021 (circular-structured representation), whose neighbours are often confused."""


def angle(label: str, wheel: str = "mikels") -> float:
    """Degrees of a label on `wheel`, "plutchik" (24 labels) or "mikels". InputError if not on it."""
    known = ANGLES[one_of(wheel, ANGLES, "wheel")]
    return known[one_of(label, known, f"label on the {wheel} wheel")]


def wheel_distance(a: str, b: str, wheel: str = "mikels") -> float:
    """Degrees between two labels on `wheel`, in [0, 180]; 180 is opposite."""
    d = abs(angle(a, wheel) - angle(b, wheel)) % 360
    return min(d, 360 - d)


def distance_matrix(order: Iterable[str], wheel: str = "mikels") -> np.ndarray:
    """float64 (n, n): `wheel_distance` between all labels of `order`."""
    order = tuple(order)
    return np.array([[wheel_distance(a, b, wheel) for b in order] for a in order])


def _directions(order: tuple[str, ...], wheel: str) -> np.ndarray:
    """Unit vectors (n, 2); "neutral" is the centre."""
    theta = np.deg2rad([0.0 if x == "neutral" else angle(x, wheel) for x in order])
    here = np.array([x != "neutral" for x in order])
    return np.stack([np.cos(theta), np.sin(theta)], axis=1) * here[:, None]


class EmotionVector(NamedTuple):
    """`delta` from the source to the target state, and its length: how strong a change is asked for."""

    delta: np.ndarray
    length: float


def _normalised(weights, order: Iterable[str]) -> np.ndarray:
    """Distributions (..., n) from weights, or from a label of `order` (one-hot)."""
    order = tuple(order)
    if isinstance(weights, str):
        return np.eye(len(order))[sets.index(weights, order)]
    w = np.asarray(weights, dtype=np.float64)
    total = w.sum(axis=-1, keepdims=True)
    if not ((w >= 0).all() and (total > 0).all()):
        raise ValueError("emotion weights are non-negative and not all zero")
    return w / total


SPACES = ("va", "labels", "wheel")


def emotion_vector(
    source,
    target,
    order: Iterable[str] = sets.MIKELS,
    *,
    space: str = "va",
    va_source: str = "ours",
    wheel: str = "mikels",
) -> EmotionVector:
    """The way from one emotional state to another; each is a label of `order` or a distribution (n,).

    `space`: "va", (2,) in the valence-arousal plane, length in [0, 2.83]; "labels", (n,) target minus
    source probabilities (the direction of EmoEditor, Lin et al. 2024), length = half their L1 distance,
    in [0, 1]; "wheel", (2,) difference of mean directions, length in [0, 2]. Length 0 = no change asked.
    """
    order = tuple(order)
    space = one_of(space, SPACES, "space")
    start, end = _normalised(source, order), _normalised(target, order)
    if space == "labels":
        delta = end - start
        return EmotionVector(delta, float(0.5 * np.abs(delta).sum()))
    points = va_table(order, va_source) if space == "va" else _directions(order, wheel)
    delta = (end - start) @ points
    return EmotionVector(delta, float(np.linalg.norm(delta)))
