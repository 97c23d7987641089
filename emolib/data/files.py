"""Read the files of a data set: JSON, tables, pictures' bytes from files, parquet rows and zip entries."""

from __future__ import annotations

import json
import os
import threading
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emolib.runtime import InputError, first_line

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif"})
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
CACHED_BYTES = 2**28
"""So much of parquet files' pictures is kept in memory, in encoded form."""

_lock = threading.Lock()
_columns: dict[tuple, pa.Array] = {}  # (path, time of change, row group) -> its pictures, oldest first


def read_json(path: Path, data: bytes | None = None):
    """Read the JSON value in `path`, or in `data` if it comes from elsewhere; InputError names `path`."""
    try:
        return json.loads(path.read_bytes() if data is None else data)
    except FileNotFoundError:
        raise InputError(f"{path}: this file is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({first_line(error)})") from None


def read_table(path: str | Path, *, text: bool = False) -> pd.DataFrame:
    """Read a table from .csv, .jsonl (one object a line) or .parquet (without pictures); InputError.

    `text` (of a CSV): every value as it is written, nothing counts as missing. Class numbers of a parquet
    file from the `datasets` library become names.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        pictures = ["image"] if holds_pictures(path) else []
        table = read_parquet(path, [name for name in read_schema(path).names if name not in pictures])
        return _named_classes(table.to_pandas(), table.schema.metadata or {})
    try:
        if path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
        return pd.read_csv(path, **({"dtype": str, "keep_default_na": False} if text else {}))
    except FileNotFoundError:
        raise InputError(f"{path}: this file is missing") from None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not readable as a table ({first_line(error)})") from None


def _named_classes(frame: pd.DataFrame, metadata: dict) -> pd.DataFrame:
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for column, feature in features.items():
        if column in frame and isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            frame[column] = frame[column].map(dict(enumerate(feature["names"])))
    return frame


def read_schema(path: Path) -> pa.Schema:
    """Read the column names and types of a parquet file; InputError if it is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None


def holds_pictures(path: Path) -> bool:
    """Whether the column `image` of a parquet file holds encoded pictures, rather than their names."""
    schema = read_schema(path)
    kind = schema.field("image").type if "image" in schema.names else pa.null()
    return any(test(kind) for test in (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary))


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read the table in `path`; InputError if it is missing, not parquet, or lacks one of `columns`."""
    names = read_schema(path).names
    missing = [name for name in columns or [] if name not in names]
    if missing:
        raise InputError(f"{path}: lacks the column {missing[0]!r}")
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None


def picture_bytes(path: Path, member: str | None) -> bytes:
    """Read an encoded picture: the file `path`, or row or entry `member` of a parquet or zip file."""
    if member is None:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return _parquet_picture(path, member) if path.suffix == ".parquet" else read_zip_entry(path, member)


def _parquet_picture(path: Path, member: str) -> bytes:
    row = int(member) if member.isdigit() else -1
    with _lock:
        counts = _group_sizes(str(path), path.stat().st_mtime_ns)
        for group, count in enumerate(counts):
            if 0 <= row < count:
                value = _pictures(path, group)[row].as_py()
                if value is None:
                    raise InputError(f"{path}: row {member} holds no picture")
                return value
            row -= count
    raise InputError(f"{path}: has no row {member}")


@lru_cache(maxsize=64)
def _group_sizes(path: str, _mtime: int) -> list[int]:
    """Rows of each row group."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _pictures(path: Path, group: int) -> pa.Array:
    """The encoded pictures of one row group: read once, kept while there is room."""
    key = (str(path), path.stat().st_mtime_ns, group)
    if key not in _columns:
        try:
            table = pq.ParquetFile(path).read_row_group(group, columns=["image"])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable parquet file ({first_line(error)})") from None
        column = table.column("image").combine_chunks()
        _columns[key] = column.field("bytes") if pa.types.is_struct(column.type) else column
    _columns[key] = _columns.pop(key)  # now the youngest
    while len(_columns) > 1 and sum(column.nbytes for column in _columns.values()) > CACHED_BYTES:
        del _columns[next(iter(_columns))]
    return _columns[key]


def read_zip_entry(path: Path, name: str) -> bytes:
    """Read an entry of a zip file; InputError if there is none, or none that can be unpacked here."""
    with _lock:
        archive = open_zip(path)
        try:
            return archive.read(name)
        except KeyError:
            raise InputError(f"{path}: has no entry {name!r}") from None
        except NotImplementedError as error:  # e.g. Deflate64, which Windows writes
            advice = "pack it anew with plain Deflate, or unpack it and give the folder"
            raise InputError(f"{path}: entry {name!r} cannot be unpacked here ({error}); {advice}") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
            raise InputError(f"{path}: entry {name!r} is broken or encrypted ({first_line(error)})") from None


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file, its table of contents read once; InputError if it is none."""
    try:
        # One handle per process: a forked worker that shared its parent's file offset would read rubbish.
        return _opened_zip(str(path), os.stat(path).st_mtime_ns, os.getpid())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable zip file ({error})") from None


@lru_cache(maxsize=4)
def _opened_zip(path: str, _mtime: int, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
