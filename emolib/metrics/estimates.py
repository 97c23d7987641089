"""Numbers with their n and a 95 % interval: rates, means, differences, ratios, statistics of whole sets.

`groups` names the independent unit of each value (the person, the scene). Pictures of one person vary
together, so groups are resampled as wholes; n counts the values. The bootstrap of a few groups is too narrow:
under ten, Student's t with the jackknife's standard error is taken where it is wider. One group alone says
nothing of how groups differ: the interval of its mean, difference or ratio is infinitely wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    drawn, times = _draws(len(counts), resamples, seed)
    if times is not None and np.isfinite(sums).all():
        return (times @ sums) / (times @ counts)
    return sums[drawn].sum(1) / counts[drawn].sum(1)  # an infinity that is not drawn must not become NaN


@lru_cache(maxsize=4)
def _draws(groups: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Which group each resample draws (resamples, groups), and, if that is small, how often it draws each."""
    drawn = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    if groups > 1000:
        return drawn, None
    flat = (drawn + np.arange(resamples)[:, None] * groups).reshape(-1)
    return drawn, np.bincount(flat, minlength=resamples * groups).reshape(resamples, groups).astype(
        np.float64
    )


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
