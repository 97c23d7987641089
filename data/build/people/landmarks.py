"""Landmarks of a rendered face, read off the mesh, and how its head is held."""

from __future__ import annotations

import functools

import numpy as np

from emolib.data.framing import LANDMARKS
from people.body import N_SKIN, assets
from people.rig import rotation

# Points of the template's left half, decimetres (x to the person's left); the right ones mirror them.
PAIRS = {
    "brow_inner": (0.13, 7.485, 1.5),
    "brow_middle": (0.34, 7.54, 1.42),
    "brow_outer": (0.57, 7.475, 1.25),
    "eye_inner": (0.184, 7.278, 1.38),
    "eye_outer": (0.437, 7.288, 1.337),
    "eye_top": (0.318, 7.330, 1.39),
    "eye_bottom": (0.318, 7.235, 1.39),
    "nose_wing": (0.155, 6.93, 1.5),
    "mouth_corner": (0.25, 6.62, 1.38),
}
MIDDLE = {
    "nose_bridge": (0.0, 7.30, 1.5),
    "nose_tip": (0.0, 6.98, 1.8),
    "nose_base": (0.0, 6.87, 1.6),
    "upper_lip": (0.0, 6.70, 1.6),
    "lip_inner_top": (0.0, 6.63, 1.55),
    "lip_inner_bottom": (0.0, 6.58, 1.5),
    "lower_lip": (0.0, 6.49, 1.55),
    "chin": (0.0, 6.24, 1.5),
}


@functools.cache
def vertex_numbers() -> dict[str, int]:
    """The skin's vertex of each landmark but the pupils."""
    skin = assets().template[:N_SKIN]
    seen = np.unique(assets().triangles["body"])

    def nearest(point) -> int:
        return int(seen[((skin[seen] - point) ** 2).sum(axis=1).argmin()])

    numbers = {name: nearest(point) for name, point in MIDDLE.items()}
    for name, point in PAIRS.items():
        for side, sign in (("left", 1), ("right", -1)):
            numbers[f"{side}_{name}"] = nearest(np.array(point) * (sign, 1, 1))
    return numbers


def points(rig, units: dict[str, float]) -> np.ndarray:
    """(N, 3) landmarks of a face under these units, head frame, cm, in the order of LANDMARKS."""
    numbers, vertices = vertex_numbers(), rig.shape(units)
    pupils = {
        f"{side}_pupil": eye.centre + eye.radius * eye.gaze
        for side, eye in zip(("left", "right"), rig.eyes(units), strict=True)
    }
    return np.stack([pupils[name] if name in pupils else vertices[numbers[name]] for name in LANDMARKS])


def in_picture(figure, view, units: dict[str, float]) -> np.ndarray:
    """(N, 2) landmarks in pixels of the view (a Portrait or a Stage), x to the right, y down."""
    return view.project(figure.world(points(figure.rig, units)))


def frame_points(figure, view) -> tuple[np.ndarray, np.ndarray]:
    """What frames the face without expression: both eyes (2, 2), the picture's left one first, and the
    mouth's corners (2, 2), in pixels."""
    eyes = np.stack([eye.centre + [0, 0, eye.radius] for eye in figure.rig.eyes({})])
    numbers = vertex_numbers()
    mouth = figure.rig.neutral[[numbers["left_mouth_corner"], numbers["right_mouth_corner"]]]
    xy = view.project(figure.world(np.concatenate([eyes, mouth])))
    return xy[:2][::-1], xy[2:]


def head_pose(rig) -> tuple[float, float, float]:
    """Yaw, pitch and roll of the head in degrees, the person's own and the expression's together."""
    turn = rig.turn @ rotation(*rig.pose)
    yaw = np.degrees(np.arctan2(turn[0, 2], turn[2, 2]))
    pitch = np.degrees(np.arcsin(np.clip(turn[1, 2], -1, 1)))
    roll = np.degrees(-np.arctan2(turn[1, 0], turn[1, 1]))
    return float(yaw), float(pitch), float(roll)
