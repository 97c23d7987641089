"""What was fetched so far: one JSON line a picture, appended as it happens, the last line of a picture
counts."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path

from emolib.runtime import InputError, atomic_write

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there nothing stops a second run on the same folder
    fcntl = None

NAME = "downloads.jsonl"


class Journal:
    """The record of a download folder. Opening it locks the folder and clears what a killed run left
    half-written."""

    def __init__(self, folder: Path):
        self.folder, self._parts = folder, folder / ".part"
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            self._guard = open(self._parts / "lock", "w")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another") from None
        try:
            if fcntl:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._guard.close()
            raise InputError(f"{folder}: another download is running in this folder; wait for it") from None
        for left in self._parts.glob("*.tmp"):
            left.unlink()
        self.records = read(folder)
        self._compact()
        self._file = open(folder / NAME, "a", encoding="utf-8")  # noqa: SIM115 (held until close)

    def add(self, record: dict) -> None:
        """Note what became of one picture, at once and on disk."""
        self.records[record["id"]] = record
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def store(self, path: str, body: bytes) -> None:
        """Put a picture in its place, whole or not at all."""
        part, target = self._parts / f"{uuid.uuid4().hex}.tmp", self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)

    def close(self) -> None:
        """Write the record anew without outdated lines, and release the folder."""
        self._file.close()
        self._compact()
        self._guard.close()

    def _compact(self) -> None:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self.records.values()]
        with atomic_write(self.folder / NAME) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> dict[str, dict]:
    """id -> its latest record; a line cut off by a kill is passed over, for its picture is then simply not
    done."""
    path, records = folder / NAME, {}
    if not path.is_file():
        return records
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            records[record["id"]] = record
        except (ValueError, KeyError, TypeError):
            continue
    return records


def intact(folder: Path, record: dict, *, checksum: bool) -> bool:
    """Whether the picture of an "ok" record is still there in its size (and, if asked, to the byte)."""
    path = folder / record["path"]
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return not checksum or hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
