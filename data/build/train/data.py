"""The portraits as tensors: every picture decoded once, kept in memory, cached in the work folder.

`python -m train.data` decodes all splits ahead of time and prints what there is.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image

from emolib.data import emofaces
from emolib.emotions.sets import EMOFACES, HELD_OUT
from emolib.runtime import InputError, atomic_write, generator, progress, repo_path

SPLITS = ("train", "val", "test", "concepts")


@dataclass(frozen=True)
class Portraits:
    """Pictures (N, 3, H, W) uint8 and, row by row, what is known of them (the columns of the parquet file).

    `masks` (N, 1, H, W) uint8, the share of a pixel that the person fills, are kept with the renders alone.
    All tensors are on the pictures' device."""

    images: torch.Tensor
    frame: pd.DataFrame
    masks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def emotion(self) -> torch.Tensor:
        """(N,) index in EMOFACES."""
        numbers = [EMOFACES.index(name) for name in self.frame["emotion"]]
        return torch.tensor(numbers, device=self.images.device)

    @cached_property
    def affect(self) -> torch.Tensor:
        """(N, 2) valence and arousal in [-1, 1]."""
        numbers = self.frame[["valence", "arousal"]].to_numpy(np.float32)
        return torch.tensor(numbers, device=self.images.device)

    @cached_property
    def face_box(self) -> torch.Tensor:
        """(N, 4) x0, y0, x1, y1 in parts of the picture."""
        box = np.stack(self.frame["face_box"].to_list()).astype(np.float32)
        return torch.tensor(box / self.images.shape[-1], device=self.images.device).clamp(0, 1)

    @cached_property
    def landmarks(self) -> torch.Tensor:
        """(N, L, 2) in pixels, in the order of `emolib.data.framing.LANDMARKS`."""
        points = np.stack([np.stack(row) for row in self.frame["landmarks"]])
        return torch.tensor(points, dtype=torch.float32, device=self.images.device)

    @cached_property
    def siblings(self) -> torch.Tensor:
        """(identities, S) rows of the same person; S is the fewest pictures any of them has."""
        groups = [torch.tensor(rows) for rows in self.frame.groupby("identity", sort=True).indices.values()]
        return torch.stack([rows[: min(map(len, groups))] for rows in groups])

    def keep(self, rows: np.ndarray) -> Portraits:
        """Those of these rows (a boolean array, or positions)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        at = torch.from_numpy(rows)
        masks = None if self.masks is None else self.masks[at]
        return Portraits(self.images[at], self.frame.iloc[rows].reset_index(drop=True), masks)

    def to(self, device: torch.device) -> Portraits:
        """The same with pictures and masks on `device`."""
        masks = None if self.masks is None else self.masks.to(device)
        return Portraits(self.images.to(device), self.frame, masks)


def load_masks(frame: pd.DataFrame, renders: Path) -> torch.Tensor:
    """The masks (N, 1, H, W) uint8 of the pictures of `frame`, from the folder that `people.portraits` wrote.

    InputError for a person who is not there."""
    masks = {}
    for identity in frame["identity"].unique():
        file = renders / f"{identity:06d}.npz"
        if not file.is_file():
            raise InputError(f"{file}: not there; render the people again, or give --renders their folder")
        with np.load(file) as stored:
            emotions = [record["emotion"] for record in json.loads(str(stored["meta"]))["records"]]
            masks |= {
                (identity, emotion): mask for emotion, mask in zip(emotions, stored["masks"], strict=True)
            }
    rows = zip(frame["identity"], frame["emotion"], strict=True)
    return torch.from_numpy(np.stack([masks[row] for row in rows]))[:, None]


def load(split: str, folder: Path, cache: Path | None = None, renders: Path | None = None) -> Portraits:
    """The portraits of `split` from `folder`, decoded or from `cache` (default data/build/work/cache), with
    the masks of `renders` where that is given.

    Held-out emotions are dropped from `train`, `val` and `test` should the file hold any: nothing that is
    trained here may see them. InputError for a missing file or a picture of another size.
    """
    frame = emofaces.portraits(split, folder).frame
    path = folder / f"portraits-{split}.parquet"
    cache = repo_path("data", "build", "work", "cache") if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    state = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:10]
    file = cache / f"{split}-{key}.npy"
    if not file.is_file():
        pictures = _decode(path)
        with atomic_write(file) as temporary:
            np.save(temporary, pictures)
    masks = None if renders is None else load_masks(frame, renders)
    people = Portraits(torch.from_numpy(np.load(file)), frame.reset_index(drop=True), masks)
    if split == "concepts":
        return people
    return people.keep(~frame["emotion"].isin(HELD_OUT).to_numpy())


def _decode(path: Path) -> np.ndarray:
    """All pictures of a parquet file, (N, 3, H, W) uint8."""
    column = pq.read_table(path, columns=["image"], partitioning=None).column("image").combine_chunks()
    out = None
    for i, data in enumerate(progress(column.field("bytes"), f"decoding {path.name}", total=len(column))):
        picture = np.asarray(Image.open(io.BytesIO(data.as_py())).convert("RGB")).transpose(2, 0, 1)
        if out is None:
            out = np.empty((len(column), *picture.shape), np.uint8)
        if picture.shape != out.shape[1:]:
            raise InputError(f"{path}[{i}]: is {picture.shape[1:]} px, the first picture {out.shape[2:]}")
        out[i] = picture
    return out


def halves(frame: pd.DataFrame) -> np.ndarray:
    """For each row 0 or 1, by identity: the judges' disjoint halves. Adding identities moves nobody."""
    digest = {
        i: hashlib.sha256(f"half {i}".encode()).digest()[0] & 1 for i in frame["identity"].unique().tolist()
    }
    return frame["identity"].map(digest).to_numpy()


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))


def batch_rows(count: int, batch: int, seed: int, step: int) -> torch.Tensor:
    """(batch,) positions in 0..count-1 for `step`: one shuffled pass over all after the other."""
    first, last = step * batch // count, ((step + 1) * batch - 1) // count
    passes = torch.cat([_order(count, seed, epoch) for epoch in range(first, last + 1)])
    start = step * batch - first * count
    return passes[start : start + batch]


def sibling_rows(siblings: torch.Tensor, batch: int, seed: int, step: int) -> torch.Tensor:
    """(people * S,) rows of whole families, as many as fit into `batch` (at least one)."""
    people = batch_rows(len(siblings), max(1, batch // siblings.shape[1]), seed, step)
    return siblings[people].flatten()


def step_rows(
    people: Portraits, batch: int, seed: int, step: int, families: float
) -> tuple[torch.Tensor, int]:
    """The rows of one step and how many successive ones belong together: whole families in the part
    `families` of the steps (spread evenly), single pictures (1) in the others."""
    if (step * 0.6180339887) % 1 < families:
        return sibling_rows(people.siblings, batch, seed, step).to(
            people.images.device
        ), people.siblings.shape[1]
    return batch_rows(len(people), batch, seed, step).to(people.images.device), 1


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def main() -> None:
    """Decode every split that is there."""
    from train import options

    args = options.parser(
        "data", "Decodes all portraits into the work folder.", steps=1, batch=1, lr=0.0
    ).parse_args()
    for split in SPLITS:
        if (args.data / f"portraits-{split}.parquet").is_file():
            found = load(split, args.data)
            people, kinds = found.frame["identity"].nunique(), found.frame["emotion"].nunique()
            size = "x".join(map(str, found.images.shape[2:]))
            print(f"{split}: {len(found)} pictures {size}, {people} people, {kinds} emotions")


if __name__ == "__main__":
    from train import options

    options.run(main)
