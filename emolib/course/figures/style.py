"""The one look of all figures, and the small parts they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, BOUND = "#222222", "#6b6b6b", "#d9d9d9", "#9a9a9a"
SEQUENTIAL = "Blues"
"""Colour map for amounts, light to dark."""

_RC = {
    "figure.dpi": 100,
    "savefig.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


def use() -> None:
    """Set the look for all figures made after; call once in a notebook's setup."""
    mpl.rcParams.update(_RC)


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax`, or the axes of a new figure of `size` inches."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


def heatmap(
    matrix,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    ax: Axes | None = None,
    fmt: str = "{:.2f}",
    blank: float = 0.0,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
) -> Axes:
    """Matrix (len(rows), len(columns)) of amounts >= 0 as a heat map with its numbers in the cells.

    Cells equal to `blank` or NaN stay empty; `fmt=""` prints no numbers. ValueError for another shape.
    """
    values = pd.DataFrame(np.asarray(matrix, dtype=float), rows, columns).to_numpy()
    ax = axes_of(ax, (1.6 + 0.55 * len(columns), 1.0 + 0.36 * len(rows)))
    top = vmax if vmax is not None else np.nanmax(values)
    ax.imshow(values, cmap=cmap, vmin=0, vmax=top or 1, aspect="auto")
    long = max(len(str(c)) for c in columns) > 4
    ax.set_xticks(range(len(columns)), columns, rotation=40 if long else 0, ha="right" if long else "center")
    if long:
        plt.setp(ax.get_xticklabels(), rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        if fmt and np.isfinite(value) and value != blank:
            ink = "white" if value > 0.6 * (top or 1) else INK
            ax.text(j, i, fmt.format(value), ha="center", va="center", color=ink, fontsize=8)
    return ax


def intervals(
    names: Sequence[str],
    centre,
    low,
    high,
    *,
    ax: Axes | None = None,
    colours: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    reference: float | None = None,
) -> Axes:
    """Horizontal dots with intervals, first name on top; `notes` (such as "n = 12") stand at the right.

    `centre`, `low`, `high`: (len(names),) with low <= centre <= high; `reference` draws a vertical line.
    """
    c, lo, hi = (np.asarray(x, dtype=float) for x in (centre, low, high))
    ax = axes_of(ax, (5.5, 0.8 + 0.3 * len(names)))
    y = np.arange(len(names))
    if reference is not None:
        ax.axvline(reference, color=MUTED, lw=1, ls=":")
    for i in y:
        colour = colours[i] if colours else INK
        ax.plot([lo[i], hi[i]], [i, i], color=colour, lw=2.5, solid_capstyle="butt")
        ax.plot(c[i], i, "o", color=colour, ms=7, mec="white", mew=0.8)
    ax.set_yticks(y, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    if notes:
        place = ax.get_yaxis_transform()
        for i, note in enumerate(notes):
            ax.text(1.01, i, note, transform=place, va="center", fontsize=8, color=MUTED)
    return ax


def estimates(
    found: Mapping[str, Sequence[float]],
    *,
    ax: Axes | None = None,
    colours: Sequence[str] | None = None,
    reference: float | None = None,
) -> Axes:
    """`intervals` of named (value, low, high, n), as `metrics.estimates` gives them, with n at the right."""
    value, low, high, n = np.array([one[:4] for one in found.values()]).T
    notes = [f"n = {count:.0f}" for count in n]
    return intervals(list(found), value, low, high, ax=ax, colours=colours, notes=notes, reference=reference)


def lines(
    x: Sequence[float],
    rows: Mapping[str, Sequence],
    *,
    xlabel: str = "",
    title: str = "",
    reference: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line for each of `rows` {name: values}: numbers, or `Estimate`s, whose intervals are drawn.

    Several rows get a legend; `reference` is a dotted level to compare with."""
    ax = axes_of(ax, (5.5, 2.6))
    if reference is not None:
        ax.axhline(reference, color=MUTED, lw=1, ls=":")
    for name, values in rows.items():
        table = np.asarray([tuple(v)[:3] if isinstance(v, tuple) else (v, v, v) for v in values], dtype=float)
        centre, low, high = table.T
        bars = [centre - low, high - centre] if (low < high).any() else None
        ax.errorbar(x, centre, bars, marker="o", capsize=3, label=name)
    if len(rows) > 1:
        ax.legend(fontsize=8)
    ax.set(xlabel=xlabel, title=title)
    ax.grid(alpha=0.6)
    return ax


def leaderboard(
    numbers: Mapping[str, Mapping[str, Sequence[float] | None]],
    *,
    bounds: Sequence[str] = (),
    width: float = 12.0,
) -> Figure:
    """Draw a leaderboard `numbers[title][method]`: a panel a title, methods in the order of the first.

    A number starts with value, low, high (`metrics.estimates.Estimate`), a 95 % interval. An infinite value
    ("equal to the reference") is written as such, None as "not measured"; `bounds` are drawn in grey.
    """
    names = list(next(iter(numbers.values())))
    size = (width, 0.9 + 0.3 * len(names))
    figure, axes = plt.subplots(1, len(numbers), figsize=size, sharey=True, squeeze=False)
    colours = [BOUND if name in bounds else INK for name in names]
    for axis, (title, found) in zip(axes[0], numbers.items(), strict=True):
        ends = [_finite(found.get(name)) for name in names]
        intervals(names, *zip(*ends, strict=True), ax=axis, colours=colours)
        axis.set_title(title)
        drawn = [end for three in ends for end in three if not math.isnan(end)]
        if drawn and min(drawn) >= 0 and max(drawn) <= 1:
            axis.set_xlim(-0.04, 1.04)  # shares: the same scale everywhere
        for i, name in enumerate(names):
            if math.isnan(ends[i][0]):
                text = "not measured" if found.get(name) is None else "equal (∞)"
                place = axis.get_yaxis_transform()
                axis.text(0.03, i, text, transform=place, va="center", fontsize=8, color=MUTED)
    return figure


def _finite(found: Sequence[float] | None) -> tuple[float, float, float]:
    """(value, low, high), NaN where there is nothing to draw."""
    if found is None or not math.isfinite(found[0]):
        return (math.nan,) * 3
    return tuple(end if math.isfinite(end) else found[0] for end in found[:3])


def shares(table: Sequence[tuple[str, Sequence[str], Sequence[float]]], *, ax: Axes | None = None) -> Axes:
    """One bar of 100 % a row of `table` = (name, parts, amounts), split into its labelled parts."""
    ax = axes_of(ax, (7.5, 0.6 + 0.42 * len(table)))
    shades = plt.get_cmap(SEQUENTIAL)
    for y, (_, parts, amounts) in enumerate(table):
        share = np.asarray(amounts, dtype=float) / np.sum(amounts)
        left = 0.0
        for k, (part, width) in enumerate(zip(parts, share, strict=True)):
            face = shades(0.15 + 0.5 * k / max(len(parts) - 1, 1))
            ax.barh(y, width, left=left, color=face, edgecolor="white", height=0.8)
            texts = (f"{part} {width:.0%}", str(part), "")
            text = next(text for text in texts if 0.0105 * len(text) < width or not text)
            ax.text(left + width / 2, y, text, ha="center", va="center", fontsize=8, color=INK)
            left += width
    ax.set_yticks(range(len(table)), [name for name, _, _ in table])
    ax.set_xlim(0, 1)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.xaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax
