"""Lines: how a measured number goes with a knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from emolib.figures import style
from emolib.runtime import InputError


def lines(
    x: Sequence[float],
    rows: Mapping[str, Sequence],
    *,
    xlabel: str = "",
    title: str = "",
    reference: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A line for each of `rows` {name: values}: numbers, or `Estimate`s, whose intervals are drawn.

    Several rows get a legend; `reference` is a dotted level to compare with. InputError: a row that is not as
    long as `x`."""
    ax = style.axes_of(ax, (5.5, 2.6))
    if reference is not None:
        ax.axhline(reference, color=style.MUTED, lw=1, ls=":")
    for name, values in rows.items():
        if len(values) != len(x):
            raise InputError(f"line {name!r}: {len(values)} values for {len(x)} places")
        table = np.asarray([tuple(v)[:3] if isinstance(v, tuple) else (v, v, v) for v in values], dtype=float)
        centre, low, high = table.T
        bars = [centre - low, high - centre] if (low < high).any() else None
        ax.errorbar(x, centre, bars, marker="o", capsize=3, label=name)
    if len(rows) > 1:
        ax.legend(fontsize=8)
    ax.set(xlabel=xlabel, title=title)
    ax.grid(alpha=0.6)
    return ax
