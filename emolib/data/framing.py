"""Where a face's square picture lies, by its eyes and mouth: one rule for renders and photographs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 2.6
"""The side of the square, in distances from the eyes to the mouth: from the hairline to below the chin."""
DROP = 0.38
"""How far the square's centre lies below the eyes, as a share of the way to the mouth."""

FACE_MARGIN = 0.06
"""What a crop adds around a face box on each side, as a share of its longer side, so that a scene's face is
framed as EmoFaces' portraits are, of which MiniSD learned (measured on their face boxes: data/emofaces)."""

_PAIRS = """
brow_inner brow_middle brow_outer eye_inner eye_outer eye_top eye_bottom nose_wing mouth_corner pupil
"""
_MIDDLE = "nose_bridge nose_tip nose_base upper_lip lip_inner_top lip_inner_bottom lower_lip chin"
LANDMARKS = (*(f"{side}_{name}" for name in _PAIRS.split() for side in ("left", "right")), *_MIDDLE.split())
"""The landmarks of every EmoFaces picture, in the order of its column; left and right are the person's."""


class Square(NamedTuple):
    """A square about (x, y) in pixels; `angle` in degrees turns it clockwise, as the head is tilted."""

    x: float
    y: float
    side: float
    angle: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """[x0, y0, x1, y1] of the square held upright."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def face_square(eyes, mouth) -> Square:
    """Frame a face by its landmarks.

    `eyes` (2, 2): both eyes, the one further left in the picture first; `mouth` (2,) or (K, 2): its middle or
    any points that have it as their mean, such as the corners. All (x, y), x to the right, y down. Of a head
    turned aside the eyes come closer while eyes and mouth keep their distance; of one that nods it is the
    reverse: the larger of both measures counts (eyes lie 0.9 times as far apart as eyes and mouth).
    """
    eyes, mouth = np.asarray(eyes, dtype=np.float64), np.asarray(mouth, dtype=np.float64)
    middle, mouth = eyes.mean(axis=0), mouth.reshape(-1, 2).mean(axis=0)
    across, down = eyes[1] - eyes[0], mouth - middle
    unit = max(float(np.hypot(*down)), float(np.hypot(*across)) / 0.9)
    centre = middle + DROP * unit * down / max(float(np.hypot(*down)), 1e-9)
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    return Square(float(centre[0]), float(centre[1]), SIDE * unit, angle)
