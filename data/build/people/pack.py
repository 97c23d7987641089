"""Packs what was rendered into parquet: `PYTHONPATH=data/build python -m people.pack`.

Identities ending in 8 go to val, in 9 to test, the rest to train; those also rendered under surprise and
contempt to `concepts`. A picture whose identity is not rendered yet is simply not in the file, so this can
run at any time.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from scipy.ndimage import binary_closing
from train.captions import ATTRIBUTES, describe

from emolib.data.framing import LANDMARKS
from emolib.emotions import facs, spaces, words
from emolib.emotions.sets import HELD_OUT
from emolib.runtime import InputError, atomic_write, progress
from people import look
from people.portraits import FIRST_CONCEPT

BROKEN = (54, 55)  # scenes left out: a body sunk into its neighbour; a mouth behind the neighbour's hair
SPLITS = ("train", "val", "test", "concepts")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "image_id": datasets.Value("string"),
        "identity": datasets.Value("int32"),
        **{name: datasets.Value("string") for name in ("split", "emotion", "variant", "caption")},
        **{
            name: datasets.Value("float32")
            for name in ("intensity", "valence", "arousal", "yaw", "pitch", "roll")
        },
        **{name: datasets.Value("bool") for name in ("beard", "glasses")},
        **{
            name: datasets.Value("string")
            for name in (
                "age",
                "gender",
                "skin",
                "hair_style",
                "hair_color",
                "clothes_color",
                "background",
                "background_color",
            )
        },
        "arkit": datasets.Sequence(datasets.Value("float32"), length=len(facs.ARKIT)),
        "aus": datasets.Sequence(datasets.Value("float32"), length=len(facs.AUS)),
        "face_box": datasets.Sequence(datasets.Value("int32"), length=4),
        "landmarks": datasets.Sequence(
            datasets.Sequence(datasets.Value("float32"), length=2), length=len(LANDMARKS)
        ),
    }
)

PERSON = {
    "identity": datasets.Value("int32"),
    **{name: datasets.Value("string") for name in ("emotion", "target", "gender", "hair_color")},
    "box": datasets.Sequence(datasets.Value("int32"), length=4),
}
SCENE_FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "scene": datasets.Value("int32"),
        "version": datasets.Value("string"),
        "n_people": datasets.Value("int32"),
        "people": [PERSON],
        "mask": datasets.Image(),
        "changed": datasets.Image(),
        "caption": datasets.Value("string"),
    }
)


def split_of(identity: int) -> str:
    """The split of an identity, by its last digit; from FIRST_CONCEPT on all are `concepts`."""
    if identity >= FIRST_CONCEPT:
        return "concepts"
    return {8: "val", 9: "test"}.get(identity % 10, "train")


def encode(picture: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 -> WebP bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) uint8 -> PNG bytes of 8 bits a pixel; bool -> of one."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def changes(pictures: np.ndarray, owners: np.ndarray, versions: list[str]) -> dict[str, np.ndarray]:
    """Where each version differs from the source: version -> (H, W) bool.

    `pictures` (V, H, W, 3) uint8, the source first; `owners` (H, W) says who is seen in each pixel (person k
    is k + 1, nobody is 0). Holes where a new face happens to have the old one's colour are closed, but never
    over somebody else; "all" is the union of the persons. InputError if a version then differs elsewhere.
    """
    differs = dict(zip(versions, (pictures != pictures[0]).any(axis=-1), strict=True))
    found = {"source": np.zeros(owners.shape, dtype=bool)}
    for version in versions:
        if version.startswith("person"):
            mine = np.isin(owners, (0, int(version.removeprefix("person")) + 1))
            closed = binary_closing(np.pad(differs[version], 4), iterations=4)[4:-4, 4:-4]
            found[version] = differs[version] | (closed & mine)
    found["all"] = np.any(list(found.values()), axis=0)
    for version in versions:
        if (differs[version] & ~found[version]).any():
            raise InputError(f"version {version!r} changes pixels that no person's version changes")
    return found


def _felt(person: dict, k: int, version: str) -> str:
    """The emotion that person k shows in a version of the scene."""
    return person["target"] if version in ("all", f"person{k}") else person["emotion"]


def _mention(person: dict, emotion: str) -> str:
    """ "an angry woman"."""
    word = words.adjective(emotion)
    return f"{words.article(word)} {word} {person['gender']}"


def scene_rows(file: Path, quality: int) -> list[dict]:
    """The table rows of one scene. InputError if the file is broken or its pictures contradict each other."""
    try:
        with np.load(file) as kept:
            pictures, owners, meta = kept["pictures"], kept["mask"], json.loads(str(kept["meta"]))
        changed = changes(pictures, owners, meta["versions"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: not a rendered scene ({error}); delete it and render it again") from None
    people, mask = meta["people"], encode_mask(owners)
    rows = []
    for version, picture in zip(meta["versions"], pictures, strict=True):
        who = [_mention(p, _felt(p, k, version)) for k, p in enumerate(people)]
        name = f"scene-{meta['scene']:04d}-{version}"
        rows.append(
            {
                "image": {"bytes": encode(picture, quality), "path": f"{name}.webp"},
                "scene": meta["scene"],
                "version": version,
                "n_people": len(people),
                "people": people,
                "mask": {"bytes": mask, "path": f"{name}-mask.png"},
                "changed": {"bytes": encode_mask(changed[version]), "path": f"{name}-changed.png"},
                "caption": "photo of " + ", ".join(who[:-1]) + " and " + who[-1] + " at a table",
            }
        )
    return rows


def rows_of(file: Path, quality: int) -> list[dict]:
    """The table rows of one identity."""
    with np.load(file) as stored:
        pictures, meta = stored["pictures"], json.loads(str(stored["meta"]))
    person, identity = look.sample(meta["seed"]), meta["seed"]
    shared = {name: getattr(person, name) for name in ATTRIBUTES[1:]}
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
            "landmarks": record["landmarks"],
            **dict(zip(("yaw", "pitch", "roll"), record["pose"], strict=True)),
            **shared,
        }
        row["caption"] = caption(row)
        rows.append(row)
    return rows


def caption(row: dict) -> str:
    """A full description, worded by identity; surprise and contempt are not named."""
    wording = np.random.default_rng([row["identity"], 5])
    named = set(ATTRIBUTES) - ({"emotion"} if row["emotion"] in HELD_OUT else set())
    return describe(row, named, wording).text


def write(rows: list[dict], features: datasets.Features, path: Path) -> None:
    """A parquet file that `datasets.load_dataset` opens; whole or not at all.

    Not by `Dataset.to_parquet`, which would store the mask that all versions of a scene share once for each.
    """
    dataset = datasets.Dataset.from_list(rows, features=features)
    with atomic_write(path) as temporary:
        pq.write_table(dataset.data.table.cast(dataset.features.arrow_schema), temporary, compression="zstd")
    print(f"{path.name}: {len(rows)} pictures, {path.stat().st_size / 1e6:.2f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portraits", type=Path, default=Path("data/build/work/portraits"))
    parser.add_argument("--scenes", type=Path, default=Path("data/build/work/scenes"))
    parser.add_argument("--out", type=Path, default=Path("data/emofaces"))
    parser.add_argument("--quality", type=int, default=84, help="WebP quality of the portraits")
    parser.add_argument("--scene-quality", type=int, default=78, help="WebP quality of the scenes")
    args = parser.parse_args()
    portraits, scenes = (sorted(folder.glob("[0-9]*.npz")) for folder in (args.portraits, args.scenes))
    scenes = [file for file in scenes if int(file.stem) not in BROKEN]
    if not portraits and not scenes:
        raise InputError(f"{args.portraits}: nothing rendered; run python -m people.portraits first")
    args.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for file in progress(portraits, "packing portraits", total=len(portraits)):
        rows = rows_of(file, args.quality)
        tables[rows[0]["split"]] += rows
    for split, rows in tables.items():
        if rows:
            write(rows, FEATURES, args.out / f"portraits-{split}.parquet")
            people, counts = {row["identity"] for row in rows}, Counter(row["emotion"] for row in rows)
            print(f"  {len(people)} identities; {dict(counts)}")
    rows = []
    for file in progress(scenes, "packing scenes", total=len(scenes)):
        rows += scene_rows(file, args.scene_quality)
    if rows:
        write(rows, SCENE_FEATURES, args.out / "scenes-test.parquet")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"pack: {error}", file=sys.stderr)
        sys.exit(2)
