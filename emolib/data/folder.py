"""Any folder of pictures as a `Manifest`: ImageFolder layout, or metadata tables beside the pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from emolib.data.files import PICTURE_SUFFIXES, TABLE_SUFFIXES, holds_pictures, read_table
from emolib.data.manifest import Manifest, Problems, build_manifest, clean_label
from emolib.emotions import sets
from emolib.runtime import InputError

METADATA = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
# Names a table may give its columns, the first present one is taken.
PATH_COLUMNS = ("path", "file_name", "filename", "image", "file")
LABEL_COLUMNS = ("emotion", "label", "class")
SPLITS = {"train": ("training",), "val": ("valid", "validation", "dev"), "test": ("testing",)}
SPLIT_NAMES = {name: split for split, names in SPLITS.items() for name in (split, *names)}
# Pictures that are not read here: passing over them would lose data without a word.
OTHER_PICTURES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw")


def read_folder(
    path: str | Path, *, labels: Sequence[str] | None = None, on_error: str = "refuse"
) -> Manifest:
    """Read a folder of pictures, or a metadata table (.csv, .jsonl, .parquet), without opening a picture.

    Folders are labels: [split/]label/picture; pictures that lie in no label folder have no label. A folder
    that holds metadata.parquet, .csv or .jsonl is read by it, with all below it (columns: path or file_name;
    emotion or label; optionally distribution, valence and arousal in [-1, 1], split, and others, which
    are kept). A parquet table may hold the pictures themselves in a column `image`.

    `labels` fixes the label order; without it the first known set that has every name is taken
    (`emotions.sets.SETS`), else the names in alphabetical order. Faults: `on_error` "refuse" or "skip";
    pictures that a table does not name are counted in `problems` either way.
    """
    path, problems = Path(path), Problems(on_error)
    if path.is_dir():
        rows, root = _walk(path, problems), path
    elif path.is_file() and path.suffix in TABLE_SUFFIXES:
        rows, root = _read_rows(path, path.parent, problems), path.parent
    else:
        fault = "is neither a folder of pictures nor" if path.exists() else "no such folder or"
        raise InputError(f"{path}: {fault} a metadata table ({', '.join(TABLE_SUFFIXES)})")
    if not len(rows):
        fault = f"({', '.join(sorted(PICTURE_SUFFIXES))})"
        if problems.lines:
            fault = f"that could be taken ({problems}); {problems.lines[0]}"
        raise InputError(f"{path}: holds no picture {fault}")
    return build_manifest(rows, labels or _labels(rows), root, source="folder", problems=problems)


def _walk(root: Path, problems: Problems) -> pd.DataFrame:
    """Rows of all pictures below `root`, sorted by path; hidden files and folders are passed over."""

    def note(error: OSError) -> None:
        problems.add("folder", f"{error.filename}: cannot be read ({error.strerror})")

    frames, visited = [], set()
    for name, below, files in os.walk(root, onerror=note, followlinks=True):
        folder = Path(name)
        below[:] = sorted(child for child in below if not child.startswith("."))
        if folder.resolve() in visited:  # a link in a circle
            below.clear()
            continue
        visited.add(folder.resolve())
        table = next((folder / name for name in METADATA if name in files), None)
        if table is None:
            frames.append(pd.DataFrame(_folder_rows(root, folder, files, problems)))
        else:
            below.clear()
            frames.append(_read_rows(table, root, problems))
            _count_unlisted(folder, set(frames[-1]["path"]), root, problems)
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _folder_rows(root: Path, folder: Path, files: list[str], problems: Problems) -> list[dict]:
    """The pictures of one folder, labelled by the folders above them."""
    above = folder.relative_to(root).parts
    split = SPLIT_NAMES.get(above[0].lower()) if above else None
    label = above[1:2] if split else above[:1]
    rows = []
    for name in sorted(files):
        suffix = Path(name).suffix.lower()
        if name.startswith(".") or suffix not in (*PICTURE_SUFFIXES, *OTHER_PICTURES):
            continue
        path = (folder / name).relative_to(root).as_posix()
        shown = path.encode("utf-8", "backslashreplace").decode()
        if suffix in OTHER_PICTURES:
            problems.add("format", f"{root / shown}: {suffix} is not read here; convert it to PNG or JPEG")
        elif shown != path:
            problems.add("name", f"{root / shown}: this name is not UTF-8; rename it")
        else:
            rows.append({"path": path, "split": split, "emotion": label[0] if label else None})
    return rows


def _count_unlisted(folder: Path, listed: set[str], root: Path, problems: Problems) -> None:
    """Note the pictures that lie beside or below a table that does not name them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in PICTURE_SUFFIXES and not hidden and name not in listed:
            problems.counts["unlisted"] += 1
            problems.lines.append(f"{folder}: its table does not name {name!a}")


def _read_rows(table: Path, root: Path, problems: Problems) -> pd.DataFrame:
    """Rows of a metadata table, paths relative to `root`; pictures it names must exist below its folder."""
    frame = read_table(table)
    frame = frame.rename(columns={name: str(name).strip() for name in frame})
    headings = {name.casefold(): name for name in reversed(frame.columns)}
    label = next((headings[name] for name in LABEL_COLUMNS if name in headings), None)
    if label:
        names = [clean_label(name) for name in frame[label]]
        frame = frame.drop(columns=label).assign(emotion=pd.Series(names, dtype=object))
    if "split" in frame:
        frame["split"] = [SPLIT_NAMES.get(str(name).strip().lower(), name) for name in frame["split"]]
    if "distribution" in frame:
        frame["distribution"] = pd.Series([_numbers(value) for value in frame["distribution"]], dtype=object)
    if table.suffix == ".parquet" and holds_pictures(table):
        members = [str(i) for i in range(len(frame))]
        return frame.assign(path=table.relative_to(root).as_posix(), member=members)
    column = next((headings[name] for name in PATH_COLUMNS if name in headings), None)
    if column is None:
        raise InputError(f"{table}: names no pictures; it needs a column {' or '.join(PATH_COLUMNS[:2])}")
    faults = [_fault(table.parent, name) for name in frame[column]]
    for i, fault in enumerate(faults):
        if fault:
            problems.add("picture", f"{table}: row {i + 1}: {fault}")
    good = [fault is None for fault in faults]
    frame = frame.rename(columns={column: "path"})[good].reset_index(drop=True)
    above = table.parent.relative_to(root)
    split = SPLIT_NAMES.get(above.parts[0].lower()) if above.parts else None
    if split and "split" not in frame:
        frame = frame.assign(split=split)
    return frame.assign(path=[(above / name).as_posix() for name in frame["path"]])


def _numbers(value):
    """A list that a CSV holds as text, e.g. "[0.2, 0.8]"; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _fault(root: Path, name) -> str | None:
    """Why the picture `name` of a metadata table cannot be taken, or None."""
    if not isinstance(name, str) or not name:
        return "names no picture"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{name!r} leaves the folder; give paths below it"
    return None if os.path.isfile(root / name) else f"{name!r} is missing"


def _labels(rows: pd.DataFrame) -> tuple[str, ...]:
    """The label order nobody stated: a known set if one fits, else alphabetical."""
    if "emotion" not in rows:
        if "distribution" in rows:
            raise InputError("a table of distributions does not say what their entries are; give labels=")
        return sets.EMOFACES_ALL
    present = {clean_label(name) for name in rows["emotion"]} - {None}
    fitting = next((order for order in sets.SETS.values() if present <= set(order)), None)
    return tuple(fitting) if fitting and present else tuple(sorted(present)) or sets.EMOFACES_ALL
