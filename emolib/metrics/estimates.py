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
Groups = Sequence | None
FEW = 10  # groups; the percentile bootstrap of fewer covers well under 95 %


class Estimate(NamedTuple):
    """A measured number, its 95 % interval, and how many observations it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def rate(hits: ArrayLike, *, groups: Groups = None, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Measure the share of true values among `hits` (any shape), with Wilson's 95 % interval (Wilson 1927).

    With `groups` the interval is the cluster bootstrap's of `mean`; where no resample differs (all
    hits, say), Wilson's with the number of groups as n. ValueError for none.
    """
    hits = _numbers(hits) != 0
    trials = hits.size
    if groups is not None:
        estimate = mean(hits, groups=groups, resamples=resamples, seed=seed)
        if -np.inf < estimate.low < estimate.high:
            return estimate._replace(low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))
        trials = len(np.unique(groups))
    return Estimate(float(hits.mean()), *_wilson(float(hits.mean()), trials), hits.size)


def _wilson(share: float, n: int) -> tuple[float, float]:
    centre = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)
    return max(min(low, share), 0.0), min(max(high, share), 1.0)  # rounding may leave 1 - 1e-16 for 1


def mean(values: ArrayLike, *, groups: Groups = None, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Measure the mean, with a percentile bootstrap 95 % interval (Efron 1979). ValueError for no values."""
    values = _numbers(values)
    sums, counts = _sum_groups(values, groups)
    draws = _resample(sums, counts, resamples, seed)
    value = float(values.mean())
    return Estimate(value, *_interval(value, draws, _leave_out(sums) / _leave_out(counts)), values.size)


def paired(
    values: ArrayLike, baseline: ArrayLike, *, groups: Groups = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Measure the mean of `values - baseline`, value by value the same pictures: the paired bootstrap.

    Equal values differ by 0, two infinities (PSNR of an untouched picture) included. Of hits (0 or 1), where
    no resample differs (all against none, say), the interval is that of two rates, Newcombe's (1998), which
    takes them as if they were not paired.
    """
    options = {"groups": groups, "resamples": resamples, "seed": seed}
    difference = mean(_subtract(values, baseline), **options)
    hits = all(np.isin(_numbers(x), (0, 1)).all() for x in (values, baseline))
    if difference.low < difference.high or not hits:
        return difference
    a, b = rate(values, **options), rate(baseline, **options)
    low = difference.value - math.hypot(a.value - a.low, b.high - b.value)
    high = difference.value + math.hypot(a.high - a.value, b.value - b.low)
    return difference._replace(low=max(low, -1.0), high=min(high, 1.0))


def ratio(
    values: ArrayLike, ceiling: ArrayLike, *, groups: Groups = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Measure mean(values) / mean(ceiling) of the same pictures: e.g. Emo-A as a share of the truth's.

    Numerator and denominator are resampled together. NaN or inf where the ceiling is 0.
    """
    above, below = _numbers(values), _numbers(ceiling)
    (tops, counts), (bottoms, _) = _sum_groups(above, groups), _sum_groups(below, groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _resample(tops, counts, resamples, seed) / _resample(bottoms, counts, resamples, seed)
        without, value = _leave_out(tops) / _leave_out(bottoms), float(above.mean() / below.mean())
    return Estimate(value, *_interval(value, draws, without), above.size)


def wilcoxon(values: ArrayLike, baseline: ArrayLike, *, groups: Groups = None) -> float:
    """Test with Wilcoxon's signed ranks (1945) whether groups' mean differences lie around 0: two-sided p.

    1.0 where no group differs. Ranks only: infinite differences count as the largest.
    """
    from scipy.stats import wilcoxon as test

    sums, counts = _sum_groups(np.clip(_subtract(values, baseline), -1e12, 1e12), groups)
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
    """Find the percentile interval (low, high) over the draws' first axis; NaN draws are passed over."""
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label without rows: all NaN, and NaN comes out
        return tuple(np.nanpercentile(np.asarray(draws, dtype=float), [tail, 100 - tail], axis=0))


def label_means(
    labels: Iterable[str],
    values: ArrayLike,
    groups: Groups = None,
    *,
    order: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> LabelMeans:
    """Measure the mean of `values` (N,) or (N, d) for each label, all from the same resampled `groups` (N,).

    Ratings by one person resemble each other, so the annotator is drawn, not the picture (cluster bootstrap:
    Field & Welsh 2007); None draws single rows. `order` fixes the labels and their order (default: sorted).
    A label without rows has NaN.
    """
    names = np.asarray([str(x) for x in labels])
    x = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    order = tuple(sorted(set(names.tolist())) if order is None else order)
    column = {name: i for i, name in enumerate(order)}
    group = _number_groups(groups, len(names))
    keep = np.array([name in column for name in names])
    cells = group[keep] * len(order) + np.array([column[name] for name in names[keep]], dtype=int)
    shape = (group.max() + 1, len(order))
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)  # (groups, k)
    sums = np.stack([np.bincount(cells, column, shape[0] * shape[1]).reshape(shape) for column in x[keep].T])
    times = _times_drawn(shape[0], draws, seed)
    with np.errstate(invalid="ignore"):
        means = (sums.sum(axis=1) / counts.sum(axis=0)).T
        drawn = np.moveaxis((times @ sums) / (times @ counts), 0, -1)
    return LabelMeans(order, counts.sum(axis=0), means, *interval(drawn), drawn)


def explained(
    values: ArrayLike, factor: Sequence, groups: Sequence, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Measure which share of the variance of `values` (N,) a `factor` (N,) accounts for: (share, low, high).

    Epsilon squared (Kelley 1935), 1 - (N-1)/(N-k) * SS_within/SS_total: unlike eta squared it is 0, not
    k/N, for a factor of k levels that means nothing. The interval resamples `groups` (N,), which may be
    the factor itself.
    """
    y = np.asarray(values, dtype=np.float64)
    y = y - y.mean()
    level_of, group = _number_groups(factor, len(y)), _number_groups(groups, len(y))
    n_groups = group.max() + 1
    w = np.concatenate([np.ones((1, n_groups)), _times_drawn(n_groups, draws, seed)])
    total, total_sq, n = (w @ np.bincount(group, v, n_groups) for v in (y, y * y, np.ones_like(y)))
    if np.array_equal(level_of, group):  # a group drawn twice is two levels
        count, s = np.bincount(group), np.bincount(group, y)
        between, k = w @ (s**2 / count), w.sum(axis=1)
    else:
        shape = (n_groups, level_of.max() + 1)
        cells = group * shape[1] + level_of
        count = w @ np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        s = w @ np.bincount(cells, y, shape[0] * shape[1]).reshape(shape)
        between = np.divide(s**2, count, out=np.zeros_like(s), where=count > 0).sum(axis=1)
        k = (count > 0).sum(axis=1)
    share = 1 - (n - 1) / (n - k) * (total_sq - between) / (total_sq - total**2 / n)
    low, high = interval(share[1:])
    return float(share[0]), float(low), float(high)


def effective_number(weights) -> float:
    """Measure (sum w)^2 / sum w^2: how many equally weighted pictures tell as much as these (Kish 1965)."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum())


def jackknife(
    statistic: Callable[[np.ndarray], float], groups: Sequence, *, blocks: int = 10
) -> tuple[float, float, float]:
    """Measure (value, low, high) of a statistic of a whole set, e.g. a Frechet distance: block jackknife.

    `statistic(rows)` takes positions. Groups are dealt into at most `blocks` blocks, each is left out once
    (Efron & Stein 1981); the bootstrap would not do, since repeated pictures bias such distances. Two groups
    or more are needed for an interval; with one it is infinitely wide.
    """
    index = _number_groups(groups, len(groups))
    count = min(blocks, int(index.max()) + 1)
    value = float(statistic(np.arange(index.size)))
    if count < 2:
        return value, -np.inf, np.inf
    left = np.array([statistic(np.flatnonzero(index % count != k)) for k in range(count)])
    spread = Z * np.sqrt((count - 1) / count * np.square(left - left.mean()).sum())
    return value, float(value - spread), float(value + spread)


def _resample(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
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
    return np.bincount(flat, minlength=resamples * groups).reshape(resamples, groups).astype(np.float64)


_times_drawn_again = lru_cache(maxsize=4)(_times_drawn)  # for many columns of the same few groups


def _leave_out(sums: np.ndarray) -> np.ndarray:
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


def _sum_groups(values: np.ndarray, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of every group."""
    group = _number_groups(groups, values.size)
    return np.bincount(group, weights=values), np.bincount(group)


def _number_groups(groups: Groups, size: int) -> np.ndarray:
    """(size,) the number of each value's group; without groups each is its own."""
    return np.arange(size) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)


def _subtract(values: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    a, b = _numbers(values), _numbers(baseline)
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _numbers(values: ArrayLike) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if not values.size:
        raise ValueError("nothing to measure: no values")
    return values.astype(np.float64).reshape(-1)
