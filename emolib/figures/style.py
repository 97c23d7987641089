"""The one look of all figures, and the small parts they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from emolib.runtime import InputError

INK, MUTED, GRID = "#222222", "#6b6b6b", "#d9d9d9"
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

    Cells equal to `blank` or NaN stay empty; `fmt=""` prints no numbers. InputError for another shape.
    """
    values = np.asarray(matrix, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise InputError(f"heatmap needs {len(rows)} x {len(columns)} values, got shape {values.shape}")
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
    if not (len(names) == len(c) == len(lo) == len(hi)):
        raise InputError("intervals needs one centre, low and high for every name")
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


def curve(x: Sequence[float], found: Sequence[Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Values with their intervals, (value, low, high, ...) each, against `x`: dots, joined by a line."""
    ax = axes_of(ax, (4, 2.6))
    value, low, high = np.array([one[:3] for one in found]).T
    ax.errorbar(x, value, [value - low, high - value], marker="o", color=INK, capsize=3)
    ax.grid(alpha=0.3)
    return ax


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
            text = f"{part} {width:.0%}"
            if 0.0105 * len(text) < width:
                ax.text(left + width / 2, y, text, ha="center", va="center", fontsize=8, color=INK)
            elif 0.0105 * len(part) < width:
                ax.text(left + width / 2, y, part, ha="center", va="center", fontsize=8, color=INK)
            left += width
    ax.set_yticks(range(len(table)), [name for name, _, _ in table])
    ax.set_xlim(0, 1)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.xaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax
