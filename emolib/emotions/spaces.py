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
    "findingemo": ((-3.0, 3.0), (0.0, 6.0), None),
    "symmetric3": ((-3.0, 3.0), (-3.0, 3.0), (-3.0, 3.0)),
    "one-to-ten": ((1.0, 10.0), (1.0, 10.0), (1.0, 10.0)),
}
"""Ends of valence, arousal and dominance. unit: NRC-VAD v1; symmetric3: EmotiCrafter; one-to-ten: EMOTIC."""

AXES = ("valence", "arousal", "dominance")

RUSSELL = {
    "excited": (0.62, 0.76),
    "happy": (0.83, 0.53),
    "pleased": (0.77, 0.19),
    "relaxed": (0.69, -0.45),
    "peaceful": (0.59, -0.26),
    "calm": (0.56, -0.31),
    "sleepy": (0.28, -0.67),
    "tired": (0.04, -0.63),
    "bored": (-0.66, -0.63),
    "sad": (-0.65, -0.27),
    "miserable": (-0.70, -0.08),
    "nervous": (-0.63, 0.27),
    "angry": (-0.52, 0.58),
    "frustrated": (-0.65, 0.51),
    "annoyed": (-0.55, 0.41),
    "afraid": (-0.34, 0.64),
    "anxious": (-0.45, 0.55),
    "astonished": (0.16, 0.89),
}
"""Russell 1980, fig. 4, as read off the figure for public code; valence and arousal in [-1, 1]."""

RUSSELL_WORD = {
    "happiness": "happy",
    "joy": "happy",
    "excitement": "excited",
    "contentment": "pleased",
    "serenity": "peaceful",
    "sadness": "sad",
    "grief": "miserable",
    "boredom": "bored",
    "anger": "angry",
    "annoyance": "annoyed",
    "fear": "afraid",
    "apprehension": "anxious",
    "surprise": "astonished",
}
"""Which of Russell's words stands for a label; the others have no point in his figure."""

OURS = {
    "neutral": (0.0, 0.0, 0.0),
    "amusement": (0.8, 0.5, 0.4),
    "awe": (0.4, 0.6, -0.4),
    "contentment": (0.7, -0.3, 0.3),
    "excitement": (0.7, 0.8, 0.3),
    "anger": (-0.6, 0.7, 0.4),
    "disgust": (-0.7, 0.3, 0.1),
    "fear": (-0.7, 0.8, -0.6),
    "sadness": (-0.7, -0.3, -0.5),
    "happiness": (0.8, 0.4, 0.4),
    "surprise": (0.1, 0.8, -0.1),
    "contempt": (-0.5, 0.1, 0.5),
    "serenity": (0.6, -0.5, 0.2),
    "joy": (0.8, 0.4, 0.4),
    "ecstasy": (0.9, 0.8, 0.3),
    "acceptance": (0.4, -0.3, 0.1),
    "trust": (0.5, -0.1, 0.2),
    "admiration": (0.7, 0.3, -0.1),
    "apprehension": (-0.4, 0.4, -0.4),
    "terror": (-0.8, 0.9, -0.7),
    "distraction": (-0.1, 0.2, -0.2),
    "amazement": (0.4, 0.9, -0.1),
    "pensiveness": (-0.2, -0.4, -0.1),
    "grief": (-0.9, 0.1, -0.6),
    "boredom": (-0.4, -0.7, -0.2),
    "loathing": (-0.8, 0.6, 0.2),
    "annoyance": (-0.5, 0.4, 0.1),
    "rage": (-0.7, 0.9, 0.5),
    "interest": (0.4, 0.2, 0.2),
    "anticipation": (0.3, 0.4, 0.2),
    "vigilance": (0.0, 0.6, 0.3),
}
"""Our rounded targets for faces and scenes, in [-1, 1], for every label of every set.

Placed by hand on Russell's circumplex (1980), checked against published word norms (NRC-VAD: Mohammad
2018; the lexicon itself is not shipped) and corrected where a word and a face differ: surprise is not
pleasant as such, contentment is calm. Judge them against FindingEmo's own means in lesson 01.
"""

SOURCES = ("ours", "russell", "findingemo-empirical")


