"""Rows in, `Manifest` out: labels, distributions, ids and ranges are checked here, once for all data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emolib.data.manifest import SCHEMA, Manifest
from emolib.data.problems import Problems
from emolib.runtime import InputError, nearest


def build(
    rows: Iterable[dict] | pd.DataFrame,
    labels: Sequence[str],
    root: str | Path,
    *,
    source: str = "",
    problems: Problems | None = None,
) -> Manifest:
    """A Manifest from rows that name at least `path`, relative to `root`.

    A row may give `emotion` (a name of `labels`) or `distribution` (len(labels) probabilities), valence and
    arousal in [-1, 1]; `id` defaults to the place. A label outside the set, numbers out of range and a
    repeated id are refused with InputError, or skipped and counted, as `problems` says (default: refused).
    """
    problems = problems or Problems()
    frame = pd.DataFrame(rows).reset_index(drop=True)
    frame = frame.assign(**{name: None for name in SCHEMA.names if name not in frame})
    labels, index = tuple(labels), {name: i for i, name in enumerate(labels)}
    if len(index) != len(labels):
        raise InputError(f"labels {labels}: a name occurs twice")
    places = [_place(p, m) for p, m in zip(frame["path"], frame["member"], strict=True)]
    frame["id"] = [place if pd.isna(i) else str(i) for i, place in zip(frame["id"], places, strict=True)]
    for column in ("valence", "arousal"):
        # What is no number becomes infinite, so that it fails the range check instead of passing as
        # "unknown".
        numbers = pd.to_numeric(frame[column], errors="coerce")
        frame[column] = numbers.where(numbers.notna() | frame[column].isna(), np.inf).astype("float32")
    frame = frame.iloc[_good_rows(frame, places, index, problems)].reset_index(drop=True)
    found = [_distribution(n, v, index) for n, v in zip(frame["emotion"], frame["distribution"], strict=True)]
    names = [None if d is None else labels[int(d.argmax())] for d in found]
    frame = frame.assign(emotion=pd.Series(names, dtype=object), distribution=pd.Series(found, dtype=object))
    others = [name for name in frame.columns if name not in SCHEMA.names]
    return Manifest(labels, frame[[*SCHEMA.names, *others]], Path(root), source, problems)


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
            problems.add(
                "range", f"{places[i]}: valence, arousal {affect} outside [-1, 1]; convert the scale"
            )
        elif key in seen:
            problems.add("id", f"{places[i]}: the id {key!r} occurs twice")
        else:
            seen.add(key)
            keep.append(i)
    return keep


def _place(path: str, member) -> str:
    return str(path) if pd.isna(member) else f"{path}[{member}]"


def _label_fault(name, value, index: dict[str, int]) -> str | None:
    """Why this label cannot be taken, or None if it can."""
    if isinstance(value, (list, tuple, np.ndarray)):
        value = np.asarray(value, dtype=np.float64)
        if value.shape == (len(index),) and (value >= 0).all() and abs(value.sum() - 1) < 1e-4:
            return None
        return f"the distribution {value.round(3).tolist()} is not {len(index)} probabilities that sum to 1"
    if pd.isna(name) or name in index:
        return None
    guess = nearest(name, index)
    return f"unknown label {name!r}; {f'did you mean {guess!r}? ' if guess else ''}known: {', '.join(index)}"


def _distribution(name, value, index: dict[str, int]) -> np.ndarray | None:
    """The row's distribution as float32: as given, one-hot for a name, None for neither."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return np.asarray(value, dtype=np.float32)
    return None if pd.isna(name) else np.eye(len(index), dtype=np.float32)[index[name]]
