"""The one table every data set becomes: a row a picture, with emotion distribution, valence, arousal."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from emolib.data.files import picture_bytes, read_parquet
from emolib.runtime import InputError, atomic_write, nearest, one_of, progress

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


@dataclass
class Problems:
    """Collects faults met while reading. `on_error="refuse"` raises InputError at the first, `"skip"` notes
    each: a line a fault (what, where) in `lines`, the number per kind ("label", "picture", ...) in `counts`.
    """

    on_error: str = "refuse"
    counts: Counter = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self):
        one_of(self.on_error, ("refuse", "skip"), "on_error")

    def add(self, kind: str, line: str) -> None:
        """Note one fault of `kind`; raises InputError(line) unless faults are skipped."""
        if self.on_error == "refuse":
            raise InputError(line)
        self.counts[kind] += 1
        self.lines.append(line)

    def __str__(self) -> str:
        return ", ".join(f"{count} x {kind}" for kind, count in sorted(self.counts.items())) or "none"


@dataclass(frozen=True)
class Manifest:
    """Pictures with their labels, in the order of every distribution; paths are relative to `root`.

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

    def image(self, index: int) -> Image.Image:
        """Decode picture `index` (by position): PIL RGB, upright; InputError if it is broken."""
        from emolib.images import open_image  # imports torch: manifests are read without it

        return open_image(self.encoded(index), name=self.where(self.frame.iloc[index]))

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of picture `index` as they are stored."""
        row = self.frame.iloc[index]
        member = None if pd.isna(row["member"]) else row["member"]
        return picture_bytes(self.root / row["path"], member)

    def where(self, row) -> str:
        """The place of a row's picture, for messages."""
        return _place(str(self.root / row["path"]), row["member"])

    def files(self) -> set[Path]:
        """The files that hold the pictures: what an output must not lie over (`runtime.check_output`)."""
        return {self.root / path for path in self.frame["path"].unique()}

    def person_keys(self) -> list[str]:
        """Who is on each picture, as a key by which pictures of one person are paired.

        It is the column `identity`; where there is none, the path without its suffix and without the folder
        named after the emotion: `awe/ann/1.png` and `neutral/ann/1.png` show the same person. InputError if
        somebody has no key, or if two pictures of one emotion share a key that was made from their paths.
        """
        if "identity" in self.frame:
            keys, bad = self.frame["identity"], self.frame["identity"].isna()
            fault = "has no identity, so nobody to pair"
        else:
            keys = pd.Series([_person_key(*row) for row in self.frame[["path", "emotion"]].to_numpy()])
            emotion = self.frame["emotion"]
            bad = pd.DataFrame({"key": keys, "emotion": emotion}).duplicated() & emotion.notna()
            fault = "a second picture of its emotion under one name; rename it, or add a column `identity`"
        if bad.any():
            raise InputError(f"{self.where(self.frame[bad].iloc[0])}: {fault}")
        return keys.astype(str).tolist()

    @cached_property
    def distributions(self) -> np.ndarray:
        """(N, len(labels)) float32; rows of pictures without a label are NaN."""
        out = np.full((len(self), len(self.labels)), np.nan, dtype=np.float32)
        for i, value in enumerate(self.frame["distribution"]):
            if isinstance(value, (list, np.ndarray)):
                out[i] = value
        return out

    def take(self, indices: Iterable[int]) -> Manifest:
        """Take the rows at these positions, in this order."""
        return replace(self, frame=self.frame.iloc[list(indices)].reset_index(drop=True))

    def counts(self) -> pd.Series:
        """Count the pictures of each label, in label order; a soft label counts by its probabilities."""
        return pd.Series(np.nansum(self.distributions, axis=0), index=list(self.labels), name="pictures")

    def class_weights(self, power: float = 1.0) -> np.ndarray:
        """Weigh each label by count^-power: (len(labels),) float32, 1 for a picture on average, 0 if absent.

        `power` 1 balances the classes, 0.5 is the usual half measure, 0 changes nothing.
        """
        counts = self.counts().to_numpy(dtype=np.float64)
        weights = np.where(counts > 0, np.maximum(counts, 1e-12) ** -power, 0.0)
        return (weights * counts.sum() / max((weights * counts).sum(), 1e-12)).astype(np.float32)

    def sample_weights(self, power: float = 1.0) -> np.ndarray:
        """Weigh each picture for a weighted sampler: (N,) float32, 0 where it has no label."""
        return np.nan_to_num(self.distributions, nan=0.0) @ self.class_weights(power)

    def sample(self, n: int, *, seed: int = 0) -> Manifest:
        """Draw `n` pictures, or all, stratified by emotion: numbers as equal as the data allow."""
        return self.take(stratified(self.frame["emotion"], n, seed=seed))

    def relabel(self, matrix: np.ndarray, labels: Sequence[str]) -> Manifest:
        """Put the pictures under other labels: distributions @ `matrix`, whose rows each sum to 1."""
        rows = self.distributions.astype(np.float64) @ np.asarray(matrix, dtype=np.float64)
        columns = {
            "distribution": [None if np.isnan(row).any() else row.astype(np.float32) for row in rows],
            "emotion": [None if np.isnan(row).any() else labels[int(row.argmax())] for row in rows],
        }
        return replace(self, labels=tuple(labels), frame=self.frame.assign(**columns))

    def check(self, on_error: str = "skip", *, show_progress: bool = False) -> Manifest:
        """Decode every picture: the manifest of the good ones; `problems` counts and names the others."""
        problems, good = Problems(on_error), []
        for index in progress(range(len(self)), "decoding") if show_progress else range(len(self)):
            try:
                self.image(index)
                good.append(index)
            except InputError as error:
                problems.add("picture", str(error))
        return replace(self.take(good), problems=problems)

    def save(self, path: str | Path) -> Path:
        """Write as parquet, whole or not at all; labels, source and root travel in its metadata."""
        path = Path(path)
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        for i, column in enumerate(SCHEMA):
            table = table.set_column(i, column, _cast(self.frame[column.name], column))
        # A relative root lets the folder move as a whole; across drives there is none.
        try:
            root = os.path.relpath(self.root.resolve(), path.resolve().parent)
        except ValueError:
            root = str(self.root.resolve())
        about = {"labels": self.labels, "source": self.source, "root": root}
        with atomic_write(path) as temporary:
            metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(about).encode()}
            pq.write_table(table.replace_schema_metadata(metadata), temporary)
        return path


