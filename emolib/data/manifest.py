"""The one table every data set becomes: a row a picture, with its emotion distribution, valence and
arousal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emolib.data._files import picture_bytes, read_parquet
from emolib.data.problems import Problems
from emolib.runtime import InputError, atomic_write, one_of, progress

# Parquet schema of the fixed columns. `path` is relative to the manifest's root; `member` is the row of a
# parquet file or the entry of a zip that `path` names, null for a plain file. `people` is null where it is
# not known.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("member", pa.string()),
        ("split", pa.string()),
        ("emotion", pa.string()),
        ("distribution", pa.list_(pa.float32())),
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        ("people", pa.list_(pa.struct([("emotion", pa.string()), ("box", pa.list_(pa.int32()))]))),
    ]
)
_KEY = b"emolib"


@dataclass(frozen=True)
class Manifest:
    """Pictures with their labels; `labels` is the order of every distribution, `root` what paths are
    relative to.

    `frame` columns: id, path, member, split, emotion (most probable label, null if unknown), distribution
    (len(labels) floats that sum to 1, or null), valence and arousal in [-1, 1] (NaN if unknown), people
    (list of {emotion, box [x0, y0, x1, y1] px}, null if unknown), then whatever else the data set knows.
    """

    labels: tuple[str, ...]
    frame: pd.DataFrame
    root: Path
    source: str = ""
    problems: Problems = field(default_factory=lambda: Problems("skip"), compare=False)

    def __len__(self) -> int:
        return len(self.frame)

    def image(self, index: int):
        """Picture `index` (by position) as an upright RGB PIL image, decoded now; InputError if it is
        broken."""
        from emolib.images import open_image  # imports torch: manifests are read without it

        row = self.frame.iloc[index]
        try:
            return open_image(self.encoded(index))
        except InputError as error:
            raise InputError(f"{self.where(row)}: {error}") from None

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of picture `index` as they are stored."""
        row = self.frame.iloc[index]
        member = None if pd.isna(row["member"]) else row["member"]
        return picture_bytes(self.root / row["path"], member)

    def where(self, row) -> str:
        """The place of a row's picture, for messages."""
        place = str(self.root / row["path"])
        return place if pd.isna(row["member"]) else f"{place}[{row['member']}]"

    @cached_property
    def distributions(self) -> np.ndarray:
        """(N, len(labels)) float32; rows of pictures without a label are NaN."""
        out = np.full((len(self), len(self.labels)), np.nan, dtype=np.float32)
        for i, value in enumerate(self.frame["distribution"]):
            if isinstance(value, (list, np.ndarray)):
                out[i] = value
        return out

    def select(self, *, split: str | Sequence[str] | None = None, emotion: str | Sequence[str] | None = None):
        """The rows of these splits and emotions, as a Manifest; InputError for a name that does not occur."""
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in (("split", split), ("emotion", emotion)):
            if wanted is None:
                continue
            wanted = [wanted] if isinstance(wanted, str) else list(wanted)
            known = sorted(self.frame[column].dropna().unique()) if column == "split" else self.labels
            for name in wanted:
                one_of(name, known, column)
            keep &= self.frame[column].isin(wanted).to_numpy()
        return self.take(np.flatnonzero(keep))

    def take(self, indices: Iterable[int]) -> Manifest:
        """The rows at these positions, in this order."""
        return replace(self, frame=self.frame.iloc[list(indices)].reset_index(drop=True))

    def counts(self) -> pd.Series:
        """Expected number of pictures per label, in label order (a soft label counts by its
        probabilities)."""
        return pd.Series(np.nansum(self.distributions, axis=0), index=list(self.labels), name="pictures")

    def class_weights(self, power: float = 1.0) -> np.ndarray:
        """(len(labels),) float32 loss weights, count^-power, scaled so that the mean weight of a picture
        is 1.

        `power` 1 balances the classes, 0.5 is the usual half measure, 0 changes nothing. Absent labels
        weigh 0.
        """
        counts = self.counts().to_numpy(dtype=np.float64)
        weights = np.where(counts > 0, np.maximum(counts, 1e-12) ** -power, 0.0)
        if counts.sum() == 0:
            raise InputError("no picture of this manifest has an emotion label, so there is nothing to weigh")
        return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)

    def sample_weights(self, power: float = 1.0) -> np.ndarray:
        """(N,) float32 sampling weight of each picture (0 where it has no label), for a weighted sampler."""
        return np.nan_to_num(self.distributions, nan=0.0) @ self.class_weights(power)

    def sample(self, n: int, *, seed: int = 0) -> Manifest:
        """`n` pictures (all, if there are fewer), stratified by emotion: as equal numbers as the data
        allow."""
        return self.take(stratified(self.frame["emotion"], n, seed=seed))

    def relabel(self, matrix: np.ndarray, labels: Sequence[str]) -> Manifest:
        """The same pictures under another label set: distributions @ `matrix` (rows: this order, each sums
        to 1)."""
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape != (len(self.labels), len(labels)) or not np.allclose(matrix.sum(1), 1, atol=1e-6):
            raise InputError(f"relabel needs a row-stochastic matrix of {len(self.labels)} x {len(labels)}")
        rows = self.distributions.astype(np.float64) @ matrix
        columns = {
            "distribution": [None if np.isnan(row).any() else row.astype(np.float32) for row in rows],
            "emotion": [None if np.isnan(row).any() else labels[int(row.argmax())] for row in rows],
        }
        return replace(self, labels=tuple(labels), frame=self.frame.assign(**columns))

    def check(self, on_error: str = "skip", *, show_progress: bool = False) -> Manifest:
        """Decode every picture; the manifest of the good ones, the broken ones counted and named in
        `problems`."""
        problems, good = Problems(on_error), []
        indices = range(len(self))
        for index in progress(indices, "decoding") if show_progress else indices:
            try:
                self.image(index)
                good.append(index)
            except InputError as error:
                problems.add("picture", str(error))
        return replace(self.take(good), problems=problems)

    def save(self, path: str | Path) -> Path:
        """Write as parquet, whole or not at all; label order, source and root travel in the file's
        metadata."""
        path = Path(path)
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        for i, column in enumerate(SCHEMA):
            table = table.set_column(i, column, _cast(self.frame[column.name], column))
        # A relative root lets the folder move as a whole; across drives there is none, and the absolute
        # one stays.
        try:
            root = os.path.relpath(self.root.resolve(), path.resolve().parent)
        except ValueError:
            root = str(self.root.resolve())
        about = {"labels": self.labels, "source": self.source, "root": root}
        with atomic_write(path) as temporary:
            metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(about).encode()}
            pq.write_table(table.replace_schema_metadata(metadata), temporary)
        return path


