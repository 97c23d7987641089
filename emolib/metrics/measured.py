"""The numbers a lesson reports: collected with their intervals, shown as a table, written as JSON."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from emolib import runtime
from emolib.metrics.estimates import LabelMeans
from emolib.runtime import InputError, one_of


class Measured:
    """Rows of (name, value, low, high, n), n and a 95 % interval beside every number; names are unique."""

    def __init__(self, lesson: str) -> None:
        """`lesson`: its two digits, e.g. "01"; the file is reports/data/01.json.

        `headline` may be set to the name of the one number that the front page shows of this lesson."""
        self.lesson = lesson
        self.headline: str | None = None
        self.rows: list[dict] = []

    def add(self, name: str, value: float, low: float, high: float, n: int) -> None:
        """Add a number with its interval. InputError unless low <= value <= high, n > 0 and the name is new.

        Ends may be infinite, as those of one person's pictures are; the file then has null for them."""
        row = {"name": name, "value": float(value), "low": float(low), "high": float(high), "n": int(n)}
        if not (math.isfinite(value) and low <= value <= high and n > 0):
            raise InputError(f"{name}: a measured number is finite, inside its interval, n > 0; got {row}")
        if any(old["name"] == name for old in self.rows):
            raise InputError(f"{name!r} is measured already; give every number a name of its own")
        self.rows.append(row)

    def add_means(self, name: str, means: LabelMeans, axis: int = 0) -> None:
        """Add one row per label, "name: label", from `estimates.label_means`."""
        for i, label in enumerate(means.names):
            ends = means.low[i, axis], means.high[i, axis]
            self.add(f"{name}: {label}", means.mean[i, axis], *ends, means.n[i])

    def table(self) -> pd.DataFrame:
        """Give the rows so far, indexed by name."""
        frame = pd.DataFrame(self.rows, columns=["name", "value", "low", "high", "n"])
        return frame.set_index("name").rename_axis(None)

    def write(self) -> Path:
        """Write reports/data/<lesson>.json, atomically; returns its path. InputError: an unknown headline."""
        about = {"lesson": self.lesson}
        if self.headline is not None:
            about["headline"] = one_of(self.headline, [row["name"] for row in self.rows], "measured number")
        path = runtime.repo_path("reports", "data", f"{self.lesson}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{k: None if v in (-math.inf, math.inf) else v for k, v in row.items()} for row in self.rows]
        runtime.write_json(path, {**about, "measured": rows})
        return path
