"""What faces do beyond the body model's units: muscles that bulge and draw, skin that folds.

Folds are lines on the template's front (x to the person's left, y up, decimetres), drawn on the left and
mirrored; an action unit presses them in (FACS Investigator's Guide, Ekman, Friesen and Hager 2002).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from people.body import N_SKIN, assets
from people.surface import surface


class Fold(NamedTuple):
    """A furrow along `path`; `units` (of a side where they have one) press it in, age leaves a trace."""

    path: tuple[tuple[float, float], ...]
    width: float  # dm
    depth: float  # cm at full strength
    units: dict[str, float]
    age: float = 0.0
    bulge: float = 0.5  # how high the skin beside it rises, as a share of the depth


class Push(NamedTuple):
    """Skin moved by a face unit about a point of the template (dm), the left side's; `move` in cm."""

    unit: str
    centre: tuple[float, float, float]
    radius: tuple[float, float]  # dm: across and along y
    move: tuple[float, float, float]


FOREHEAD = [
    Fold(((0.0, y), (0.18, y + 0.012), (0.36, y + 0.03), (0.50, y + 0.0)), 0.016, 0.10,
         {"browInnerUp": 0.6, "browOuterUp*": 0.5, "browDown*": -0.5}, 0.25)
    for y in (7.66, 7.73, 7.80, 7.88)
]  # fmt: skip
FOLDS = [
    *FOREHEAD,
    Fold(((0.055, 7.38), (0.060, 7.47), (0.085, 7.58)), 0.018, 0.16, {"browDown*": 1.0}, 0.2),
    Fold(((0.115, 7.43), (0.125, 7.50)), 0.018, 0.06, {"browDown*": 0.8}),
    Fold(((0.0, 7.365), (0.09, 7.345)), 0.016, 0.12, {"noseSneer*": 1.0, "browDown*": 0.35}, 0.1),
    Fold(((0.0, 7.30), (0.10, 7.27)), 0.015, 0.11, {"noseSneer*": 1.0}),
    Fold(((0.045, 7.23), (0.13, 7.13)), 0.015, 0.10, {"noseSneer*": 1.0}),
    Fold(((0.075, 7.18), (0.155, 7.06)), 0.015, 0.08, {"noseSneer*": 0.9}),
    Fold(((0.165, 6.95), (0.225, 6.87), (0.29, 6.75), (0.335, 6.62)), 0.031, 0.15,
         {"mouthSmile*": 0.85, "mouthUpperUp*": 0.45, "noseSneer*": 0.6, "cheekSquint*": 0.3}, 0.45),
    Fold(((0.16, 7.185), (0.24, 7.135), (0.35, 7.12), (0.46, 7.165)), 0.020, 0.09,
         {"cheekSquint*": 0.8, "eyeSquint*": 0.5}, 0.4),
    Fold(((0.50, 7.30), (0.57, 7.345), (0.63, 7.37)), 0.014, 0.07, {"cheekSquint*": 0.9}, 0.3),
    Fold(((0.505, 7.275), (0.58, 7.285), (0.65, 7.29)), 0.014, 0.08, {"cheekSquint*": 0.9}, 0.3),
    Fold(((0.50, 7.25), (0.57, 7.225), (0.63, 7.195)), 0.014, 0.07, {"cheekSquint*": 0.9}, 0.3),
    Fold(((0.0, 6.43), (0.12, 6.425), (0.20, 6.39)), 0.024, 0.13, {"mouthShrugLower": 0.9}, 0.1),
    Fold(((0.275, 6.59), (0.30, 6.52), (0.315, 6.43)), 0.022, 0.13,
         {"mouthFrown*": 1.0, "mouthStretch*": 0.35}, 0.3),
    Fold(((0.36, 6.72), (0.385, 6.62), (0.375, 6.50)), 0.022, 0.10,
         {"mouthStretch*": 0.8, "mouthSmile*": 0.3}),
]  # fmt: skip

