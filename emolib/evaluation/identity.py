"""Who is it: Fisherfaces fitted on EmoFaces' train people, kept in the cache; or a network from outside."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emolib import images as pictures
from emolib.data import emofaces
from emolib.evaluation import cache, parts
from emolib.evaluation.observe import Embed
from emolib.evaluation.tasks import TaskSet
from emolib.judges.identity import Fisherfaces, calibrated, crop_faces, fit_fisherfaces
from emolib.runtime import InputError, progress


def from_emofaces(tasks: TaskSet, folder: Path) -> tuple[Embed, float, str]:
    """(embedding, threshold, what it is): fitted on train people, its threshold set on val people.

    InputError where the data has no train and val portraits beside it.
    """
    if tasks.folder is None:
        raise InputError(
            f"{tasks.name}: identity needs EmoFaces' train people, or --identity module:attribute"
        )
    files = [tasks.folder / f"portraits-{split}.parquet" for split in ("train", "val")]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: not there, so no identity embedding can be fitted")
    stamp = [cache.code(only=("metrics", "images.py", "picture_files.py")), tasks.size]
    stamp += [cache.file_digest(file) for file in files]
    path = folder / f"fisherfaces-{cache.key(*stamp)}.entry"
    known = cache.read(path)
    if known is None:
        known = _fitted(tasks.folder, tasks.size)
        cache.write(path, known)
    threshold = float(known["threshold"])
    model = Fisherfaces(*(torch.from_numpy(known[k]) for k in ("mean", "axes")), threshold)

    def embed(faces: Tensor, boxes: np.ndarray) -> Tensor:
        return model(crop_faces(faces, boxes))

    about = f"Fisherfaces of {int(known['people'])} train people, {model.axes.shape[1]} directions"
    return embed, threshold, about


def _fitted(folder: Path, size: int | None) -> dict[str, np.ndarray]:
    faces, names = _faces(folder, "train", size)
    try:
        model = calibrated(fit_fisherfaces(faces, names), *_faces(folder, "val", size))
    except ValueError as error:
        raise InputError(f"{folder}: no identity embedding can be fitted ({error})") from None
    people = np.array(len(np.unique(names)))
    threshold = np.array(model.threshold)
    return {"mean": model.mean.numpy(), "axes": model.axes.numpy(), "threshold": threshold, "people": people}


def _faces(folder: Path, split: str, size: int | None) -> tuple[Tensor, np.ndarray]:
    """Face crops (N, P) of a split's portraits, brought to `size` px first if edits are; and who they are."""
    data = emofaces.portraits(split, folder)
    crops = []
    for i in progress(range(len(data)), f"identity: {split} people"):
        picture = pictures.to_tensor(data.image_at(i))
        box = np.asarray(data.frame["face_box"].iloc[i])
        if size is not None:
            picture, box = pictures.resize(picture, size), (box * size / picture.shape[-1]).round()
        crops.append(crop_faces(picture, [box]))
    return torch.cat(crops), data.frame["identity"].to_numpy()


def imported(spec: str) -> tuple[Embed, str]:
    """(embedding, what it is) of a network from outside (ArcFace, say): module:attribute, gives (B, D).

    It gets faces, float32 (B, 3, H, W) in [-1, 1], cropped to each box. What it is holds a digest of its file
    and weights, so that another network's numbers are not taken for its. InputError if it cannot be imported.
    """
    module, _, attribute = spec.partition(":")
    try:
        home = importlib.import_module(module)
        network: Callable[[Tensor], Tensor] = getattr(home, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--identity {spec!r} cannot be imported ({error})") from None

    @torch.no_grad()
    def embed(faces: Tensor, boxes: np.ndarray) -> Tensor:
        cut = [pictures.crop(one[None], tuple(box)) for one, box in zip(faces, boxes.tolist(), strict=True)]
        return torch.cat([network(one) for one in cut])

    file = getattr(home, "__file__", None)
    code = cache.file_digest(Path(file)) if file else ""
    return embed, f"{spec} ({cache.key(code, [parts.weights(part) for part in parts.inside(network)])[:8]})"
