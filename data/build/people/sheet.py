"""Contact sheets for the card: `PYTHONPATH=data/build python -m people.sheet`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emolib.data import emofaces
from emolib.runtime import InputError, atomic_write, one_of


def portraits(split: str, folder: Path, people: int) -> Image.Image:
    """A row per identity, a column per emotion, the first `people` identities in two blocks side by side."""
    found = emofaces.portraits(split, folder)
    rows = [
        np.concatenate([np.asarray(found.image(identity, name)) for name in found.emotions], axis=1)
        for identity in found.identities[: people // 2 * 2]
    ]
    half = len(rows) // 2
    return Image.fromarray(np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1))


def scenes(folder: Path, numbers: list[int]) -> Image.Image:
    """A row per scene: the source; the same with one person changed, whom a frame marks; everybody changed.

    The person is the first one of the first scene, the second one of the second, and so on in turn."""
    found, rows = emofaces.scenes(folder), []
    for row, number in enumerate(numbers):
        k = row % len(found.get(number).people)
        one = found.truth(number, k)
        x0, y0, x1, y1 = one.people[k].box
        frame = (max(x0 - 5, 1), max(y0 - 9, 1), min(x1 + 4, one.image.width - 2), y1 + 4)
        ImageDraw.Draw(one.image).rectangle(frame, outline=(255, 255, 255), width=2)
        views = (found.get(number).image, one.image, found.truth(number).image)
        rows.append(np.concatenate([np.asarray(view) for view in views], axis=1))
    return Image.fromarray(np.concatenate(rows))


def save(picture: Image.Image, path: Path, scale: float, quality: int = 80) -> None:
    """WebP at `scale` times the size."""
    small = picture.resize(
        (int(picture.width * scale), int(picture.height * scale)), Image.Resampling.LANCZOS
    )
    with atomic_write(path) as temporary:
        small.save(temporary, "WEBP", quality=quality, method=6)
    print(f"{path}: {small.width}x{small.height}, {path.stat().st_size / 1024:.0f} KiB")


SHEETS = ("portraits", "concepts", "scenes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheets", nargs="*", default=SHEETS, help=f"of {' '.join(SHEETS)}; default all")
    parser.add_argument("--data", type=Path, default=Path("data/emofaces"))
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--scenes", type=int, nargs="+", default=[84, 4, 2, 57, 85, 95], help="their numbers")
    args = parser.parse_args()
    for name in args.sheets:
        one_of(name, SHEETS, "sheet")
    if "portraits" in args.sheets:
        save(portraits("val", args.data, args.people), args.data / "portraits.webp", 0.7)
    if "concepts" in args.sheets:
        save(portraits("concepts", args.data, 12), args.data / "concepts.webp", 0.6)
    if "scenes" in args.sheets:
        save(scenes(args.data, args.scenes), args.data / "scenes.webp", 0.85, quality=84)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"sheet: {error}", file=sys.stderr)
        sys.exit(2)
