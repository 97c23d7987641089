"""A leaderboard as dots with intervals: methods down, one panel a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from emolib.figures import style
from emolib.runtime import InputError

BOUND = "#9a9a9a"


def panels(
    numbers: Mapping[str, Mapping[str, Sequence[float] | None]],
    *,
    bounds: Sequence[str] = (),
    width: float = 12.0,
) -> Figure:
    """`numbers[title][method]`: a panel for every title, methods in the order of the first. A number
    starts with value, low, high (`metrics.estimates.Estimate`), a 95 % interval.

    An infinite value ("equal to the reference") is written as such, None as "not measured"; `bounds` are
    methods drawn in grey. InputError without a title or method.
    """
    if not numbers or not next(iter(numbers.values())):
        raise InputError("a leaderboard needs one metric and one method at least")
    names = list(next(iter(numbers.values())))
    size = (width, 0.9 + 0.3 * len(names))
    figure, axes = plt.subplots(1, len(numbers), figsize=size, sharey=True, squeeze=False)
    colours = [BOUND if name in bounds else style.INK for name in names]
    for axis, (title, found) in zip(axes[0], numbers.items(), strict=True):
        ends = [_finite(found.get(name)) for name in names]
        style.intervals(names, *zip(*ends, strict=True), ax=axis, colours=colours)
        axis.set_title(title)
        drawn = [end for three in ends for end in three if not math.isnan(end)]
        if drawn and min(drawn) >= 0 and max(drawn) <= 1:
            axis.set_xlim(-0.04, 1.04)  # shares: the same scale everywhere
        for i, name in enumerate(names):
            if math.isnan(ends[i][0]):
                text = "not measured" if found.get(name) is None else "equal (∞)"
                place = axis.get_yaxis_transform()
                axis.text(0.03, i, text, transform=place, va="center", fontsize=8, color=style.MUTED)
    return figure


def _finite(found: Sequence[float] | None) -> tuple[float, float, float]:
    """(value, low, high), NaN where there is nothing to draw."""
    if found is None or not math.isfinite(found[0]):
        return (math.nan,) * 3
    return tuple(end if math.isfinite(end) else found[0] for end in found[:3])
