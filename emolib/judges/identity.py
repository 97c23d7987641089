"""Who is it? Fisherfaces (Belhumeur, Hespanha & Kriegman 1997): an identity embedding in closed form.

Fitted on people seen under several emotions, it keeps the directions in which people differ and drops those
in which one person's face moves. No download and no training run; made for EmoFaces, whose camera, light and
face boxes are the same under every emotion. For photographs take an identity network (`load_face_network`).

By hand: after scikit-learn's PCA and LinearDiscriminantAnalysis, cosines of EmoFaces' test people differ by
up to 0.08 from these, and the numbers published with these would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from emolib import images
from emolib.data import emofaces
from emolib.judges import faces, networks
from emolib.metrics.preservation import LUMA
from emolib.runtime import InputError, progress

SIDE = 32  # px; the crop is resampled to this
RADIUS = 0.85  # of the half side: an ellipse in the box, without the corners that show the background
COMPONENTS = 150  # of the PCA that comes first and makes the within-person scatter invertible
DIRECTIONS = 40  # kept discriminants
SFACE_SAME = 0.363
"""The cosine from which SFace calls two photographs one person: OpenCV's, measured by its authors on LFW."""


@dataclass(frozen=True)
class Fisherfaces:
    """`embed(faces) -> (B, directions)`; cosines of embeddings say how alike two people are.

    mean (P,), axes (P, directions) float32 over the P pixels of the ellipse, on the CPU, as all that judges
    answer; `threshold` is the cosine that one in a hundred pairs of different people reaches, on people the
    fit has not seen.
    """

    mean: Tensor
    axes: Tensor
    threshold: float = float("nan")

    def __call__(self, faces: Tensor) -> Tensor:
        """(B, directions) of `faces` (B, P) as `crop_faces` gives them."""
        return (faces.float().cpu() - self.mean) @ self.axes


def crop_faces(images: Tensor, boxes) -> Tensor:
    """(B, P) float32 on the CPU: the ellipse in each face box, grey, at 32 px, mean 0, deviation 1.

    The normalisation takes brightness and contrast out; a flat face is all zeros.
    """
    grey = (images.float().cpu() * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    faces = []
    for one, (x0, y0, x1, y1) in zip(grey, np.asarray(boxes, dtype=int).reshape(-1, 4).tolist(), strict=True):
        face = one[None, :, y0:y1, x0:x1]
        faces.append(F.interpolate(face, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True))
    across = torch.linspace(-1, 1, SIDE)
    inside = across[None] ** 2 + across[:, None] ** 2 <= RADIUS**2
    pixels = torch.cat(faces)[:, 0, inside]
    centred = pixels - pixels.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True, correction=0).clamp(min=1e-3)


def fit_fisherfaces(faces: Tensor, identity: Sequence) -> Fisherfaces:
    """Fisherfaces of `faces` (N, P): PCA, then the discriminants of `identity` (N,), largest first.

    Raises ValueError for fewer than three people or people seen only once.
    """
    person, counts = np.unique(np.asarray(identity), return_inverse=True, return_counts=True)[1:]
    if len(counts) < 3 or counts.max() < 2:
        raise ValueError("Fisherfaces need three people or more, seen more than once")
    x = faces.double().cpu().numpy()
    centred = x - x.mean(0)
    scale, components = np.linalg.eigh(centred.T @ centred / len(x))
    kept = int(min(COMPONENTS, len(x) - len(counts), (scale > 1e-10 * scale[-1]).sum()))
    y = centred @ components[:, -kept:]
    means = np.stack([np.bincount(person, column) for column in y.T], axis=1) / counts[:, None]
    within = y - means[person]
    spread, turn = np.linalg.eigh(within.T @ within / len(x))
    white = turn / np.sqrt(spread + 1e-6 * spread[-1])
    between = np.linalg.eigh(white.T @ (means.T @ means / len(means)) @ white)[1]
    axes = components[:, -kept:] @ white @ between[:, ::-1][:, : min(DIRECTIONS, len(counts) - 1)]
    return Fisherfaces(torch.from_numpy(x.mean(0)).float(), torch.from_numpy(axes.copy()).float())


def calibrated(model: Fisherfaces, faces: Tensor, identity: Sequence) -> Fisherfaces:
    """The model with the `threshold` that 1 % of pairs of different people in `faces` (N, P) reach."""
    embedded = F.normalize(model(faces).double(), dim=1)
    names = torch.as_tensor(np.unique(np.asarray(identity), return_inverse=True)[1])
    similar = (embedded @ embedded.T)[names[:, None] != names[None]]
    if not len(similar):
        raise ValueError("a threshold needs two people or more")
    threshold = float(np.quantile(similar.numpy(), 0.99))
    return Fisherfaces(model.mean, model.axes, threshold)


def fit_on_emofaces(folder: Path, size: int | None = None) -> tuple[Fisherfaces, int]:
    """Fit Fisherfaces on the train people of EmoFaces in `folder`, the threshold on val people.

    `size`: portraits are brought to it first, px, as edits are. Also gives the number of train people.
    InputError where they are too few.
    """
    faces, names = _read_faces(folder, "train", size)
    try:
        model = calibrated(fit_fisherfaces(faces, names), *_read_faces(folder, "val", size))
    except ValueError as error:
        raise InputError(f"{folder}: no identity embedding can be fitted ({error})") from None
    return model, len(np.unique(names))


def _read_faces(folder: Path, split: str, size: int | None) -> tuple[Tensor, np.ndarray]:
    """Face crops (N, P) of a split's portraits, and who they are."""
    data = emofaces.portraits(split, folder)
    crops = []
    for i in progress(range(len(data)), f"identity: {split} people"):
        picture = images.to_tensor(data.image_at(i))
        box = np.asarray(data.frame["face_box"].iloc[i])
        if size is not None:
            picture, box = images.resize(picture, size), (box * size / picture.shape[-1]).round()
        crops.append(crop_faces(picture, [box]))
    return torch.cat(crops), data.frame["identity"].to_numpy()


class FaceNetwork:
    """Who is it, on photographs: an identity network in ONNX, SFace (Zhong et al. 2021) or another like it.

    threshold  cosine of embeddings from which two faces are one person; SFace's own, NaN for others
    """

    def __init__(self, session, *, threshold: float = float("nan"), byte_scale: bool = False) -> None:
        self.session, self.threshold, self.byte_scale = session, threshold, byte_scale

    def __call__(self, aligned: Tensor) -> Tensor:
        """Embed faces (B, 3, 112, 112) in [-1, 1], laid by `faces.align_face`: (B, D), of SFace (B, 128)."""
        return networks.run_onnx(self.session, (aligned + 1) * 127.5 if self.byte_scale else aligned)

    def embed_faces(self, picture: Image.Image, people: Sequence[faces.Face]) -> Tensor:
        """Embed faces of an RGB picture: (B, D). Of an edit give the source's: it has the same places."""
        pieces = [faces.align_face(picture, faces.find_points(face)) for face in people]
        return self(images.to_tensor(pieces))


def load_face_network(name: str | Path = "sface") -> FaceNetwork:
    """Load SFace from the Hub's cache or a folder, or another ONNX file that takes 112 x 112 in [-1, 1].

    InputError: not here (it says how to fetch it), broken."""
    path = networks.require_onnx(name)
    is_sface = path.name == networks.ONNX[networks.NAMES["sface"]]
    return FaceNetwork(
        networks.open_session(path), threshold=SFACE_SAME if is_sface else float("nan"), byte_scale=is_sface
    )
