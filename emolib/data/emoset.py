"""EmoSet-118K: 118,102 pictures by the emotion they stir in the *viewer*, with six attributes.

Yang et al., "EmoSet: A Large-scale Visual Emotion Dataset with Rich Attributes", ICCV 2023. Reads the layout
its authors distribute (info.json, {train,val,test}.json, annotation/, image/) from a folder or straight from
the zip. `write_standin` makes a small set of made-up pictures in this layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from emolib.data.files import open_zip, picture_bytes
from emolib.data.manifest import Manifest, Problems, build_manifest
from emolib.emotions.sets import MIKELS
from emolib.runtime import BROKEN, InputError, in_range, one_of, progress, reading

SPLITS = ("train", "val", "test")
SINGLE = ("brightness", "colorfulness", "scene", "facial_expression", "human_action")
MULTI = ("object",)
ATTRIBUTES = (*SINGLE, *MULTI)
_NUMBERS = ("brightness", "colorfulness")


@dataclass(frozen=True)
class EmoSet:
    """The opened data set. `info[attribute]` is its label order (a tuple; position = the authors' index)."""

    path: Path
    prefix: str
    info: dict[str, tuple[str, ...]]
    splits: tuple[str, ...]
    problems: Problems

    def entries(self, split: str) -> list:
        """The rows [emotion, image id, picture, annotation] of one split, as they stand in its JSON file."""
        return self._json(f"{one_of(split, self.splits, 'EmoSet split')}.json", list)

    def manifest(self, split: str | None = None, *, show_progress: bool = True) -> Manifest:
        """One split, or all, as a Manifest over Mikels' eight; no picture is opened.

        Attribute columns: brightness, colorfulness (floats 0..1, NaN if not annotated), scene,
        facial_expression, human_action (names or null), object (list of names). Takes a small file's time per
        picture: save the manifest and open that next time. Faults go by the `on_error` given to `read`.
        """
        present = self._present()
        rows = []
        for name in self.splits if split is None else [split]:
            entries = self.entries(name)
            for entry in progress(entries, f"EmoSet {name}") if show_progress else entries:
                row = self._row(entry, name, present)
                if row is not None:
                    rows.append(row)
        root = self.path.parent if self._zipped else self.path
        return build_manifest(rows, MIKELS, root, source="emoset", problems=self.problems)

    def stats(self) -> pd.DataFrame:
        """Pictures per emotion (rows) and split (columns), read from the split files alone."""
        counts = {split: pd.Series([row[0] for row in self.entries(split) if row]) for split in self.splits}
        table = pd.DataFrame({split: column.value_counts() for split, column in counts.items()})
        return table.reindex(MIKELS).fillna(0).astype(int)

    @property
    def _zipped(self) -> bool:
        return self.path.is_file()

    def _file(self, name: str) -> tuple[Path, str | None]:
        """The file that holds `name`, and its entry there."""
        return (self.path, self.prefix + name) if self._zipped else (self.path / name, None)

    def _place(self, name: str) -> str:
        path, entry = self._file(name)
        return str(path) if entry is None else f"{path}[{entry}]"

    def _json(self, name: str, kind: type = dict):
        """Read the JSON file `name`, whose value is of this `kind`."""
        with reading(self._place(name), "JSON file"):
            value = json.loads(picture_bytes(*self._file(name)))
            if not isinstance(value, kind):
                raise ValueError(f"not a JSON {'object' if kind is dict else 'list'}")
            return value

    def _present(self) -> Callable[[str], bool]:
        """Whether a picture is there: asked per file on disk, looked up in the table of contents of a zip."""
        if not self._zipped:
            return lambda name: (self.path / name).is_file()
        names = set(open_zip(self.path).namelist())
        return lambda name: self.prefix + name in names

    def _row(self, entry, split: str, present: Callable[[str], bool]) -> dict | None:
        """One manifest row, or None if the entry is faulty and faults are skipped."""
        listing, note = self._place(f"{split}.json"), self.problems.add
        if not (isinstance(entry, list) and len(entry) == 4 and all(isinstance(part, str) for part in entry)):
            return note("entry", f"{listing}: not a row of four: {entry!r:.80}")
        emotion, key, picture, annotation = entry
        for name in (PurePosixPath(picture), PurePosixPath(annotation)):
            if name.is_absolute() or ".." in name.parts or ":" in str(name):
                return note("path", f"{listing}: {str(name)!r} leaves the data set")
        if not present(picture):
            return note("picture", f"{self._place(picture)}: this picture is missing")
        try:
            attributes = self._attributes(annotation)
        except InputError as error:
            return note("annotation", str(error))
        path, member = self._file(picture)
        path = path.name if self._zipped else picture
        return {"id": key, "path": path, "member": member, "split": split, "emotion": emotion, **attributes}

    def _attributes(self, name: str) -> dict:
        """The six attributes of one annotation file, which must know them by names of info.json."""
        values, out = self._json(name), {}
        for attribute in ATTRIBUTES:
            value = values.get(attribute)
            labels = value if isinstance(value, list) else [] if value is None else [value]
            unknown = [label for label in labels if str(label) not in self.info[attribute]]
            if unknown:
                raise InputError(f"{self._place(name)}: {attribute} {unknown[0]!r} is not in info.json")
            out[attribute] = [str(label) for label in labels] if attribute in MULTI else value
            if attribute in _NUMBERS:
                out[attribute] = float("nan" if value is None else value)
        return out


def read_emoset(path: str | Path, *, on_error: str = "refuse") -> EmoSet:
    """Open EmoSet-118K at `path`: the folder, the one above it, or the zip file as published.

    `on_error` "refuse" raises InputError at the first fault (missing split file, missing picture, broken
    annotation, label outside info.json), "skip" leaves the row out and counts it in `problems`.
    """
    path = Path(path)
    files = [*path.glob("info.json"), *path.glob("*/info.json")]
    below = [file.relative_to(path).as_posix() for file in files]
    names = below if path.is_dir() else open_zip(path).namelist()
    prefixes = [name[: -len("info.json")] for name in names if PurePosixPath(name).name == "info.json"]
    if not prefixes:
        raise InputError(f"{path}: holds no info.json, so it is not EmoSet-118K")
    prefix = min(prefixes, key=len)
    place = (path / prefix, "") if path.is_dir() else (path, prefix)
    data = EmoSet(*place, {}, (), Problems(on_error))
    data.info.update(_info(data._json("info.json"), data._place("info.json")))
    present = data._present()
    for split in SPLITS:
        if not present(f"{split}.json"):
            data.problems.add("split", f"{data._place(split + '.json')}: this file is missing")
    return replace(data, splits=tuple(split for split in SPLITS if present(f"{split}.json")))


def _info(value, place: str) -> dict[str, tuple[str, ...]]:
    """Label orders by attribute. InputError: one is missing, or the emotions are in another order."""
    orders = {}
    with reading(place, "list of EmoSet's labels", (*BROKEN, TypeError, AttributeError)):
        for attribute in ("emotion", *ATTRIBUTES):
            index = value[attribute]["label2idx"]
            orders[attribute] = tuple(sorted(index, key=index.__getitem__))
        if orders["emotion"] != MIKELS:
            raise ValueError(f"emotions in the order {', '.join(orders['emotion'])}, not EmoSet's")
    return orders


# The stand-in: label lists of the real sizes, made-up pictures and annotations.
_FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise")
_TENTHS = tuple(f"{i / 10:.1f}" for i in range(11))
# The real scene, object and action names stay with their authors: numbered ones take their place.
_LABELS = {
    "emotion": MIKELS,
    "brightness": _TENTHS,
    "colorfulness": _TENTHS,
    "scene": tuple(f"scene_{i:03d}" for i in range(254)),
    "object": tuple(f"Object {i:03d}" for i in range(409)),
    "facial_expression": _FACES,
    "human_action": tuple(f"action {i:03d}" for i in range(264)),
}
# How often an attribute is annotated at all: brightness and colourfulness are measured, the rest are seen
# or not.
_SHARE = {"scene": 0.7, "object": 0.6, "facial_expression": 0.3, "human_action": 0.3}


def write_standin(folder: str | Path, n: int = 80, seed: int = 0, *, size: int = 64) -> Path:
    """Write `n` made-up pictures (size x size JPEG) in EmoSet-118K's layout; returns `folder`.

    Emotions take turns; of each emotion every tenth picture is in val, two in ten in test, the rest in train.
    Same arguments, same bytes. Brightness and colourfulness are those of the picture; all else is drawn at
    random and means nothing. InputError if `n` is below 1, or if `folder` exists and is not empty.
    """
    in_range(n, 1, len(MIKELS) * 100_000, "number of pictures")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder; choose another")
    for kind in ("image", "annotation"):
        for emotion in MIKELS:
            (folder / kind / emotion).mkdir(parents=True, exist_ok=True)
    (folder / "info.json").write_text(json.dumps(_standin_info()))
    rng = np.random.default_rng(seed)
    splits: dict[str, list] = {"train": [], "val": [], "test": []}
    for i in range(n):
        emotion, number = MIKELS[i % 8], i // 8
        key = f"{emotion}_{number:05d}"
        picture, annotation = f"image/{emotion}/{key}.jpg", f"annotation/{emotion}/{key}.json"
        pixels = _standin_pixels(rng, size)
        Image.fromarray(pixels).save(folder / picture, quality=90)
        values = {"image_id": key, "emotion": emotion, **_standin_attributes(rng, pixels)}
        (folder / annotation).write_text(json.dumps(values))
        split = {1: "test", 2: "val", 6: "test"}.get(number % 10, "train")
        splits[split].append([emotion, key, picture, annotation])
    for split, rows in splits.items():
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


def _standin_info() -> dict:
    """info.json; as in the real one, `idx2label` has keys of text, and numbers for the two in numbers."""
    return {
        name: {
            "label2idx": {label: i for i, label in enumerate(labels)},
            "idx2label": {str(i): float(x) if labels is _TENTHS else x for i, x in enumerate(labels)},
        }
        for name, labels in _LABELS.items()
    }


def _standin_pixels(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: a few soft blobs of colour over a flat ground."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    saturation = rng.uniform()
    picture = np.ones((size, size, 3)) * _colour(rng, saturation)
    for _ in range(4):
        cx, cy, width = *rng.uniform(size=2), rng.uniform(0.1, 0.3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))[..., None]
        picture = (1 - blob) * picture + blob * _colour(rng, saturation)
    return (255 * picture).round().astype(np.uint8)


def _colour(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """A random colour between grey (0) and full (1) saturation."""
    colour = rng.uniform(size=3)
    return colour.mean() + saturation * (colour - colour.mean())


def _standin_attributes(rng: np.random.Generator, picture: np.ndarray) -> dict:
    """An annotation: the two measured attributes, and those of the others that happen to be annotated."""
    values = picture / 255.0
    out = {
        "brightness": round(float(values.mean()), 1),
        "colorfulness": round(float((values.max(-1) - values.min(-1)).mean()), 1),
    }
    for name, share in _SHARE.items():
        given, labels = rng.uniform() < share, _LABELS[name]
        chosen = rng.choice(len(labels), size=int(rng.integers(1, 4)), replace=False)
        if given:
            out[name] = [labels[i] for i in chosen] if name == "object" else labels[chosen[0]]
    return out
