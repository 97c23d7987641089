"""Numbers with their n and a 95 % interval: rates, means, differences, ratios, statistics of whole sets.

`groups` names the independent unit of each value (the person, the scene). Pictures of one person vary
together, so groups are resampled as wholes; n counts the values. The bootstrap of a few groups is too narrow:
under ten, Student's t with the jackknife's standard error is taken where it is wider. One group alone says
nothing of how groups differ: the interval of its mean, difference or ratio is infinitely wide.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # 97.5 % point of the normal distribution
FEW = 10  # groups; the percentile bootstrap of fewer covers well under 95 %


class Estimate(NamedTuple):
    """A measured number, its 95 % interval, and how many observations it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def rate(
    hits: ArrayLike, *, groups: Sequence | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The share of true values among `hits` (any shape), with Wilson's 95 % interval (Wilson 1927).

    With `groups` the interval is the cluster bootstrap's of `mean`; where no resample differs (all
    hits, say), Wilson's with the number of groups as n. ValueError for none.
    """
    hits = _numbers(hits) != 0
    trials = hits.size
    if groups is not None:
        found = mean(hits, groups=groups, resamples=resamples, seed=seed)
        if -np.inf < found.low < found.high:
            return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))
        trials = len(np.unique(_names(groups, hits.size)))
    return Estimate(float(hits.mean()), *_wilson(float(hits.mean()), trials), hits.size)


def _wilson(share: float, n: int) -> tuple[float, float]:
    centre = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)
    return max(min(low, share), 0.0), min(max(high, share), 1.0)  # rounding may leave 1 - 1e-16 for 1


def mean(
    values: ArrayLike, *, groups: Sequence | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean, with a percentile bootstrap 95 % interval (Efron 1979).

    Raises ValueError for no values or unequal lengths.
    """
    values = _numbers(values)
    sums, counts = _grouped(values, groups)
    draws = _resampled(sums, counts, resamples, seed)
    value = float(values.mean())
    return Estimate(value, *_interval(value, draws, _without(sums) / _without(counts)), values.size)


