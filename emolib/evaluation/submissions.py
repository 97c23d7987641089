"""Read and write finished edits: a folder of pictures and a manifest.json that says which is which.

    {"method": "ours", "judges_used": [],
     "edits": [{"source": "00801-awe", "target": "anger", "path": "1.png"}, ...]}

`source` and `target` are ids of tasks and names of changes (`emolib evaluate --list` prints them), `path`
lies below the folder. The store of `emolib evaluate` has the same form, one folder a method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emolib.evaluation import store
from emolib.evaluation.tasks import TaskSet
from emolib.runtime import InputError, write_json

MANIFEST = "manifest.json"


class Submission(NamedTuple):
    """A checked folder: `paths[source, target]` are its pictures, `key` stands for its manifest."""

    name: str
    judges_used: tuple[str, ...]
    key: str
    paths: Mapping[tuple[str, str], Path]


def read_submission(folder: Path, tasks: TaskSet) -> Submission:
    """Read a folder's manifest and check that it has every edit of `tasks`; no picture is opened.

    InputError naming the file: no manifest, no declaration of judges, an edit missing, twice, of a source
    that this data does not have, or of a picture that is not there.
    """
    file = folder / MANIFEST
    try:
        about = dict(json.loads(file.read_bytes()))
        rows = [(str(row["source"]), str(row["target"]), str(row["path"])) for row in about["edits"]]
    except FileNotFoundError:
        raise InputError(f"{folder}: edits need a {MANIFEST}, see `emolib evaluate --help`") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError) as error:
        fault = f"lacks {error}" if isinstance(error, KeyError) else "not a JSON object with a list of edits"
        raise InputError(f"{file}: {fault}; see `emolib evaluate --help`") from None
    if not isinstance(about.get("judges_used"), list):
        raise InputError(f'{file}: does not say which judges the method asks; add "judges_used": [] for none')
    paths = _check_rows(file, rows, tasks)
    name = " ".join(str(about.get("method") or folder.resolve().name).replace("|", "/").split())
    return Submission(name, tuple(map(str, about["judges_used"])), store.digest_file(file), paths)


def _check_rows(
    file: Path, rows: Sequence[tuple[str, str, str]], tasks: TaskSet
) -> dict[tuple[str, str], Path]:
    """The file of every edit by (source, target)."""
    paths: dict[tuple[str, str], Path] = {}
    for source, target, path in rows:
        if source not in tasks.known:
            raise InputError(f"{file}: {tasks.name} has no source {source!r}; these edits are of other data")
        if (source, target) in paths:
            raise InputError(f"{file}: the edit of {source} to {target} is listed twice")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise InputError(f"{file}: {path!r} leaves the folder; give paths below it")
        paths[source, target] = file.parent / path
    due = [(task.id, change.name) for task in tasks.tasks for change in task.changes]
    missing = [pair for pair in due if pair not in paths]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(due)} edits are missing, the first is"
            f" {missing[0][0]} to {missing[0][1]}; `emolib evaluate --list` names all"
        )
    for pair in due:
        if not paths[pair].is_file():
            raise InputError(f"{paths[pair]}: no such picture, though {file.name} lists it")
    return paths


def write_submission(folder: Path, about: Mapping[str, Any], tasks: TaskSet) -> None:
    """Write the manifest that makes a method's folder in the store a submission anybody can score again.

    `about` has the keys "method" and "judges_used", and whatever else is to be said of it."""
    rows = [
        {"source": task.id, "target": change.name, "path": store.edit_path(task.id, change.name)}
        for task in tasks.tasks
        for change in task.changes
    ]
    write_json(folder / MANIFEST, {**about, "data": tasks.name, "edits": rows})