def load_manifest(path: str | Path, root: str | Path | None = None) -> Manifest:
    """Open a saved manifest; no picture is touched. `root` overrides where the pictures are looked for."""
    path = Path(path)
    table = read_parquet(path)
    if _KEY not in (table.schema.metadata or {}) or not set(SCHEMA.names) <= set(table.column_names):
        raise InputError(f"{path}: a parquet file, but not a manifest; make one with `emolib data import`")
    about = json.loads(table.schema.metadata[_KEY])
    root = Path(root) if root is not None else path.parent / about["root"]
    return Manifest(tuple(about["labels"]), table.to_pandas(), root, about["source"])


def is_manifest(path: str | Path) -> bool:
    """Is this parquet file a saved manifest, rather than a table of pictures?"""
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def build_manifest(
    rows: Iterable[dict] | pd.DataFrame,
    labels: Sequence[str],
    root: str | Path,
    *,
    source: str = "",
    problems: Problems | None = None,
) -> Manifest:
    """Make a Manifest from rows that name at least `path`, relative to `root`.

    A row may give `emotion` (a name of `labels`, however it is capitalised) or `distribution` (len(labels)
    probabilities), valence and arousal in [-1, 1]; `id` defaults to the place. A label outside the set,
    numbers out of range and a repeated id are refused with InputError, or skipped and counted, as `problems`
    says (default: refused).
    """
    problems = problems or Problems()
    frame = pd.DataFrame(rows).reset_index(drop=True)
    frame = frame.assign(**{name: None for name in SCHEMA.names if name not in frame})
    labels, index = tuple(labels), {clean_label(name): i for i, name in enumerate(labels)}
    if len(index) != len(labels):
        raise InputError(f"labels {', '.join(labels)}: a name occurs twice")
    places = [_place(p, m) for p, m in zip(frame["path"], frame["member"], strict=True)]
    frame["id"] = [place if pd.isna(i) else str(i) for i, place in zip(frame["id"], places, strict=True)]
    frame["emotion"] = pd.Series([clean_label(name) for name in frame["emotion"]], dtype=object)
    for column in ("valence", "arousal"):
        # What is no number becomes infinite, so that it fails the range check and is not taken as "unknown".
        numbers = pd.to_numeric(frame[column], errors="coerce")
        frame[column] = numbers.where(numbers.notna() | frame[column].isna(), np.inf).astype("float32")
    frame = frame.iloc[_good_rows(frame, places, index, problems)].reset_index(drop=True)
    rows = [_distribution(n, v, index) for n, v in zip(frame["emotion"], frame["distribution"], strict=True)]
    names = [None if row is None else labels[int(row.argmax())] for row in rows]
    frame = frame.assign(emotion=pd.Series(names, dtype=object), distribution=pd.Series(rows, dtype=object))
    others = [name for name in frame.columns if name not in SCHEMA.names]
    return Manifest(labels, frame[[*SCHEMA.names, *others]], Path(root), source, problems)


