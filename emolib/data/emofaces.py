"""EmoFaces, rendered people with ground truth: portraits by (identity, emotion); scenes with counterfactuals.

The files are parquet; pictures are decoded on access. Their card is `data/emofaces/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from emolib.data.files import picture_bytes, read_table
from emolib.data.manifest import Manifest, build_manifest
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL
from emolib.emotions.words import article
from emolib.runtime import InputError, one_of, repo_path

SPLITS = ("train", "val", "test", "concepts")
_SCENE_COLUMNS = ("scene", "version", "people", "mask", "changed")
_MEND = "render it with the recipe in data/build, or fetch the repository's data/ folder"


@dataclass(frozen=True)
class Person:
    """One person of a scene: the face `box` [x0, y0, x1, y1] px, `mask` (H, W) bool of what is seen of them.

    `emotion` is felt in the source picture, `target` in the counterfactuals that change this person.
    """

    identity: int
    emotion: str
    target: str
    gender: str
    hair_color: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """One picture of a scene: PIL RGB `image`, its `people` in the order of their mask values, the caption.

    `changed` (H, W) bool: where this version differs from the source, nowhere in the source itself. All
    other pixels of `image` are the source's, bit for bit.
    """

    scene: int
    version: str
    image: Image.Image
    people: tuple[Person, ...]
    changed: np.ndarray
    caption: str


@dataclass(frozen=True)
class Portraits:
    """The portraits of one split; `frame` holds the file's columns but the pictures, in its order."""

    path: Path
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def identities(self) -> tuple[int, ...]:
        """Every identity of the split, ascending."""
        return tuple(int(i) for i in np.sort(self.frame["identity"].unique()))

    def spread(self, n: int) -> tuple[int, ...]:
        """`n` of the identities, evenly over all of them; all where there are fewer."""
        return self.identities[:: max(1, len(self.identities) // n)][:n]

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that occur, in label order."""
        present = set(self.frame["emotion"])
        return tuple(name for name in EMOFACES_ALL if name in present)

    @cached_property
    def _rows(self) -> dict[tuple[int, str], int]:
        # The first of several pictures of one pair wins: reversed, so that it is written last.
        keys = list(zip(self.frame["identity"].tolist(), self.frame["emotion"].tolist(), strict=True))
        return {key: i for i, key in reversed(list(enumerate(keys)))}

    def row(self, identity: int, emotion: str) -> int:
        """Position of the portrait of `identity` under `emotion`; InputError if there is none."""
        one_of(emotion, self.emotions, "emotion")
        if (int(identity), emotion) not in self._rows:
            people = f"its identities are {ends(self.identities)}"
            raise InputError(f"{self.path}: no identity {identity} with a picture of {emotion}; {people}")
        return self._rows[int(identity), emotion]

    def record(self, identity: int, emotion: str) -> pd.Series:
        """All that is known of that portrait (valence, aus, caption, face_box, ...)."""
        return self.frame.iloc[self.row(identity, emotion)]

    def image(self, identity: int, emotion: str) -> Image.Image:
        """The portrait of `identity` under `emotion`, PIL RGB."""
        return self.image_at(self.row(identity, emotion))

    def image_at(self, index: int) -> Image.Image:
        """The portrait at this position of `frame`, PIL RGB."""
        return _open_row(self.path, index)

    @cached_property
    def manifest(self) -> Manifest:
        """The same pictures as a Manifest, labels as in `sets.EMOFACES`, in EMOFACES_ALL for concepts."""
        concepts = (self.frame["split"] == "concepts").any()
        labels = EMOFACES_ALL if concepts else EMOFACES
        boxes = self.frame["face_box"]
        people = [[{"emotion": e, "box": list(b)}] for e, b in zip(self.frame["emotion"], boxes, strict=True)]
        rows = self.frame.assign(id=self.frame["image_id"], path=self.path.name, people=people)
        rows = rows.assign(member=[str(i) for i in range(len(rows))]).drop(columns=["image_id", "face_box"])
        return build_manifest(rows, labels, self.path.parent, source="emofaces")


@dataclass(frozen=True)
class Scenes:
    """The scenes (test only): of each the source, and counterfactuals in which one person, or all, change."""

    path: Path
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Every scene number, ascending."""
        return tuple(int(i) for i in np.sort(self.frame["scene"].unique()))

    def versions(self, scene: int) -> tuple[str, ...]:
        """The versions of this scene: "source", "all", "person0", ..."""
        return tuple(self.frame.loc[self.frame["scene"] == scene, "version"])

    def get(self, scene: int, version: str = "source") -> Scene:
        """This version of this scene, picture and masks decoded now.

        The files are WebP, which alters every pixel a little: pixels outside `changed` are taken from the
        decoded source, so that a counterfactual differs from it only where somebody changed.
        """
        index = self._row(scene, version)
        row, image = self.frame.iloc[index], _open_row(self.path, index)
        place = f"{self.path}[{index}]"
        owners, changed = (_read_mask(row[name], f"{place}: {name}") for name in ("mask", "changed"))
        original = image if version == "source" else _open_row(self.path, self._row(scene, "source"))
        if {owners.shape, changed.shape, original.size[::-1]} != {image.size[::-1]}:
            raise InputError(f"{place}: picture, masks and source differ in size; {_MEND}")
        image = Image.composite(image, original, Image.fromarray(changed != 0))
        people = tuple(_person(person, owners == k + 1) for k, person in enumerate(row["people"]))
        return Scene(int(scene), version, image, people, changed != 0, row["caption"])

    def _row(self, scene: int, version: str) -> int:
        """Position in `frame`; InputError if there is no such scene or version."""
        one_of(str(scene), self.ids, "scene")
        one_of(version, self.versions(scene), f"version of scene {scene}")
        return int(np.flatnonzero((self.frame["scene"] == scene) & (self.frame["version"] == version))[0])

    def truth(self, scene: int, person: int | None = None) -> Scene:
        """What editing person `person` (all, if None) into their targets should look like."""
        return self.get(scene, "all" if person is None else f"person{person}")

    @cached_property
    def manifest(self) -> Manifest:
        """The source pictures as a Manifest: people with emotion and face box, no label of the whole."""
        rows = [
            {
                "id": f"scene-{row.scene}",
                "path": self.path.name,
                "member": str(i),
                "split": "test",
                "people": [{"emotion": p["emotion"], "box": list(p["box"])} for p in row.people],
                "scene": int(row.scene),
                "caption": row.caption,
            }
            for i, row in enumerate(self.frame.itertuples())
            if row.version == "source"
        ]
        return build_manifest(rows, EMOFACES, self.path.parent, source="emofaces")


def description(record: pd.Series, *, background: bool = True) -> str:
    """Who is on a portrait, for prompts, in the captions' words but without the emotion.

    E.g. "old light-skinned man with short grey hair, a beard and blue clothes, in front of a plain green
    background"; `record` is a row of `Portraits.frame`.
    """
    style, color = record["hair_style"], record["hair_color"]
    odd = {"bald": "a bald head", "bun": f"{article(color)} {color} hair bun"}
    worn = [odd.get(style, f"{style} {color} hair")]
    worn += ["a beard"] * bool(record["beard"]) + ["glasses"] * bool(record["glasses"])
    worn = f"{', '.join(worn)} and {record['clothes_color']} clothes"
    person = f"{record['age']} {record['skin']}-skinned {record['gender']} with {worn}"
    place = f"{record['background']} {record['background_color']} background"
    return f"{person}, in front of {article(place)} {place}" if background else person


def ends(numbers: Sequence[int]) -> str:
    """The first and the last of them, for a message: "3 to 90"."""
    return f"{min(numbers)} to {max(numbers)}"


def in_short(gender: str, hair_color: str) -> str:
    """The shortest description for a prompt: "woman with red hair"; "man" for one who has none."""
    return gender if hair_color == "none" else f"{gender} with {hair_color} hair"


def portraits(split: str = "test", folder: str | Path | None = None) -> Portraits:
    """Open the portraits of "train", "val", "test" or "concepts", by default those of the repository."""
    one_of(split, SPLITS, "EmoFaces split")
    path, frame = _read(folder, f"portraits-{split}.parquet", ("identity", "emotion", "image_id", "face_box"))
    return Portraits(path, frame)


def scenes(folder: str | Path | None = None) -> Scenes:
    """Open the scenes of several people, by default those of the repository."""
    return Scenes(*_read(folder, "scenes-test.parquet", _SCENE_COLUMNS))


def _read(folder: str | Path | None, name: str, needed: tuple[str, ...]) -> tuple[Path, pd.DataFrame]:
    """The file's path and all its columns but the pictures."""
    path = (repo_path("data", "emofaces") if folder is None else Path(folder)) / name
    if not path.is_file():
        raise InputError(f"{path}: EmoFaces is not there; {_MEND}")
    return path, read_table(path, needed)


def _open_row(path: Path, index: int) -> Image.Image:
    from emolib.images import open_image  # imports torch: the tables are read without it

    return open_image(picture_bytes(path, str(index)), name=f"{path}[{index}]")


def _read_mask(value: dict, name: str) -> np.ndarray:
    """(H, W) uint8 of a mask column's value. InputError, with its `name`, for what is no picture."""
    from emolib.images import open_image

    return np.asarray(open_image(value["bytes"] or b"", name=name))[..., 0]


def _person(value: dict, mask: np.ndarray) -> Person:
    box = tuple(int(v) for v in value["box"])
    names = {name: value[name] for name in ("emotion", "target", "gender", "hair_color")}
    return Person(identity=int(value["identity"]), box=box, mask=mask, **names)
