"""Edits that somebody else made: a folder of pictures and a manifest.json that says which is which.

    {"method": "ours", "judges_used": [],
     "edits": [{"source": "00801-awe", "target": "anger", "path": "1.png"}, ...]}

`source` and `target` are ids of tasks and names of changes (`emolib evaluate --list` prints them), `path`
lies below the folder. The cache of `emolib evaluate` has the same form, one folder a method.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from emolib.evaluation.tasks import Task, TaskSet
from emolib.runtime import InputError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Submission:
    """A checked folder: `paths[source, target]` are its pictures, `digest` that of its manifest."""

    name: str
    judges_used: tuple[str, ...]
    folder: Path
    paths: dict[tuple[str, str], str]
    digest: str

    def pictures(self, task: Task) -> list[Path]:
        """The edited pictures of a task, in the order of its changes."""
        return [self.folder / self.paths[task.id, change.name] for change in task.changes]


def load(folder: Path, tasks: TaskSet) -> Submission:
    """Read the folder's manifest and check that it has every edit of `tasks`; no picture is opened.

    InputError naming the file: no manifest, no declaration of judges, an edit missing, twice, of a source
    that this data does not have, or of a picture that is not there.
    """
    file = folder / MANIFEST
    try:
        stored = file.read_bytes()
        about = dict(json.loads(stored))
        listed = [(str(row["source"]), str(row["target"]), str(row["path"])) for row in about["edits"]]
    except FileNotFoundError:
        raise InputError(f"{folder}: edits need a {MANIFEST}, see `emolib evaluate --help`") from None
    except KeyError as error:
        raise InputError(f"{file}: lacks {error}; see `emolib evaluate --help`") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError):
        raise InputError(
            f"{file}: not a JSON object with a list of edits; see `emolib evaluate --help`"
        ) from None
    if not isinstance(about.get("judges_used"), list):
        raise InputError(f'{file}: does not say which judges the method asks; add "judges_used": [] for none')
    _check(file, listed, tasks)
    paths = {(source, target): path for source, target, path in listed}
    digest = hashlib.sha256(stored).hexdigest()[:16]
    name = " ".join(str(about.get("method") or folder.resolve().name).replace("|", "/").split())
    return Submission(name, tuple(map(str, about["judges_used"])), folder, paths, digest)


def _check(file: Path, listed: list[tuple[str, str, str]], tasks: TaskSet) -> None:
    seen = set()
    for source, target, path in listed:
        if source not in tasks.known:
            raise InputError(f"{file}: {tasks.name} has no source {source!r}; these edits are of other data")
        if (source, target) in seen:
            raise InputError(f"{file}: the edit of {source} to {target} is listed twice")
        seen.add((source, target))
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise InputError(f"{file}: {path!r} leaves the folder; give paths below it")
    wanted = [(task.id, change.name) for task in tasks.tasks for change in task.changes]
    missing = [pair for pair in wanted if pair not in seen]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(wanted)} edits are missing, the first is"
            f" {missing[0][0]} to {missing[0][1]}; `emolib evaluate --list` names all"
        )
    places = {(source, target): path for source, target, path in listed}
    for pair in wanted:
        if not (file.parent / places[pair]).is_file():
            raise InputError(f"{file.parent / places[pair]}: no such picture, though {file.name} lists it")