def load(path: str | Path, root: str | Path | None = None) -> Manifest:
    """Open a saved manifest; no picture is touched. `root` overrides where the pictures are looked for."""
    path = Path(path)
    table = read_parquet(path)
    about = json.loads((table.schema.metadata or {}).get(_KEY, b"null"))
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if about is None or missing:
        raise InputError(f"{path}: a parquet file, but not a manifest; make one with `emolib data import`")
    root = Path(root) if root is not None else path.parent / about["root"]
    return Manifest(tuple(about["labels"]), table.to_pandas(), root, about["source"])


def is_manifest(path: str | Path) -> bool:
    """Is this parquet file a saved manifest, rather than a table of pictures?"""
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def stratified(strata: pd.Series, n: int, *, seed: int = 0) -> np.ndarray:
    """Positions of `n` rows, dealt out over the strata in turn so that their numbers differ by one where
    they can.

    A smaller `n` with the same seed gives a subset of a larger one. Rows with a null stratum form one of
    their own.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(strata))
    shuffled = strata.fillna("").astype(str).iloc[order]
    turn = shuffled.groupby(shuffled).cumcount().to_numpy()
    return order[np.argsort(turn, kind="stable")][: max(n, 0)]


def _cast(series: pd.Series, column: pa.Field) -> pa.Array:
    """The column in the manifest's own type, nulls for whatever pandas uses to say "missing"."""
    if pa.types.is_list(column.type):
        values = [v if isinstance(v, (list, tuple, np.ndarray)) else None for v in series]
        return pa.array(values, type=column.type)
    return pa.Array.from_pandas(series, type=column.type)