def convert(values, source: str, target: str) -> np.ndarray:
    """Valence-arousal(-dominance) from one scale to another (names in `SCALES`): linear, ends to ends.

    `values`: (..., 2) or (..., 3), float64 out, same shape. InputError for an unknown scale, a last axis
    that is not 2 or 3, dominance on a scale without it, and values off the source scale.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or x.shape[-1] not in (2, 3):
        raise InputError(f"valence-arousal(-dominance) has a last axis of 2 or 3, got shape {x.shape}")
    ends = [SCALES[one_of(name, SCALES, "scale")][: x.shape[-1]] for name in (source, target)]
    for name, scale in zip((source, target), ends, strict=True):
        if None in scale:
            raise InputError(f"scale {name!r} has no dominance; pass valence and arousal only")
    (low, high), (to_low, to_high) = (np.array(scale).T for scale in ends)
    bad = ~((x >= low - 1e-6) & (x <= high + 1e-6))
    if bad.any():
        i = tuple(np.argwhere(bad)[0])
        a = i[-1]
        raise InputError(f"{AXES[a]} {x[i]:g} is outside {source!r}, [{low[a]:g}, {high[a]:g}]")
    return to_low + (x - low) / (high - low) * (to_high - to_low)


def va(label: str, source: str = "ours", *, table: Mapping[str, tuple[float, float]] | None = None):
    """(valence, arousal) of a label in [-1, 1].

    `source`: "ours" (every label), "russell" (where he has a word) or "findingemo-empirical", which
    looks the label up in `table`, made by `empirical`. InputError if the source has no such label.
    """
    source = one_of(source, SOURCES, "valence-arousal source")
    if source == "findingemo-empirical":
        if table is None:
            raise InputError("source 'findingemo-empirical' needs table=, made by emotions.spaces.empirical")
        return tuple(float(x) for x in table[one_of(label, table, "label")][:2])
    if source == "russell":
        if label not in RUSSELL_WORD:
            raise InputError(f"Russell's figure has no point for {label!r}; use source='ours'")
        return RUSSELL[RUSSELL_WORD[label]]
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

    The three arguments have one length; InputError otherwise, and for values off the scale.
    """
    names = np.asarray(list(labels))
    v, a = np.asarray(valence, dtype=np.float64), np.asarray(arousal, dtype=np.float64)
    if not (len(names) == len(v) == len(a)):
        raise InputError(f"labels, valence, arousal have {len(names)}, {len(v)}, {len(a)} entries")
    points = convert(np.stack([v, a], axis=-1), scale, "signed")
    return {str(n): tuple(float(x) for x in points[names == n].mean(axis=0)) for n in np.unique(names)}


def expected_va(
    weights, order: Iterable[str] = sets.MIKELS, source: str = "ours", *, table=None
) -> np.ndarray:
    """Mean point (..., 2) of emotion distributions `weights` (..., n), non-negative, normalised here."""
    order = tuple(order)
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim == 0 or w.shape[-1] != len(order):
        raise InputError(f"a distribution over {len(order)} emotions is expected, got shape {w.shape}")
    total = w.sum(axis=-1, keepdims=True)
    if not ((w >= 0).all() and (total > 0).all()):
        raise InputError("emotion weights are non-negative and not all zero")
    return w / total @ va_table(order, source, table=table)


def nearest_label(point, order: Iterable[str] = sets.MIKELS, source: str = "ours", *, table=None) -> str:
    """The label of `order` closest to `point` = (valence, arousal) in [-1, 1]."""
    order = tuple(order)
    distance = np.linalg.norm(va_table(order, source, table=table) - np.asarray(point, dtype=float), axis=1)
    return order[int(distance.argmin())]


ANGLES = {
    "plutchik": {label: 45.0 * sets.PLUTCHIK8.index(sets.petal(label)) for label in sets.PLUTCHIK24},
    "mikels": {
        "sadness": 22.5,
        "fear": 67.5,
        "excitement": 112.5,
        "awe": 157.5,
        "contentment": 202.5,
        "amusement": 247.5,
        "anger": 292.5,
        "disgust": 337.5,
    },
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


def polar(
    weights, order: Iterable[str] = sets.MIKELS, wheel: str = "mikels"
) -> tuple[np.ndarray, np.ndarray]:
    """(theta in degrees [0, 360), r in [0, 1]) of distributions (..., n): the weighted mean direction.

    theta says which emotion, r how clearly (Yang et al. 2021); opposite emotions cancel.
    """
    x, y = np.moveaxis(_normalised(weights, order) @ _directions(tuple(order), wheel), -1, 0)
    return np.rad2deg(np.arctan2(y, x)) % 360, np.hypot(x, y)


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
    if w.ndim == 0 or w.shape[-1] != len(order):
        raise InputError(f"a distribution over {len(order)} emotions is expected, got shape {w.shape}")
    total = w.sum(axis=-1, keepdims=True)
    if not ((w >= 0).all() and (total > 0).all()):
        raise InputError("emotion weights are non-negative and not all zero")
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