PUSHES = [
    # AU4: brows drawn together and down, the corrugator bulging between them.
    Push("browDown*", (0.14, 7.46, 1.5), (0.11, 0.10), (-0.22, -0.10, 0.06)),
    # AU1: the inner brow oblique, the outer end staying.
    Push("browInnerUp", (0.13, 7.47, 1.5), (0.13, 0.13), (-0.03, 0.28, 0.0)),
    # AU9: wings of the nose up, the skin beside the nose piled up.
    Push("noseSneer*", (0.12, 6.92, 1.6), (0.08, 0.08), (0.04, 0.26, 0.05)),
    Push("noseSneer*", (0.17, 7.10, 1.45), (0.10, 0.11), (-0.05, 0.08, 0.16)),
    Push("noseSneer*", (0.10, 6.70, 1.55), (0.13, 0.08), (0.0, 0.18, 0.06)),
    # AU10: the upper lip squared, the fold beside the nose fuller.
    Push("mouthUpperUp*", (0.13, 6.68, 1.53), (0.12, 0.08), (0.03, 0.16, 0.05)),
    Push("mouthUpperUp*", (0.25, 6.90, 1.42), (0.10, 0.10), (0.0, 0.06, 0.15)),
    # AU12 + 6: the cheek's ball.
    Push("mouthSmile*", (0.38, 6.98, 1.35), (0.14, 0.13), (0.0, 0.08, 0.14)),
    # AU15: corners pulled down, a pouch below them.
    Push("mouthFrown*", (0.25, 6.60, 1.4), (0.08, 0.07), (0.0, -0.32, 0.0)),
    Push("mouthFrown*", (0.27, 6.47, 1.4), (0.08, 0.07), (0.0, -0.05, 0.10)),
    # AU17: the chin's boss up and forward, the lower lip pushed up.
    Push("mouthShrugLower", (0.0, 6.33, 1.5), (0.15, 0.10), (0.0, 0.20, 0.14)),
    # AU20: corners straight back.
    Push("mouthStretch*", (0.26, 6.60, 1.38), (0.09, 0.08), (0.30, -0.05, -0.15)),
    # AU24: lips pressed flat; the model's own target draws corners up, which is taken back.
    Push("mouthPress*", (0.25, 6.62, 1.38), (0.09, 0.09), (-0.45, -0.45, 0.0)),
    Push("mouthPress*", (0.0, 6.68, 1.55), (0.22, 0.035), (0.0, -0.14, -0.10)),
    Push("mouthPress*", (0.0, 6.52, 1.5), (0.20, 0.035), (0.0, 0.14, -0.08)),
    # AU7: the lower lid up.
    Push("eyeSquint*", (0.31, 7.215, 1.4), (0.11, 0.035), (0.0, 0.16, 0.02)),
    Push("cheekSquint*", (0.31, 7.20, 1.4), (0.12, 0.05), (0.0, 0.10, 0.06)),
]


TEETH = {"helper-upper-teeth": (0.95, (0.0, 0.06, -0.10)), "helper-lower-teeth": (0.90, (0.0, -0.05, -0.25))}
"""How teeth are made to stay behind the lips: scaled about their middle, then moved (cm)."""


def mouth(vertices: np.ndarray, units: dict[str, float]) -> np.ndarray:
    """(19158, 3) vertices with teeth that stay behind the lips, and the tongue where `tongueOut` puts it."""
    vertices, triangles = vertices.copy(), assets().triangles
    for name, (size, move) in TEETH.items():
        numbers = np.unique(triangles[name])
        middle = vertices[numbers].mean(axis=0)
        vertices[numbers] = middle + size * (vertices[numbers] - middle) + np.array(move)
    numbers = np.unique(triangles["helper-tongue"])
    tongue = vertices[numbers]
    share = (tongue[:, 2] - tongue[:, 2].min()) / np.ptp(tongue[:, 2])
    out = units.get("tongueOut", 0.0)
    vertices[numbers] = tongue + (share**2)[:, None] * out * np.array([0.0, 0.25, 1.5])
    return vertices


