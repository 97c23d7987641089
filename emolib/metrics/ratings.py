"""What annotators said, with intervals that know how many annotators there were.

Ratings by one person resemble each other, so the unit that is resampled is the annotator, not the
picture (cluster bootstrap: Field & Welsh 2007); row-wise intervals come out too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from emolib.runtime import InputError


class LabelMeans(NamedTuple):
    """Per label (k): number `n` (k,), `mean`, `low`, `high` (k, d), and the bootstrap `draws` (B, k, d)."""

    names: tuple[str, ...]
    n: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray


def interval(draws, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) over the first axis of bootstrap draws; NaN draws are passed over."""
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label without rows: all NaN, and NaN comes out
        return tuple(np.nanpercentile(np.asarray(draws, dtype=float), [tail, 100 - tail], axis=0))


def _weights(groups: int, draws: int, seed: int) -> np.ndarray:
    """(draws, groups): how often each group is drawn when as many are drawn as there are."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def label_means(
    labels: Iterable[str],
    values,
    groups=None,
    *,
    order: Sequence[str] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> LabelMeans:
    """Mean of `values` (N,) or (N, d) for each label, with percentile intervals from resampled `groups`.

    `groups` (N,): who gave the rating; None resamples single rows. `order` fixes the labels and their
    order (default: sorted). A label without rows has NaN. InputError if the lengths differ.
    """
    names = np.asarray([str(x) for x in labels])
    x = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    who = np.arange(len(names)) if groups is None else np.asarray(groups)
    if not (len(names) == len(x) == len(who)) or not len(names):
        raise InputError(f"labels, values, groups have {len(names)}, {len(x)}, {len(who)} entries")
    order = tuple(sorted(set(names.tolist())) if order is None else order)
    column = {name: i for i, name in enumerate(order)}
    keep = np.array([name in column for name in names])
    code = np.array([column[name] for name in names[keep]], dtype=int)
    who = np.unique(who, return_inverse=True)[1]
    cells, size = who[keep] * len(order) + code, (who.max() + 1) * len(order)
    counts = np.bincount(cells, minlength=size).reshape(-1, len(order))
    sums = np.stack([np.bincount(cells, x[keep, j], size).reshape(counts.shape) for j in range(x.shape[1])])
    w = _weights(len(counts), draws, seed)
    with np.errstate(invalid="ignore"):
        mean = (sums.sum(axis=1) / counts.sum(axis=0)).T
        drawn = np.moveaxis((w @ sums) / (w @ counts), 0, -1)
    return LabelMeans(order, counts.sum(axis=0), mean, *interval(drawn, level), drawn)


def explained(
    values, factor, groups, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(share, low, high) of the variance of `values` (N,) that a `factor` (N,) accounts for.

    Epsilon squared (Kelley 1935), 1 - (N-1)/(N-k) * SS_within/SS_total: unlike eta squared it is 0, not
    k/N, for a factor of k levels that means nothing. The interval resamples `groups` (N,), which may be
    the factor itself.
    """
    y = np.asarray(values, dtype=np.float64)
    y = y - y.mean()
    level_of = np.unique(np.asarray(factor), return_inverse=True)[1]
    who = np.unique(np.asarray(groups), return_inverse=True)[1]
    if not (len(y) == len(level_of) == len(who)):
        raise InputError(f"values, factor, groups have {len(y)}, {len(level_of)}, {len(who)} entries")
    n_groups = who.max() + 1
    w = np.concatenate([np.ones((1, n_groups)), _weights(n_groups, draws, seed)])
    total, total_sq, n = (w @ np.bincount(who, v, n_groups) for v in (y, y * y, np.ones_like(y)))
    if np.array_equal(level_of, who):  # a group drawn twice is two levels
        count, s = np.bincount(who), np.bincount(who, y)
        between, k = w @ (s**2 / count), w.sum(axis=1)
    else:
        shape = (n_groups, level_of.max() + 1)
        cells = who * shape[1] + level_of
        count = w @ np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        s = w @ np.bincount(cells, y, shape[0] * shape[1]).reshape(shape)
        between = np.divide(s**2, count, out=np.zeros_like(s), where=count > 0).sum(axis=1)
        k = (count > 0).sum(axis=1)
    share = 1 - (n - 1) / (n - k) * (total_sq - between) / (total_sq - total**2 / n)
    low, high = interval(share[1:], level)
    return float(share[0]), float(low), float(high)


def effective_number(weights) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted pictures tell as much as these (Kish 1965)."""
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not (w >= 0).all() or not w.sum() > 0:
        raise InputError("weights are one list of numbers >= 0, not all zero")
    return float(w.sum() ** 2 / (w**2).sum())
