"""What was wrong with the input, row by row: counted and named, and refused or skipped as the caller says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from emolib.runtime import InputError

ON_ERROR = ("refuse", "skip")


@dataclass
class Problems:
    """Collects faults met while reading. `on_error="refuse"` raises InputError at the first, `"skip"`
    notes each.

    `lines` holds one line a fault (what, where), `counts` the number per kind ("label", "picture", "url",
    ...).
    """

    on_error: str = "refuse"
    counts: Counter = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.on_error not in ON_ERROR:
            raise InputError(f"on_error={self.on_error!r}: must be one of {', '.join(ON_ERROR)}")

    def add(self, kind: str, line: str) -> None:
        """Note one fault of `kind`, described by `line`; raises InputError(line) unless faults are
        skipped."""
        if self.on_error == "refuse":
            raise InputError(line)
        self.counts[kind] += 1
        self.lines.append(line)

    def __str__(self) -> str:
        return ", ".join(f"{count} x {kind}" for kind, count in sorted(self.counts.items())) or "none"
