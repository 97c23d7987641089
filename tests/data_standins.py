"""Tiny data sets in the real schemas, for tests that must run before, and without, the real ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from emolib.emotions.sets import EMOFACES, EMOFACES_ALL


def encode(colour: tuple[int, int, int], size: tuple[int, int] = (96, 96), kind: str = "WEBP") -> bytes:
    """A picture of one colour, losslessly encoded (width x height)."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def colour_of(identity: int, emotion: str) -> tuple[int, int, int]:
    """The colour the stand-in portrait of this identity and emotion is filled with."""
    return (identity % 256, 20 * EMOFACES_ALL.index(emotion), 77)


PERSON = {"variant": "a", "valence": 0.0, "arousal": 0.25, "arkit": [0.0] * 52, "aus": [0.0] * 20}
PERSON |= {"age": "adult", "gender": "woman", "skin": "medium", "hair_style": "bob", "hair_color": "brown"}
PERSON |= {"beard": False, "glasses": True, "clothes_color": "blue"}
PERSON |= {"background": "plain", "background_color": "grey"}
PERSON |= {"yaw": 1.0, "pitch": 2.0, "roll": 3.0, "face_box": [10, 12, 80, 90]}


def write_portraits(folder: Path, split: str, identities: range) -> Path:
    """Stand-in `portraits-<split>.parquet`: every identity under every emotion of the split, shuffled."""
    emotions = EMOFACES_ALL if split == "concepts" else EMOFACES
    pairs = [(i, e) for i in identities for e in emotions]
    order = np.random.default_rng(0).permutation(len(pairs))
    rows = []
    for identity, emotion in (pairs[k] for k in order):
        name = f"{identity:05d}-{emotion}"
        row = {
            "image": {"bytes": encode(colour_of(identity, emotion)), "path": f"{name}.webp"},
            "image_id": name,
            "identity": identity,
            "split": split,
            "emotion": emotion,
            "intensity": 0.0 if emotion == "neutral" else 0.8,
            "caption": f"a photo of a person feeling {emotion}",
        }
        rows.append(row | PERSON)
    table = pa.Table.from_pylist(rows)
    for name, kind in {"identity": pa.int32(), "face_box": pa.list_(pa.int32())}.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    path = folder / f"portraits-{split}.parquet"
    pq.write_table(table, path, row_group_size=7)
    return path


def png(values: np.ndarray) -> dict:
    """(H, W) uint8 as a parquet picture."""
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": "mask.png"}


def write_scenes(folder: Path, count: int = 2) -> Path:
    """Stand-in `scenes-test.parquet`: two people side by side. A version's picture is of one colour that
    tells its position; of that, its `changed` says, only the changed people's boxes count."""
    rows = []
    for scene in range(count):
        mask = np.zeros((256, 384), np.uint8)
        mask[60:200, 40:140], mask[60:200, 220:320] = 1, 2
        people = [
            {"identity": 100 + k, "emotion": "neutral", "target": target, "gender": "man",
             "hair_color": "black", "box": [40 + 180 * k, 60, 140 + 180 * k, 200]}
            for k, target in enumerate(("anger", "awe"))
        ]  # fmt: skip
        who = {"source": (), "all": (1, 2), "person0": (1,), "person1": (2,)}
        for number, (version, changed) in enumerate(who.items()):
            picture = encode((scene, 50 * number, 9), (384, 256))
            row = {"image": {"bytes": picture, "path": f"{scene}-{version}.webp"}, "caption": "two people"}
            row |= {"scene": scene, "version": version, "n_people": 2, "people": people, "mask": png(mask)}
            row["changed"] = png(np.where(np.isin(mask, changed), np.uint8(255), np.uint8(0)))
            rows.append(row)
    path = folder / "scenes-test.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
