"""Reading files for the data package: JSON, parquet, and a picture's bytes from disk, a parquet row or a
zip entry."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emolib.runtime import InputError, first_line

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif"})
_zip_lock = threading.Lock()


def read_json(path: Path, data: bytes | None = None):
    """The JSON value in `path` (or in `data`, when it came from a zip member); InputError with the path if
    it is not."""
    try:
        return json.loads(path.read_bytes() if data is None else data)
    except FileNotFoundError:
        raise InputError(f"{path}: this file is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in `path`; InputError if it is missing, not parquet, or lacks one of `columns`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None
    missing = [name for name in columns or [] if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: lacks the column {missing[0]!r}")
    return table


def picture_bytes(path: Path, member: str | None) -> bytes:
    """The encoded picture at `path`: the file itself, row `member` of a parquet file, or entry `member` of
    a zip."""
    if member is None:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".parquet":
        column = _image_column(str(path), path.stat().st_mtime_ns)
        if not member.isdigit() or int(member) >= len(column):
            raise InputError(f"{path}: has no row {member}")
        data = column[int(member)].as_py()
        if data is None:
            raise InputError(f"{path}: row {member} holds no picture")
        return data
    return zip_member(path, member)


@lru_cache(maxsize=8)
def _image_column(path: str, _mtime: int) -> pa.ChunkedArray:
    """All encoded pictures of one parquet file: read once, decoded only on access. `_mtime` notices a new
    file."""
    column = read_parquet(Path(path), columns=["image"]).column("image").combine_chunks()
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    return column


def zip_member(path: Path, member: str) -> bytes:
    """The bytes of entry `member` of the zip file `path`; InputError if there is none."""
    # One handle per process: a forked data-loading worker that shared its parent's file offset would read
    # rubbish.
    with _zip_lock:
        archive = open_zip(str(path), os.getpid())
        try:
            return archive.read(member)
        except KeyError:
            raise InputError(f"{path}: has no entry {member!r}") from None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise InputError(f"{path}: entry {member!r} is broken ({error})") from None


@lru_cache(maxsize=4)
def open_zip(path: str, _pid: int) -> zipfile.ZipFile:
    """The opened zip file `path`, its table of contents read once."""
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a readable zip file ({error})") from None
