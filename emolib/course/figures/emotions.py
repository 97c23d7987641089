"""Emotions as pictures: Plutchik's wheel, the valence-arousal plane, action units by emotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from emolib.course.figures import labels, style
from emolib.emotions import colours, facs, sets, spaces
from emolib.metrics.estimates import LabelMeans
from emolib.runtime import InputError, one_of


def plutchik_wheel(counts: Mapping[str, float] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plutchik's wheel. Without `counts`: the 24 labels, intense inside, primary dyads between the petals.

    With `counts` (label of the 24 -> number, missing = 0): a rose in which area is number, the innermost
    part of a petal being the intense label, the outermost the mild one.
    """
    ax = style.axes_of(ax, (6, 6))
    ax.set_aspect("equal")
    ax.set_axis_off()
    if counts is None:
        _wheel(ax)
    else:
        counts = dict(counts.items())  # a pandas series will do
        unknown = [name for name in counts if name not in sets.PLUTCHIK24]
        if unknown:
            raise InputError(f"{unknown[0]!r} is not one of Plutchik's 24 labels")
        _rose(ax, counts)
    return ax


def _sector(ax: Axes, centre: float, width: float, inner: float, outer: float, colour: str) -> None:
    """A ring sector, angles clockwise in degrees from the top."""
    t = np.deg2rad(90 - np.linspace(centre - width / 2, centre + width / 2, 40))
    ring = np.concatenate([outer * np.exp(1j * t), inner * np.exp(1j * t[::-1])])
    ax.fill(ring.real, ring.imag, facecolor=colour, edgecolor="white", lw=1.2)


def _at(radius: float, degrees: float) -> tuple[float, float]:
    z = radius * np.exp(1j * np.deg2rad(90 - degrees))
    return z.real, z.imag


def _along(ax: Axes, radius: float, degrees: float, text: str, colour: str) -> None:
    """Small text along the arc, never upside down."""
    turn = -degrees if degrees % 360 <= 90 or degrees % 360 >= 270 else 180 - degrees
    look = {"ha": "center", "va": "center", "fontsize": 7.5, "rotation_mode": "anchor"}
    ax.text(*_at(radius, degrees), text, rotation=turn, color=colour, **look)


def _wheel(ax: Axes) -> None:
    dyads = {frozenset(d[:2]): name for name, d in sets.DYADS.items() if d.order == "primary"}
    for k, petal in enumerate(sets.PLUTCHIK8):
        for label, (inner, outer) in zip(
            sets.PETALS[petal], ((0.76, 1), (0.48, 0.76), (0, 0.48)), strict=True
        ):
            paper = colours.colour(label)
            _sector(ax, 45 * k, 42, inner, outer, paper)
            _along(ax, max((inner + outer) / 2, 0.38), 45 * k, label, colours.text_on(paper))
        name = dyads[frozenset((petal, sets.PLUTCHIK8[(k + 1) % 8]))]
        _along(ax, 1.07, 45 * k + 22.5, name, style.MUTED)
    ax.set_xlim(-1.15, 1.15)
    ax.set_ylim(-1.15, 1.15)


def _rose(ax: Axes, counts: Mapping[str, float]) -> None:
    shades = {p: [float(counts.get(x, 0)) for x in reversed(sets.PETALS[p])] for p in sets.PLUTCHIK8}
    total, largest = sum(map(sum, shades.values())), max(map(sum, shades.values()))
    for k, petal in enumerate(sets.PLUTCHIK8):
        edges = np.sqrt(np.concatenate([[0], np.cumsum(shades[petal])]) / (largest or 1))
        for label, inner, outer in zip(reversed(sets.PETALS[petal]), edges, edges[1:], strict=False):
            paper = colours.colour(label)
            _sector(ax, 45 * k, 42, inner, outer, paper)
            middle = inner + 0.55 * (outer - inner)
            if outer - inner > 0.07 and 0.7 * middle > 0.03 * len(label):
                _along(ax, middle, 45 * k, label, colours.text_on(paper))
        number, (x, y) = sum(shades[petal]), _at(1, 45 * k)
        ax.annotate(
            f"{petal}\n{number:,.0f} ({number / (total or 1):.0%})",
            _at(edges[-1], 45 * k),
            xytext=(6 * x, 6 * y),
            textcoords="offset points",
            ha="center" if abs(x) < 0.1 else "left" if x > 0 else "right",
            va="center" if abs(y) < 0.1 else "bottom" if y > 0 else "top",
            fontsize=9,
        )
    ax.set_xlim(-1.15, 1.15)
    ax.set_ylim(-1.15, 1.15)