def _sides(template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each point belongs to the person's left and to their right, in [0, 1]."""
    left = 1 / (1 + np.exp(-template[:, 0] / 0.025))
    return left, 1 - left


def weights(units: dict[str, float], table: dict[str, float], side: str) -> float:
    """The sum of a table's units on one side ("Left" or "Right")."""
    return sum(share * units.get(name.replace("*", side), 0.0) for name, share in table.items())


@functools.cache
def _push_fields() -> list[tuple[str, np.ndarray]]:
    """Per push and side: the unit's name, and (19158, 3) cm at weight 1."""
    template, fields = assets().template, []
    for push in PUSHES:
        for side, sign, share in zip(("Left", "Right"), (1, -1), _sides(template), strict=True):
            d = (template - np.array(push.centre) * (sign, 1, 1)) / np.array([*push.radius, 0.3])
            near = np.exp(-(d**2).sum(axis=1)) * share
            near[N_SKIN:] = 0
            fields.append((push.unit.replace("*", side), near[:, None] * np.array(push.move) * (sign, 1, 1)))
    return fields


def push(units: dict[str, float]) -> np.ndarray:
    """(19158, 3) cm: what these units move beyond the body model."""
    total = 0.0
    for name, field in _push_fields():
        if units.get(name):
            total = total + units[name] * field
    return total


@functools.cache
def _fold_fields() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(F, V) height of each fold at depth 1, (F, V) its furrow in [0, 1], and the fine skin's two sides."""
    skin = surface().assets
    template = skin.template
    outside = (template[:, 2] > 0.95) * (1 - np.clip(2 * skin.mouth_inside, 0, 1))
    outside = outside * (1 - np.clip(1.5 * skin.lips, 0, 1))
    point = np.stack([np.abs(template[:, 0]), template[:, 1]], axis=1)
    heights, furrows = [], []
    for fold in FOLDS:
        distance, along = _distance(point, np.array(fold.path))
        taper = np.clip(np.minimum(along, 1 - along) * 4 + 0.12, 0, 1)
        if fold.path[0][0] == 0:
            taper = np.clip((1 - along) * 4, 0, 1)
        d = distance / fold.width
        furrow = np.exp(-(d**2)) * taper * outside
        hill = np.exp(-(((d - 2.0) / 1.1) ** 2)) * taper * outside
        heights.append(fold.bulge * hill - furrow)
        furrows.append(furrow)
    return np.stack(heights).astype(np.float32), np.stack(furrows).astype(np.float32), _sides(template)


def _distance(points: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of (N, 2) points to a smooth line through `path`, and where along it (0-1) the nearest is."""
    t = np.linspace(0, len(path) - 1, 24)
    line = np.stack([np.interp(t, np.arange(len(path)), path[:, i]) for i in range(2)], axis=1)
    gap = np.linalg.norm(points[:, None] - line[None], axis=2)
    return gap.min(axis=1), gap.argmin(axis=1) / 23


def strengths(units: dict[str, float], age: float, scale: np.ndarray) -> np.ndarray:
    """(F, 2): how deep each fold is on the left and the right; `age` in [0, 1], `scale` (F,) personal."""
    worn = max(age - 0.5, 0) * 1.6
    deep = [
        [min(max(weights(units, fold.units, side), 0), 1.15) * (0.75 + 0.5 * worn) + fold.age * worn
         for side in ("Left", "Right")]
        for fold in FOLDS
    ]  # fmt: skip
    return np.minimum(np.array(deep) * scale[:, None], 1.3)


def fold(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strengths (F, 2) -> the fine skin's height (V,), cm, and how shaded its furrows are (V,), in [0, 1]."""
    heights, furrows, (left, right) = _fold_fields()
    depth = np.array([f.depth for f in FOLDS])
    by_side = [(strength[:, i] * depth) @ heights for i in range(2)]
    shade = [np.clip(strength[:, i], 0, 1.3) @ furrows for i in range(2)]
    return left * by_side[0] + right * by_side[1], np.clip(left * shade[0] + right * shade[1], 0, 1)
