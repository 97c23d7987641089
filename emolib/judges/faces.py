"""Find faces: scikit-image's cascade of local binary patterns, whose weights come with that package.

It finds upright faces seen from the front and does not know whose they are. Where it misses one, give a box.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade
from torch import Tensor

from emolib.images import Box, resize, to_pil

SIDE = 320  # px, the shorter: larger pictures are searched at this size; at more it sees faces in noise
SMALLEST = 24  # px: the cascade's own window


def find(image: Tensor) -> list[Box]:
    """The faces in one picture (1, 3, H, W) in [-1, 1], from left to right: boxes, brow to chin, with cheeks.

    Finds faces from about 1/13 of the picture's shorter side upwards.
    """
    height, width = image.shape[-2:]
    scale = min(1.0, SIDE / min(height, width))
    (small,) = to_pil(resize(image, (round(height * scale), round(width * scale))))
    # A face that fills the picture has no surroundings, which the cascade wants to see.
    rim = min(small.size) // 3
    pixels = np.pad(np.asarray(small), ((rim, rim), (rim, rim), (0, 0)), mode="edge")
    found = _cascade().detect_multi_scale(
        pixels,
        scale_factor=1.15,
        step_ratio=1,
        min_size=(SMALLEST, SMALLEST),
        max_size=(min(small.size) + rim // 2,) * 2,
    )
    boxes: list[Box] = []
    for face in sorted(found, key=lambda face: -face["width"]):
        x0, y0 = (round((face[name] - rim) / scale) for name in "cr")
        x1, y1 = (start + round(face["width"] / scale) for start in (x0, y0))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        inside = 0 <= x < width and 0 <= y < height
        if inside and not any(a <= x < c and b <= y < d for a, b, c, d in boxes):  # one box a face
            boxes.append((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))
    return sorted(boxes)


@cache
def _cascade() -> Cascade:
    return Cascade(lbp_frontal_face_cascade_filename())