def va_density(valence, arousal, *, scale: str = "findingemo", ax: Axes | None = None) -> Axes:
    """How often each point of the valence-arousal plane was given, on `scale`; integers get cells of one."""
    ax = style.axes_of(ax, (6, 5))
    v, a = np.asarray(valence, dtype=float), np.asarray(arousal, dtype=float)
    (v0, v1), (a0, a1) = spaces.SCALES[one_of(scale, spaces.SCALES, "scale")][:2]
    whole = len(v) > 0 and (v == v.round()).all() and (a == a.round()).all() and v1 - v0 > 2
    edges = [
        np.arange(lo - 0.5, hi + 1) if whole else np.linspace(lo, hi, 41) for lo, hi in ((v0, v1), (a0, a1))
    ]
    counts, _, _ = np.histogram2d(v, a, bins=edges)
    mesh = ax.pcolormesh(*edges, counts.T / max(len(v), 1), cmap="Greys", vmin=0, alpha=0.75, lw=0)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.7, pad=0.02, format=lambda x, _: f"{x:.0%}")
    bar.outline.set_visible(False)
    bar.set_label("share of pictures")
    ax.set_xlabel("valence (unpleasant to pleasant)")
    ax.set_ylabel("arousal (calm to excited)")
    return ax


def points(names: Sequence[str], at, low=None, high=None, *, ax: Axes | None = None, size: float = 9) -> Axes:
    """A labelled dot in its emotion's colour at each point (n, 2), with intervals `low`, `high` (n, 2).

    Set the limits of `ax` first: the labels are laid out on what is there.
    """
    ax = style.axes_of(ax, (6, 5))
    m = np.asarray(at, dtype=float)
    for i, name in enumerate(names):
        if low is not None:
            ax.plot([low[i][0], high[i][0]], [m[i, 1]] * 2, color=style.INK, lw=1.2, zorder=3)
            ax.plot([m[i, 0]] * 2, [low[i][1], high[i][1]], color=style.INK, lw=1.2, zorder=3)
        ax.plot(m[i, 0], m[i, 1], "o", ms=8, color=colours.colour(name), mec=style.INK, mew=0.8, zorder=4)
    labels.spread(ax, m[:, 0], m[:, 1], names, size=size)
    return ax


def va_means(means: LabelMeans, *, ax: Axes | None = None, size: float = 9) -> Axes:
    """Mean (valence, arousal) per label with both intervals, from `estimates.label_means`, on new axes or on
    top of what `ax` shows."""
    if ax is None:
        ax = style.axes_of(None, (8.5, 5.5))
        spans = [(means.low[:, k].min(), means.high[:, k].max()) for k in range(2)]
        (x0, x1), (y0, y1) = [(a - 0.08 * (b - a), b + 0.15 * (b - a)) for a, b in spans]
        ax.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="valence", ylabel="arousal")
        ax.grid()
    return points(means.names, means.mean, means.low, means.high, ax=ax, size=size)


def label_intervals(means: LabelMeans, axis: int = 0, *, ax: Axes | None = None) -> Axes:
    """Mean and interval per label in its colour, with n, from `estimates.label_means`."""
    papers = [colours.colour(name) for name in means.names]
    notes = [f"n = {n:,}" for n in means.n]
    centre, low, high = (part[:, axis] for part in (means.mean, means.low, means.high))
    return style.intervals(means.names, centre, low, high, ax=ax, colours=papers, notes=notes)


def au_heatmap(matrix, rows: Sequence[str], *, least: float = 0.05, ax: Axes | None = None) -> Axes:
    """Mean action units by emotion: matrix (len(rows), len(facs.AUS)) in [0, 1].

    Units that stay below `least` everywhere are left out; columns say what the unit does.
    """
    values = np.asarray(matrix, dtype=float)
    keep = np.flatnonzero(values.max(axis=0) >= least)
    names = [f"{facs.AUS[i].removeprefix('AU')} {facs.DESCRIPTIONS[facs.AUS[i]]}" for i in keep]
    shown = np.where(values[:, keep] >= least, values[:, keep], 0)
    ax = style.axes_of(ax, (2 + 0.42 * len(keep), 2.2 + 0.32 * len(rows)))
    return style.heatmap(shown, rows, names, ax=ax, fmt="{:.1f}", vmax=1.0)
