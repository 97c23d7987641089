"""Keep what a run has made, so that it can be killed: a method's edits as PNG, measured columns as arrays.

An entry is named by a key of everything that decides its content, and believed only if its checksum holds.
Code is no part of the key: whoever changes what an edit or a number is raises `VERSION`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emolib import images
from emolib.runtime import InputError, atomic_write, write_json

VERSION = 3
"""Raise by one when edits or numbers change although methods, weights, tasks and pictures stay the same."""

MANIFEST, RECORD = "manifest.json", "record.json"  # of a method's edits; of those of one task


def make_key(*parts: object) -> str:
    """Make 16 hexadecimal digits that stand for these values (JSON, or their text)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """Make 16 hexadecimal digits that stand for a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digest_pictures(encoded: Sequence[bytes]) -> str:
    """Make one digest of several encoded pictures, in their order."""
    return hashlib.sha256(b"".join(hashlib.sha256(picture).digest() for picture in encoded)).hexdigest()


def file_name(name: str) -> str:
    """Turn any name into one that a file may have; different names stay different."""
    plain = re.sub(r"[^\w.@=+-]+", "_", name)[:100]
    return plain if plain == name else f"{plain}-{make_key(name)[:8]}"


@dataclass(frozen=True)
class Edits:
    """The encoded edits of a task, in the order of its changes, and one `digest` of them all."""

    files: tuple[Path, ...]
    encoded: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return digest_pictures(self.encoded)

    def decode(self, source: Tensor) -> Tensor:
        """Decode to (T, 3, H, W) in [-1, 1]; InputError for a broken picture or one of another size."""
        edits = []
        for file, encoded in zip(self.files, self.encoded, strict=True):
            edits.append(images.to_tensor(images.open_image(encoded, name=str(file))))
            if edits[-1].shape[-2:] != source.shape[-2:]:
                sizes = [f"{x.shape[-1]} x {x.shape[-2]}" for x in (edits[-1], source)]
                raise InputError(f"{file}: {sizes[0]} px, but its source has {sizes[1]}; edits keep the size")
        return torch.cat(edits)


def open_edits(files: Sequence[Path]) -> Edits:
    """Read edits that are there, whoever made them; decoding tells what is wrong with them."""
    return Edits(tuple(files), tuple(file.read_bytes() for file in files))


def edit_path(task: str, change: str) -> str:
    """Name the file of an edit, below its method's folder."""
    return f"{file_name(task)}/{file_name(change)}.png"


def read_edits(folder: Path, key: str, task: str, changes: Sequence[str]) -> Edits | None:
    """Read a method's edits of a task, or None if some are missing, changed, or made of something else."""
    record = read_record(folder, task)
    with suppress(OSError):
        edits = open_edits([folder / edit_path(task, change) for change in changes])
        return edits if (record.get("key"), record.get("digest")) == (key, edits.digest) else None
    return None


def read_record(folder: Path, task: str) -> dict[str, Any]:
    """Read the record of a method's edits of a task: key, digest, seed, cost; empty if there is none."""
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / file_name(task) / RECORD).read_text(encoding="utf-8")))
    return {}


def write_edits(
    folder: Path, key: str, task: str, edits: dict[str, Image.Image], cost: dict[str, Any]
) -> Edits:
    """Write a method's edits of a task as PNG. The record comes last, so that it vouches for all of them."""
    record = folder / file_name(task) / RECORD
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    files = [folder / edit_path(task, change) for change in edits]
    for file, picture in zip(files, edits.values(), strict=True):
        images.save_image(picture, file)
    written = open_edits(files)
    write_json(record, {"key": key, "digest": written.digest, **cost})
    return written


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one entry, whole or not at all: SHA-256 of the rest, then an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    payload = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read the arrays of an entry, or None if it is missing or its checksum does not hold."""
    with suppress(OSError):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() == stored[:32]:
            with np.load(io.BytesIO(stored[32:]), allow_pickle=False) as arrays:
                return dict(arrays)
    return None
