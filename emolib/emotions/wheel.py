"""Emotions on a circle: angles, wheel distance, and the vector from one emotional state to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from emolib.emotions import sets, spaces
from emolib.runtime import InputError, one_of

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
    points = spaces.va_table(order, va_source) if space == "va" else _directions(order, wheel)
    delta = (end - start) @ points
    return EmotionVector(delta, float(np.linalg.norm(delta)))