def clean_label(name) -> str | None:
    """A label as it is compared: without outer spaces, case and spelling of accents; None for no label."""
    if name is None or (not isinstance(name, str) and pd.isna(name)):
        return None
    return unicodedata.normalize("NFC", str(name)).strip().casefold() or None


def stratified(strata: pd.Series, n: int, *, seed: int = 0) -> np.ndarray:
    """Draw the positions of `n` rows, dealt out over the strata in turn; rows without a stratum form one.

    A smaller `n` with the same seed gives a subset of a larger one.
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


def _good_rows(
    frame: pd.DataFrame, places: list[str], index: dict[str, int], problems: Problems
) -> list[int]:
    """Positions of the rows that can be taken; the faults of the others go to `problems`."""
    keep, seen = [], set()
    columns = (frame[name] for name in ("id", "emotion", "distribution", "valence", "arousal"))
    for i, (key, name, value, *affect) in enumerate(zip(*columns, strict=True)):
        if fault := _label_fault(name, value, index):
            problems.add("label", f"{places[i]}: {fault}")
        elif any(abs(number) > 1 + 1e-6 for number in affect):
            fault = f"valence, arousal {affect} outside [-1, 1]; convert the scale"
            problems.add("range", f"{places[i]}: {fault}")
        elif key in seen:
            problems.add("id", f"{places[i]}: the id {key!r} occurs twice")
        else:
            seen.add(key)
            keep.append(i)
    return keep


def _place(path: str, member) -> str:
    return str(path) if pd.isna(member) else f"{path}[{member}]"


def _person_key(path: str, emotion) -> str:
    """`path` without its suffix and without the first folder that is named after the emotion."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    folders = [clean_label(part) for part in parts[:-1]]
    if clean_label(emotion) in folders:
        del parts[folders.index(clean_label(emotion))]
    return "/".join(parts)


def _label_fault(name: str | None, value, index: dict[str, int]) -> str | None:
    """Why this label cannot be taken, or None if it can."""
    if isinstance(value, (list, tuple, np.ndarray)):
        numbers = pd.to_numeric(pd.Series(list(value), dtype=object), errors="coerce").to_numpy(np.float64)
        if len(numbers) == len(index) and (numbers >= 0).all() and abs(numbers.sum() - 1) < 1e-4:
            return None
        return f"the distribution {list(value)} is not {len(index)} probabilities that sum to 1"
    if not pd.isna(value):
        return f"the distribution {value!r} is not a list of numbers"
    if name is None or name in index:
        return None
    guess = nearest(name, index)
    return f"unknown label {name!r}; {f'did you mean {guess!r}? ' if guess else ''}known: {', '.join(index)}"


def _distribution(name: str | None, value, index: dict[str, int]) -> np.ndarray | None:
    """The row's distribution as float32: as given, one-hot for a name, None for neither."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return np.asarray(value, dtype=np.float32)
    return None if name is None else np.eye(len(index), dtype=np.float32)[index[name]]
