"""Open the data that a command names: one spelling, and one meaning, for all commands."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emolib.data import emofaces
from emolib.data.emoset import read_emoset
from emolib.data.findingemo import read_findingemo
from emolib.data.folder import read_folder
from emolib.data.manifest import Manifest, is_manifest, load_manifest
from emolib.emotions import mappings, sets
from emolib.runtime import InputError, one_of


def open_dataset(
    spec: str | Path, *, labels: Sequence[str] | None = None, on_error: str = "refuse"
) -> Manifest:
    """Open the pictures that `spec` names (see `emolib.data.DATA`) as a Manifest; no picture is decoded.

    `labels` fixes the label order of a folder or table; the other data sets have their own. Faults of what a
    user made go by `on_error`, "refuse" or "skip". InputError: nothing there, not readable, unknown split.
    """
    path, (name, _, part) = Path(spec), str(spec).partition(":")
    if name == "emofaces":
        one_of(part or "test", (*emofaces.SPLITS, "scenes"), "EmoFaces split")
        people = emofaces.scenes() if part == "scenes" else emofaces.portraits(part or "test")
        manifest = people.manifest
    elif name == "findingemo":
        manifest = read_findingemo().manifest(part or None)
    elif zipfile.is_zipfile(path) or any((x / "info.json").is_file() for x in (path, *path.glob("EmoSet*"))):
        manifest = read_emoset(path, on_error=on_error).manifest()
    elif path.suffix == ".parquet" and is_manifest(path):
        manifest = load_manifest(path)
    else:
        return read_folder(path, labels=labels, on_error=on_error)
    if labels is not None and tuple(labels) != manifest.labels:
        raise InputError(f"{spec}: has labels of its own ({', '.join(manifest.labels)}); leave --labels out")
    return manifest


def labelled(manifest: Manifest, where: str | Path) -> Manifest:
    """The pictures that have an emotion; InputError, naming `where` they come from, if none has."""
    rows = np.flatnonzero(manifest.frame["emotion"].notna())
    if not len(rows):
        raise InputError(f"{where}: no picture has an emotion; make one subfolder for each emotion")
    return manifest.take(rows)


def relabel_to_set(manifest: Manifest, name: str, where: str | Path) -> Manifest:
    """Put pictures under the label set `name` (`emotions.sets.SETS`). InputError if no table leads there."""
    one_of(name, sets.SETS, "label set")
    current = next((key for key, order in sets.SETS.items() if tuple(order) == manifest.labels), None)
    if current is None:
        raise InputError(f"{where}: its labels are no known set, so --labels {name} has no table for them")
    if current == name:
        return manifest
    return manifest.relabel(mappings.mapping(current, name).matrix, sets.SETS[name])
