"""Read files: tables, pictures' bytes from files, parquet rows and zip entries; tensors with a header."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emolib.runtime import InputError, atomic_write, check_output, reading

if TYPE_CHECKING:
    import torch

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif"})
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
CACHED_BYTES = 2**28
"""So much of parquet files' pictures is kept in memory, in encoded form."""

_lock = threading.Lock()
_columns: dict[tuple, pa.Array] = {}  # (path, time of change, row group) -> its pictures, oldest first


def read_table(path: str | Path, needed: Iterable[str] = (), *, text: bool = False) -> pd.DataFrame:
    """Read a table from .csv, .jsonl (one object a line) or .parquet (without its pictures).

    `text` (of a CSV): every value as it is written, nothing counts as missing. Class numbers of a parquet
    file from the `datasets` library become names. InputError: no table, or one without the columns `needed`.
    """
    path = Path(path)
    with reading(path, "table"):
        if path.suffix == ".parquet":
            names = [name for name in read_schema(path).names if name != "image" or not holds_pictures(path)]
            table = read_parquet(path, names)
            frame = _named_classes(table.to_pandas(), table.schema.metadata or {})
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame([dict(json.loads(line)) for line in lines if line.strip()])
        else:
            frame = pd.read_csv(path, **({"dtype": str, "keep_default_na": False} if text else {}))
    if missing := [name for name in needed if name not in frame]:
        raise InputError(f"{path}: lacks the column {missing[0]!r}")
    return frame


def _named_classes(frame: pd.DataFrame, metadata: dict) -> pd.DataFrame:
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for column, feature in features.items():
        if column in frame and isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            frame[column] = frame[column].map(dict(enumerate(feature["names"])))
    return frame


def read_schema(path: Path) -> pa.Schema:
    """Read the column names and types of a parquet file."""
    with reading(path, "parquet file"):
        return pq.read_schema(path)


def holds_pictures(path: Path) -> bool:
    """Whether the column `image` of a parquet file holds encoded pictures, rather than their names."""
    schema = read_schema(path)
    kind = schema.field("image").type if "image" in schema.names else pa.null()
    return any(test(kind) for test in (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary))


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read the table in `path`, or these `columns` of it."""
    with reading(path, "parquet file"):
        return pq.read_table(path, columns=columns, partitioning=None)


def picture_bytes(path: Path, member: str | None) -> bytes:
    """Read an encoded picture: the file `path`, or row or entry `member` of a parquet or zip file."""
    if member is None:
        with reading(path, "file"):
            return path.read_bytes()
    if path.suffix != ".parquet":
        # What Windows packs with Deflate64 cannot be read here.
        with _lock, reading(f"{path}[{member}]", "plain zip entry"):
            return open_zip(path).read(member)
    with _lock, reading(path, "parquet file"):
        row, change = int(member), path.stat().st_mtime_ns
        for group, size in enumerate(_group_sizes(str(path), change)):
            if row < size and (data := _read_pictures(path, change, group)[row].as_py()) is not None:
                return data
            row -= size
        raise InputError(f"{path}: row {member} holds no picture")


@lru_cache(maxsize=64)
def _group_sizes(path: str, _change: int) -> list[int]:
    """Rows of each row group."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _read_pictures(path: Path, change: int, group: int) -> pa.Array:
    """The encoded pictures of one row group: read once, kept while there is room."""
    key = (path, change, group)
    if key not in _columns:
        column = pq.ParquetFile(path).read_row_group(group, columns=["image"])["image"].combine_chunks()
        _columns[key] = column.field("bytes") if pa.types.is_struct(column.type) else column
    _columns[key] = _columns.pop(key)  # now the youngest
    while len(_columns) > 1 and sum(column.nbytes for column in _columns.values()) > CACHED_BYTES:
        del _columns[next(iter(_columns))]
    return _columns[key]


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file, its table of contents read once."""
    with reading(path, "zip file"):
        # One handle per process: a forked worker that shared its parent's file offset would read rubbish.
        return _opened_zip(str(path), os.stat(path).st_mtime_ns, os.getpid())


@lru_cache(maxsize=4)
def _opened_zip(path: str, _change: int, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors with a header of texts as a safetensors file, atomically.

    InputError unless a .safetensors file can be written there."""
    from safetensors.torch import save_file

    check_output(path, suffix=".safetensors")
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(stored, temporary, metadata=dict(metadata))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU, and its header. InputError if that is impossible."""
    from safetensors import safe_open

    with reading(path, "safetensors file"), safe_open(path, "pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
