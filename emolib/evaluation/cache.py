"""Entries that survive being killed: written whole or not at all, believed only if their checksum holds."""

from __future__ import annotations

import hashlib
import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

import emolib
from emolib.runtime import atomic_write

_SIZE = hashlib.sha256().digest_size
# What can change an edit, and what can change a number, beside the data: other code makes other entries.
NOT_EDITING = (
    "cli", "course", "data", "evaluation", "figures", "judges", "metrics", "playground", "training",
)  # fmt: skip
MEASURING = ("emotions", "evaluation", "images.py", "judges", "metrics")


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one entry: SHA-256 of the rest, then an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    payload = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, or None if it is missing, truncated or changed: then it is to be made again."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(stored[_SIZE:]).digest() != stored[:_SIZE]:
        return None
    with np.load(io.BytesIO(stored[_SIZE:]), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def key(*parts: object) -> str:
    """16 hexadecimal digits that stand for these values (JSON, or their text)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=8)  # the code that was loaded, whatever happens to the files since
def code(*, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> str:
    """Digest of emolib's own source files: of the modules and subpackages `only`, or of all but `without`."""
    root = Path(emolib.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        first = path.relative_to(root).parts[0]
        if (first in only) if only else (first not in without):
            total.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
