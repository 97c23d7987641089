"""Packs rendered portraits into parquet: `PYTHONPATH=data/build python -m people.pack`.

Identities ending in 8 go to val, in 9 to test, the rest to train; those also rendered under surprise and contempt to
`concepts`. A picture whose identity is not rendered yet is simply not in the file, so this can run at any time.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from train.captions import ATTRIBUTES, describe

from emolib.emotions import facs, spaces
from emolib.emotions.sets import HELD_OUT
from emolib.runtime import InputError, atomic_write, progress
from people import look
from people.portraits import FIRST_CONCEPT

SPLITS = ("train", "val", "test", "concepts")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "image_id": datasets.Value("string"),
        "identity": datasets.Value("int32"),
        **{name: datasets.Value("string") for name in ("split", "emotion", "variant", "caption")},
        **{name: datasets.Value("float32") for name in ("intensity", "valence", "arousal", "yaw", "pitch", "roll")},
        **{name: datasets.Value("bool") for name in ("beard", "glasses")},
        **{
            name: datasets.Value("string")
            for name in ("age", "gender", "skin", "hair_style", "hair_color", "clothes_color", "background", "background_color")
        },
        "arkit": datasets.Sequence(datasets.Value("float32"), length=len(facs.ARKIT)),
        "aus": datasets.Sequence(datasets.Value("float32"), length=len(facs.AUS)),
        "face_box": datasets.Sequence(datasets.Value("int32"), length=4),
    }
)


def split_of(identity: int) -> str:
    if identity >= FIRST_CONCEPT:
        return "concepts"
    return {8: "val", 9: "test"}.get(identity % 10, "train")


def encode(picture: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 -> WebP bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def rows_of(file: Path, quality: int) -> list[dict]:
    """The table rows of one identity."""
    with np.load(file) as stored:
        pictures, meta = stored["pictures"], json.loads(str(stored["meta"]))
    person, identity = look.sample(meta["seed"]), meta["seed"]
    shared = {
        name: getattr(person, name)
        for name in (*ATTRIBUTES[1:], "yaw", "pitch", "roll")
    }
    rows = []
    for picture, record in zip(pictures, meta["records"], strict=True):
        emotion, units = record["emotion"], record["units"]
        strength = record["intensity"] if emotion != "neutral" else 1.0
        valence, arousal = (strength * x for x in spaces.va(emotion))
        image_id = f"{identity:06d}-{emotion}"
        arkit = np.array([units.get(name, 0.0) for name in facs.ARKIT], dtype=np.float32)
        row = {
            "image": {"bytes": encode(picture, quality), "path": f"{image_id}.webp"},
            "image_id": image_id,
            "identity": identity,
            "split": split_of(identity),
            "emotion": emotion,
            "variant": record["variant"],
            "intensity": record["intensity"],
            "valence": valence,
            "arousal": arousal,
            "arkit": arkit,
            "aus": facs.arkit_to_aus(arkit),
            "face_box": meta["face_box"],
            **shared,
        }
        row["caption"] = caption(row)
        rows.append(row)
    return rows


def caption(row: dict) -> str:
    """A full description in a wording that depends on the identity only; surprise and contempt are not named."""
    wording = np.random.default_rng([row["identity"], 5])
    named = set(ATTRIBUTES) - ({"emotion"} if row["emotion"] in HELD_OUT else set())
    return describe(row, named, wording).text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, default=Path("data/build/work/portraits"))
    parser.add_argument("--out", type=Path, default=Path("data/emofaces"))
    parser.add_argument("--quality", type=int, default=86, help="WebP quality")
    args = parser.parse_args()
    files = sorted(args.rendered.glob("[0-9]*.npz"))
    if not files:
        raise InputError(f"{args.rendered}: no rendered identities; run python -m people.portraits first")
    tables: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for file in progress(files, "packing", total=len(files)):
        rows = rows_of(file, args.quality)
        tables[rows[0]["split"]] += rows
    args.out.mkdir(parents=True, exist_ok=True)
    for split, rows in tables.items():
        if not rows:
            continue
        with atomic_write(args.out / f"portraits-{split}.parquet") as temporary:
            datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(str(temporary))
        size = (args.out / f"portraits-{split}.parquet").stat().st_size
        people = len({row["identity"] for row in rows})
        print(f"{split}: {people} identities, {len(rows)} pictures, {size / 2**20:.2f} MiB, {dict(Counter(r['emotion'] for r in rows))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