def paired(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    groups: Sequence | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of `values - baseline`, value by value the same pictures: the paired bootstrap.

    Equal values differ by 0, two infinities (PSNR of an untouched picture) included. Of hits (0 or 1), where
    no resample differs (all against none, say), the interval is that of two rates, Newcombe's (1998), which
    takes them as if they were not paired.
    """
    options = {"groups": groups, "resamples": resamples, "seed": seed}
    found = mean(_differences(values, baseline), **options)
    if found.low < found.high or not all(np.isin(_numbers(x), (0, 1)).all() for x in (values, baseline)):
        return found
    a, b = rate(values, **options), rate(baseline, **options)
    low = found.value - math.hypot(a.value - a.low, b.high - b.value)
    high = found.value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(found.value, max(low, -1.0), min(high, 1.0), found.n)


def ratio(
    values: ArrayLike,
    ceiling: ArrayLike,
    *,
    groups: Sequence | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """mean(values) / mean(ceiling) of the same pictures: e.g. Emo-A as a share of what the truth gets.

    Numerator and denominator are resampled together. NaN or inf where the ceiling is 0.
    """
    above, below = _numbers(values), _numbers(ceiling)
    _same_length(above, below)
    (tops, counts), (bottoms, _) = _grouped(above, groups), _grouped(below, groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _resampled(tops, counts, resamples, seed) / _resampled(bottoms, counts, resamples, seed)
        without, value = _without(tops) / _without(bottoms), float(above.mean() / below.mean())
    return Estimate(value, *_interval(value, draws, without), above.size)


def wilcoxon(values: ArrayLike, baseline: ArrayLike, *, groups: Sequence | None = None) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945) on the mean difference of every group.

    1.0 where no group differs. Ranks only: infinite differences count as the largest.
    """
    from scipy.stats import wilcoxon as test

    differences = np.clip(_differences(values, baseline), -1e12, 1e12)
    sums, counts = _grouped(differences, groups)
    means = sums / counts
    return 1.0 if not means.any() else float(test(means).pvalue)


class LabelMeans(NamedTuple):
    """Per label (k): number `n` (k,), `mean`, `low`, `high` (k, d), and the bootstrap `draws` (B, k, d)."""

    names: tuple[str, ...]
    n: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray


def interval(draws: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) over the first axis of bootstrap draws; NaN draws are passed over."""
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label without rows: all NaN, and NaN comes out
        return tuple(np.nanpercentile(np.asarray(draws, dtype=float), [tail, 100 - tail], axis=0))


def label_means(
    labels: Iterable[str],
    values: ArrayLike,
    groups: Sequence | None = None,
    *,
    order: Sequence[str] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> LabelMeans:
    """Mean of `values` (N,) or (N, d) for each label, all labels from the same resampled `groups` (N,).

    Ratings by one person resemble each other, so the annotator is drawn, not the picture (cluster bootstrap:
    Field & Welsh 2007); None draws single rows. `order` fixes the labels and their order (default: sorted).
    A label without rows has NaN.
    """
    names = np.asarray([str(x) for x in labels])
    x = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    order = tuple(sorted(set(names.tolist())) if order is None else order)
    column = {name: i for i, name in enumerate(order)}
    group = np.unique(_names(groups, len(names)), return_inverse=True)[1]
    keep = np.array([name in column for name in names])
    cells = group[keep] * len(order) + np.array([column[name] for name in names[keep]], dtype=int)
    shape = (group.max() + 1, len(order))
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)  # (groups, k)
    sums = np.stack([np.bincount(cells, column, shape[0] * shape[1]).reshape(shape) for column in x[keep].T])
    times = _times_drawn(shape[0], draws, seed)
    with np.errstate(invalid="ignore"):
        means = (sums.sum(axis=1) / counts.sum(axis=0)).T
        drawn = np.moveaxis((times @ sums) / (times @ counts), 0, -1)
    return LabelMeans(order, counts.sum(axis=0), means, *interval(drawn, level), drawn)


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
    n_groups = who.max() + 1
    w = np.concatenate([np.ones((1, n_groups)), _times_drawn(n_groups, draws, seed)])
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
    return float(w.sum() ** 2 / (w**2).sum())


def jackknife(
    statistic: Callable[[np.ndarray], float], groups: Sequence, *, blocks: int = 10
) -> tuple[float, float, float]:
    """(value, low, high) of a statistic of a whole set, e.g. a Frechet distance: delete-a-block jackknife.

    `statistic(rows)` takes positions. Groups are dealt into at most `blocks` blocks, each is left out once
    (Efron & Stein 1981); the bootstrap would not do, since repeated pictures bias such distances. Two groups
    or more are needed for an interval; with one it is infinitely wide.
    """
    index = np.unique(np.asarray(groups).reshape(-1), return_inverse=True)[1].reshape(-1)
    count = min(blocks, int(index.max()) + 1)
    value = float(statistic(np.arange(index.size)))
    if count < 2:
        return value, -np.inf, np.inf
    left = np.array([statistic(np.flatnonzero(index % count != k)) for k in range(count)])
    spread = Z * np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())
    return value, float(value - spread), float(value + spread)


def _resampled(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(resamples,) means of the values when as many groups are drawn as there are."""
    if len(counts) <= 1000 and np.isfinite(sums).all():
        times = _times_drawn_again(len(counts), resamples, seed)
        return (times @ sums) / (times @ counts)
    drawn = _draw(len(counts), resamples, seed)
    return sums[drawn].sum(1) / counts[drawn].sum(1)  # an infinity that is not drawn must not become NaN


def _draw(groups: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, groups): which group each resample draws."""
    return np.random.default_rng(seed).integers(0, groups, (resamples, groups))


def _times_drawn(groups: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, groups): how often each resample draws each group."""
    flat = (_draw(groups, resamples, seed) + np.arange(resamples)[:, None] * groups).reshape(-1)
    times = np.bincount(flat, minlength=resamples * groups)
    return times.reshape(resamples, groups).astype(np.float64)


_times_drawn_again = lru_cache(maxsize=4)(_times_drawn)  # for many columns of the same few groups


def _without(sums: np.ndarray) -> np.ndarray:
    """(groups,) the total of all the other groups, for each."""
    if len(sums) >= FEW:
        return sums  # not looked at
    return np.array([np.delete(sums, k).sum() if len(sums) > 1 else np.nan for k in range(len(sums))])


def _interval(value: float, draws: np.ndarray, without: np.ndarray) -> tuple[float, float]:
    """95 % of the `draws`; of few groups, also what the statistic `without` each of them says."""
    count = len(without)
    if count < 2:
        return -np.inf, np.inf
    # No interpolation between resamples: it would make NaN of infinite PSNRs.
    low, high = np.quantile(draws, (0.025, 0.975), method="inverted_cdf")
    if count < FEW and np.isfinite(without).all():
        half = _student(count - 1) * np.sqrt((count - 1) / count * np.square(without - without.mean()).sum())
        low, high = min(low, value - half), max(high, value + half)
    return float(low), float(high)


@lru_cache(maxsize=FEW)
def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def _grouped(values: np.ndarray, groups: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of every group."""
    names = _names(groups, values.size)
    group = np.unique(names, return_inverse=True)[1].reshape(-1)
    return np.bincount(group, weights=values), np.bincount(group)


def _names(groups: Sequence | None, size: int) -> np.ndarray:
    names = np.arange(size) if groups is None else np.asarray(groups).reshape(-1)
    if names.size != size:
        raise ValueError(f"{names.size} groups for {size} values")
    return names


def _differences(values: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    a, b = _numbers(values), _numbers(baseline)
    _same_length(a, b)
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _same_length(a: np.ndarray, b: np.ndarray) -> None:
    if a.size != b.size:
        raise ValueError(f"{a.size} values cannot be paired with {b.size}")


def _numbers(values: ArrayLike) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if not values.size:
        raise ValueError("nothing to measure: no values")
    return values.astype(np.float64).reshape(-1)
