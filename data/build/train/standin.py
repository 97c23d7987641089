"""Draws cartoon faces in EmoFaces' format: a stand-in to try the recipes on before the real renders exist.

`python -m train.standin FOLDER` writes portraits-{train,val,test,concepts}.parquet there.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from emolib.data.framing import LANDMARKS
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL
from emolib.runtime import atomic_write

SIZE = 96
# mouth curve, mouth opening, brow slope, brow height, eye opening, valence, arousal
FACES = {
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.6, 0.0, 0.0),
    "amusement": (1.0, 0.7, 0.0, 0.2, 0.25, 0.7, 0.4),
    "awe": (0.1, 0.5, 0.0, 0.9, 0.9, 0.5, 0.3),
    "contentment": (0.7, 0.0, 0.0, 0.0, 0.15, 0.7, -0.5),
    "excitement": (1.0, 1.0, 0.0, 1.0, 1.0, 0.8, 0.8),
    "anger": (-0.5, 0.2, 1.0, -0.8, 0.8, -0.7, 0.7),
    "disgust": (-0.8, 0.5, 0.6, -0.6, 0.2, -0.7, 0.2),
    "fear": (-0.5, 0.6, -0.8, 0.8, 1.0, -0.7, 0.7),
    "sadness": (-1.0, 0.0, -1.0, 0.1, 0.4, -0.7, -0.5),
    "surprise": (0.0, 1.0, 0.0, 1.0, 1.0, 0.2, 0.8),
    "contempt": (0.4, 0.0, 0.5, -0.4, 0.3, -0.5, 0.1),
}
COLORS = {
    "black": (30, 28, 30), "brown": (96, 60, 36), "blond": (226, 192, 110), "red": (176, 66, 30),
    "grey": (150, 150, 150), "blue": (80, 120, 200), "green": (80, 160, 90), "white": (235, 235, 235),
}  # fmt: skip
SKIN = {"light": (240, 205, 180), "medium": (200, 150, 110), "dark": (110, 70, 50)}


def person(rng: np.random.Generator) -> dict:
    """Random attributes of one identity."""
    pick = lambda *words: str(rng.choice(words))  # noqa: E731
    gender = pick("woman", "man")
    return {
        "gender": gender,
        "age": pick("young", "adult", "old"),
        "skin": pick(*SKIN),
        "hair_style": pick("short", "long", "bob"),
        "hair_color": pick("black", "brown", "blond", "red", "grey"),
        "beard": bool(gender == "man" and rng.random() < 0.4),
        "glasses": bool(rng.random() < 0.3),
        "clothes_color": pick("red", "green", "blue", "white"),
        "background": pick("plain", "gradient"),
        "background_color": pick("blue", "green", "white", "grey"),
    }


def draw(who: dict, emotion: str, intensity: float, place: tuple[float, float]) -> Image.Image:
    """The face of `who`, drawn at twice the size and shrunk; `place` shifts it a little."""
    curve, opening, slope, height, eyes = (v * intensity for v in FACES[emotion][:5])
    eyes = 0.6 * (1 - intensity) + eyes
    canvas = Image.new("RGB", (2 * SIZE, 2 * SIZE), COLORS[who["background_color"]])
    pen, x, y = ImageDraw.Draw(canvas), 96 + place[0], 100 + place[1]
    skin, hair = SKIN[who["skin"]], COLORS[who["hair_color"]]
    if who["hair_style"] != "short":
        pen.rounded_rectangle(
            (x - 74, y - 84, x + 74, y + (80 if who["hair_style"] == "long" else 30)), 50, fill=hair
        )
    pen.ellipse((x - 66, y - 84, x + 66, y + 60), fill=hair)
    pen.rectangle((x - 80, y + 84, x + 80, 192), fill=COLORS[who["clothes_color"]])
    pen.ellipse((x - 58, y - 66, x + 58, y + 80), fill=skin)
    if who["beard"]:
        pen.chord((x - 52, y - 10, x + 52, y + 78), 0, 180, fill=hair)
    for side in (-1, 1):
        ex, ey = x + 26 * side, y - 14
        pen.ellipse((ex - 13, ey - 14 * eyes, ex + 13, ey + 14 * eyes), fill="white", outline="black")
        pen.ellipse((ex - 4, ey - min(4, 12 * eyes), ex + 4, ey + min(4, 12 * eyes)), fill="black")
        by = ey - 22 - 7 * height
        pen.line((ex - 14 * side, by + 8 * slope, ex + 14 * side, by - 8 * slope), fill=hair, width=5)
        if who["glasses"]:
            pen.ellipse((ex - 20, ey - 19, ex + 20, ey + 19), outline="black", width=3)
    t = np.linspace(-1, 1, 21)
    upper = y + 42 + 12 * curve * (1 - t**2) - 12 * curve * 0.5
    lower = upper + 3 + 18 * opening * (1 - t**2)
    outline = [*zip(x + 26 * t, upper, strict=True), *zip((x + 26 * t)[::-1], lower[::-1], strict=True)]
    pen.polygon([tuple(map(float, point)) for point in outline], fill=(120, 20, 30))
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def landmarks(place: tuple[float, float]) -> list[list[float]]:
    """The landmarks of a face drawn at `place`, in pixels: pupils and mouth corners where they are drawn, the
    others about the nose."""
    x, y = 96 + place[0], 100 + place[1]
    seen = {"left_pupil": (x + 26, y - 14), "right_pupil": (x - 26, y - 14)}
    seen |= {"left_mouth_corner": (x + 26, y + 42), "right_mouth_corner": (x - 26, y + 42)}
    return [[v / 2 for v in seen.get(name, (x + i - 14, y + i))] for i, name in enumerate(LANDMARKS)]


def rows(split: str, identities: range, emotions: tuple[str, ...]) -> list[dict]:
    """The rows of one split, in the columns of EmoFaces."""
    out = []
    for identity in identities:
        rng = np.random.default_rng(identity)
        who, place = person(rng), tuple(rng.uniform(-8, 8, 2))
        for emotion in emotions:
            intensity = float(rng.uniform(0.6, 1))
            buffer = io.BytesIO()
            draw(who, emotion, intensity, place).save(buffer, "WEBP", quality=90)
            name = f"{identity:05d}-{emotion}"
            box = [int(v + p / 2) for v, p in zip((19, 17, 77, 90), (*place, *place), strict=True)]
            out.append(
                {
                    "image": {"bytes": buffer.getvalue(), "path": f"{name}.webp"},
                    "image_id": name,
                    "identity": identity,
                }
                | {"split": split, "emotion": emotion, "intensity": intensity, "variant": "a"}
                | {"valence": FACES[emotion][5], "arousal": FACES[emotion][6]}
                | {"caption": f"a cartoon of a {who['gender']}"}
                | who
                | {"face_box": box, "landmarks": landmarks(place)}
            )
    return out


def write_masks(frame: pd.DataFrame, folder: Path) -> None:
    """Write the masks of every identity as `people.portraits` does: all that has not the wall's colour."""
    folder.mkdir(exist_ok=True)
    for identity, rows in frame.groupby("identity"):
        pictures = np.stack(
            [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in rows["image"]]
        )
        masks = 255 * (np.abs(pictures - pictures[:, :1, :1].astype(int)).max(-1) > 24).astype(np.uint8)
        meta = json.dumps({"records": [{"emotion": emotion} for emotion in rows["emotion"]]})
        np.savez(folder / f"{identity:06d}.npz", masks=masks, meta=np.array(meta))


def write(folder: Path, people: dict[str, int]) -> None:
    """Write the parquet files, and the masks in `folder`/renders; `people`: number of identities by split."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for split, count in people.items():
        emotions = EMOFACES_ALL if split == "concepts" else EMOFACES
        frame = pd.DataFrame(rows(split, range(first, first + count), emotions))
        first += count
        frame = frame.astype(
            {"identity": "int32", "intensity": "float32", "valence": "float32", "arousal": "float32"}
        )
        with atomic_write(folder / f"portraits-{split}.parquet") as temporary:
            frame.to_parquet(temporary)
        write_masks(frame, folder / "renders")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.standin", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--people", type=int, default=60, help="train identities; a quarter as many in val and test"
    )
    args = parser.parse_args()
    quarter = max(2, args.people // 4)
    write(args.folder, {"train": args.people, "val": quarter, "test": quarter, "concepts": 2})
    print(f"wrote {args.folder}")


if __name__ == "__main__":
    main()
