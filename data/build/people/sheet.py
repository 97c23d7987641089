"""Contact sheets for the card: `PYTHONPATH=data/build python -m people.sheet`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from emolib.data import emofaces
from emolib.runtime import atomic_write


def portraits(split: str, folder: Path, people: int) -> Image.Image:
    """A row per identity, a column per emotion, the first `people` identities in two blocks side by side."""
    found = emofaces.portraits(split, folder)
    rows = [
        np.concatenate([np.asarray(found.image(identity, name)) for name in found.emotions], axis=1)
        for identity in found.identities[: people // 2 * 2]
    ]
    half = len(rows) // 2
    return Image.fromarray(np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1))


def scenes(folder: Path, count: int) -> Image.Image:
    """A row per scene: the source, the first person changed, everybody changed, and the masks."""
    found = emofaces.scenes(folder)
    palette = np.array(
        [(24, 24, 24), (214, 72, 72), (72, 150, 92), (72, 104, 196), (224, 180, 64)], dtype=np.uint8
    )
    rows = []
    for number in found.ids[:count]:
        views = [np.asarray(found.get(number, version).image) for version in ("source", "person0", "all")]
        owners = sum((k + 1) * person.mask for k, person in enumerate(found.get(number, "source").people))
        rows.append(np.concatenate([*views, palette[owners.astype(int)]], axis=1))
    return Image.fromarray(np.concatenate(rows))


def save(picture: Image.Image, path: Path, scale: float) -> None:
    """WebP at `scale` times the size."""
    small = picture.resize(
        (int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS
    )
    with atomic_write(path) as temporary:
        small.save(temporary, "WEBP", quality=80, method=6)
    print(f"{path}: {small.width}x{small.height}, {path.stat().st_size / 1024:.0f} KiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/emofaces"))
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--scenes", type=int, default=6)
    args = parser.parse_args()
    save(portraits("val", args.data, args.people), args.data / "portraits.webp", 0.7)
    save(portraits("concepts", args.data, 12), args.data / "concepts.webp", 0.6)
    if (args.data / "scenes-test.parquet").is_file():
        save(scenes(args.data, args.scenes), args.data / "scenes.webp", 0.6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
