"""Any folder of pictures as a `Manifest`: ImageFolder layout, or a metadata table beside or around the
pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emolib.data._files import PICTURE_SUFFIXES, read_parquet
from emolib.data.build import build
from emolib.data.manifest import Manifest
from emolib.data.problems import Problems
from emolib.emotions import sets
from emolib.runtime import InputError, first_line

METADATA = ("metadata.parquet", "metadata.csv")
# Names a table may give its columns, the first present one is taken.
PATH_COLUMNS = ("path", "file_name", "filename", "image", "file")
LABEL_COLUMNS = ("emotion", "label", "class")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def read(path: str | Path, *, labels: Sequence[str] | None = None, on_error: str = "refuse") -> Manifest:
    """Read a folder of pictures, or a metadata table (.csv, .parquet), without opening a picture.

    A folder that holds metadata.parquet or metadata.csv is read by it (columns: path or file_name; emotion or
    label; optionally distribution, valence and arousal in [-1, 1], split, and any others, which are kept). A
    parquet table may hold the pictures themselves in a column `image`. Otherwise folders are labels:
    [split/]label/picture. Pictures that lie in no label folder have no label.

    `labels` fixes the label order; without it the first known set that has every name is taken
    (`emotions.sets.SETS`), else the names in alphabetical order. Faults: `on_error` "refuse" or "skip".
    """
    path, problems = Path(path), Problems(on_error)
    if path.is_dir():
        table = next((path / name for name in METADATA if (path / name).is_file()), None)
        rows = _tree(path) if table is None else _table(table, problems)
        root = path
    elif path.is_file() and path.suffix in (".csv", ".parquet"):
        rows, root = _table(path, problems), path.parent
    elif path.exists():
        raise InputError(f"{path}: is neither a folder of pictures nor a metadata table (.csv, .parquet)")
    else:
        raise InputError(f"{path}: no such folder or metadata table (.csv, .parquet)")
    if not len(rows):
        if problems.lines:
            raise InputError(f"{path}: holds no picture that could be taken ({problems}); mend the table")
        known = ", ".join(sorted(PICTURE_SUFFIXES))
        raise InputError(f"{path}: holds no picture ({known}); put some there, or give another folder")
    return build(rows, labels or _labels(rows), root, source="folder", problems=problems)


def _tree(root: Path) -> pd.DataFrame:
    """Rows of an ImageFolder layout, sorted by path; hidden files and folders are passed over."""
    rows = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or Path(name).suffix.lower() not in PICTURE_SUFFIXES:
                continue
            inside = (Path(folder) / name).relative_to(root)
            above = list(inside.parts[:-1])
            split = SPLIT_NAMES.get(above[0].lower()) if above else None
            label = above[1:] if split else above
            label = label[0].lower() if label else None
            rows.append({"path": inside.as_posix(), "split": split, "emotion": label})
    return pd.DataFrame(rows)


def _table(path: Path, problems: Problems) -> pd.DataFrame:
    """Rows of a metadata table; pictures it names must exist below its folder."""
    frame, embedded = _read_table(path)
    label = next((name for name in LABEL_COLUMNS if name in frame), None)
    if label:
        names = frame[label]
        frame = frame.drop(columns=label).assign(
            emotion=names.where(names.isna(), names.astype(str).str.lower())
        )
    if embedded:
        return frame.assign(path=path.name, member=[str(i) for i in range(len(frame))])
    column = next((name for name in PATH_COLUMNS if name in frame), None)
    if column is None:
        raise InputError(f"{path}: names no pictures; it needs a column {' or '.join(PATH_COLUMNS[:2])}")
    frame = frame.rename(columns={column: "path"})
    good = []
    for i, name in enumerate(frame["path"]):
        fault = _fault(path.parent, name)
        if fault:
            problems.add("picture", f"{path}: row {i + 1}: {fault}")
        else:
            good.append(i)
    return frame.iloc[good].reset_index(drop=True)


def _read_table(path: Path) -> tuple[pd.DataFrame, bool]:
    """The table, and whether its own rows hold the pictures (then without them)."""
    if path.suffix == ".csv":
        try:
            return pd.read_csv(path), False
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as a table ({first_line(error)})") from None
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None
    kind = schema.field("image").type if "image" in schema.names else None
    embedded = kind is not None and (pa.types.is_struct(kind) or pa.types.is_binary(kind))
    columns = [name for name in schema.names if not (embedded and name == "image")]
    return _named_classes(read_parquet(path, columns).to_pandas(), schema.metadata or {}), embedded


def _named_classes(frame: pd.DataFrame, metadata: dict) -> pd.DataFrame:
    """The names in place of class numbers, where the file was written by the `datasets` library."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for column, feature in features.items():
        if column in frame and isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = dict(enumerate(feature["names"]))
            frame[column] = frame[column].map(names)
    return frame


def _fault(root: Path, name) -> str | None:
    """Why the picture `name` of a metadata table cannot be taken, or None."""
    if not isinstance(name, str) or not name:
        return "names no picture"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{name!r} leaves the folder; give paths below it"
    return None if (root / name).is_file() else f"{name!r} is missing"


def _labels(rows: pd.DataFrame) -> tuple[str, ...]:
    """The label order nobody stated: a known set if one fits, else alphabetical."""
    if "emotion" not in rows:
        if "distribution" in rows:
            raise InputError("a table of distributions does not say what their entries are; give labels=")
        return sets.EMOFACES_ALL
    present = set(rows["emotion"].dropna())
    known = next((order for order in sets.SETS.values() if present <= set(order)), None)
    return tuple(known) if known and present else tuple(sorted(present)) or sets.EMOFACES_ALL
