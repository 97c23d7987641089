"""Intervals and statistics of ratings against theory, by hand and by simulation."""

import math

import numpy as np
import pytest
import torch

from emolib.metrics import estimates
from emolib.metrics.estimates import Estimate


def wilson(share, n):
    # Wilson 1927: (p + z2/2n +- z sqrt(pq/n + z2/4n2)) / (1 + z2/n)
    z = 1.959963984540054
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]


def test_wilson_interval():
    measured = estimates.rate([True] * 8 + [False] * 2)
    assert (measured.value, measured.n) == (0.8, 10)
    assert [measured.low, measured.high] == pytest.approx(wilson(0.8, 10), rel=1e-9)
    assert str(measured) == "0.800 [0.490, 0.943] (n=10)"


def test_certain_rates_keep_an_honest_interval():
    assert estimates.rate(torch.ones(20)).high == pytest.approx(1.0)
    assert 0.8 < estimates.rate(torch.ones(20)).low < 0.9
    assert estimates.rate([0]).low == pytest.approx(0.0)


def test_a_rate_over_people_is_the_bootstraps_unless_nothing_varies():
    hits, people = [1, 1, 1, 0, 0, 0, 1, 0] * 5, np.repeat(np.arange(20), 2)
    assert estimates.rate(hits, groups=people) == estimates.mean(hits, groups=people)
    few = estimates.rate(hits[:8], groups=list("aaabbbcd"))
    assert (few.low, few.high) == (0.0, 1.0)  # four people, whose mean's interval leaves the range of a rate
    certain = estimates.rate([1] * 40, groups=np.arange(40) // 8)  # five people, eight pictures each
    assert certain == (1.0, pytest.approx(wilson(1.0, 5)[0]), 1.0, 40)
    halves = estimates.rate([0, 1] * 5, groups=np.arange(10) // 2)  # everybody has one hit of two
    assert [halves.low, halves.high] == pytest.approx(wilson(0.5, 5))


def test_bootstrap_interval_has_the_width_that_theory_says():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    measured = estimates.mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert measured.value == pytest.approx(values.mean())
    assert measured.high - measured.low == pytest.approx(2 * half, rel=0.1)
    assert measured == estimates.mean(values)
    assert measured != estimates.mean(values, seed=1)


@pytest.mark.parametrize("people", [2, 3, 5, 9, 40])
@pytest.mark.parametrize("kind", ["mean", "rate", "paired", "ratio"])
def test_intervals_cover_the_truth_as_often_as_they_say(people, kind):
    # A person's four pictures share most of their variation. Of few people the bootstrap alone would cover in
    # 0.5 (two) to 0.9. 300 studies: standard deviation 1.3 %, and percentile intervals are a bit short.
    rng, groups, covered = np.random.default_rng(1), np.arange(4 * people) // 4, 0
    truth = {"mean": 9, "rate": 0.5, "paired": 0, "ratio": 1}[kind]
    for _ in range(300):
        person = rng.normal(0, 1, people).repeat(4)
        a, b = (9 + person + rng.normal(0, 0.5, 4 * people) for _ in range(2))
        arguments = {"mean": (a,), "rate": (a > 9,)}.get(kind, (a, b))
        estimate = getattr(estimates, kind)(*arguments, groups=groups, resamples=200)
        covered += estimate.low <= truth <= estimate.high
    bounds = (0.89, 1.0) if kind == "rate" else (0.91 if people < 10 else 0.89, 0.99)
    assert bounds[0] <= covered / 300 <= bounds[1]


def test_values_of_one_person_count_once():
    # 20 people, each measured 50 times with the same result: the interval must be that of 20, not of 1000.
    people = np.random.default_rng(2).normal(0.0, 1.0, 20)
    values, names = people.repeat(50), np.arange(20).repeat(50)
    grouped, naive = estimates.mean(values, groups=names), estimates.mean(values)
    honest = estimates.mean(people)
    assert grouped.value == pytest.approx(people.mean()) and grouped.n == 1000
    assert grouped.high - grouped.low == pytest.approx(honest.high - honest.low, rel=0.15)
    assert grouped.high - grouped.low > 5 * (naive.high - naive.low)


def test_what_cannot_be_measured_and_what_is_infinite():
    for measure in (estimates.rate, estimates.mean):
        with pytest.raises(ValueError, match="no values"):
            measure([])
    with pytest.raises(ValueError):
        estimates.mean([1, 2, 3], groups=["a", "b"])
    assert estimates.mean([math.inf] * 3) == Estimate(math.inf, math.inf, math.inf, 3)


def test_unequal_groups_weigh_by_their_size():
    measured = estimates.mean([1.0, 1.0, 1.0, 5.0], groups=["a", "a", "a", "b"])
    assert measured.value == 2.0
    # Without one group 5, without the other 1: a standard error of 2, and Student's t of one degree is 12.7.
    assert (measured.low, measured.high) == pytest.approx((2 - 12.7062 * 2, 2 + 12.7062 * 2), rel=1e-4)


@pytest.mark.parametrize("groups", [["a"] * 4, None])
def test_one_person_alone_has_no_interval(groups):
    values = [1.0, 2.0, 3.0, 4.0][: 4 if groups else 1]
    for measured in (
        estimates.mean(values, groups=groups),
        estimates.paired(values, [0.0] * len(values), groups=groups),
        estimates.ratio(values, values, groups=groups),
    ):
        assert (measured.low, measured.high) == (-math.inf, math.inf)
    one_of_one = estimates.rate([True] * len(values), groups=groups)
    assert 0.2 < one_of_one.low < 0.21 and one_of_one.high == 1.0  # Wilson's, of one


def test_a_paired_difference_knows_what_the_pictures_share():
    hard = np.random.default_rng(3).normal(0, 10, 50)
    found = estimates.paired(hard + 1, hard)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert estimates.paired([math.inf, 3], [math.inf, 1]).value == 1.0
    with pytest.raises(ValueError):
        estimates.paired([1, 2, 3], [1, 2])


def test_all_hits_against_none_is_no_certainty():
    hits, none = [1] * 32, [0] * 32
    found = estimates.paired(hits, none)
    # Wilson's of 32 of 32 begins at 32 / (32 + z^2) and of 0 of 32 ends as far from 0; the two as legs.
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - math.sqrt(2) * 0.10717, 1), abs=1e-4)
    people = estimates.paired(hits, none, groups=np.arange(32) // 8)
    assert people.low == pytest.approx(1 - math.sqrt(2) * 0.48989, abs=1e-4)
    both = estimates.paired(hits, hits)
    assert both.value == 0 and (both.low, both.high) == pytest.approx((-0.10717, 0.10717), abs=1e-4)
    mixed = estimates.paired([1, 0] * 16, none)  # the bootstrap knows these differ
    assert 0.2 < mixed.low < 0.5 < mixed.high < 0.8
    assert estimates.paired([0.5] * 4, [0.25] * 4)[1:3] == (0.25, 0.25)  # no hits


def test_a_ratio_is_of_means_not_a_mean_of_ratios():
    assert estimates.ratio([1.0, 3.0], [2.0, 2.0]).value == 1.0
    assert estimates.ratio([1, 0, 1, 0], [1, 1, 1, 1]).value == 0.5
    assert math.isnan(estimates.ratio([0.0], [0.0]).value)


def test_wilcoxon_by_hand():
    # Five differences of one sign: both all-plus and all-minus of 2^5 rankings are as extreme, p = 2/32.
    assert estimates.wilcoxon([2, 3, 4, 5, 6], [1, 1, 1, 1, 1]) == pytest.approx(2 / 32)
    assert estimates.wilcoxon([1, 2], [1, 2]) == 1.0
    # The person is the unit: ten pictures of five people are five observations.
    assert estimates.wilcoxon(np.repeat([2, 3, 4, 5, 6], 2), [1] * 10, groups=np.arange(10) // 2) == 2 / 32
    assert estimates.wilcoxon([math.inf, 2], [1, 1]) == estimates.wilcoxon([9, 2], [1, 1])


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(4).normal(5, 3, 60)
    value, low, high = estimates.jackknife(lambda rows: values[rows].mean(), np.arange(60), blocks=60)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(60)
    assert (value, high - value, value - low) == pytest.approx((values.mean(), half, half))
    assert estimates.jackknife(lambda rows: 1.0, ["a", "a"])[1:] == (-math.inf, math.inf)


def test_jackknife_leaves_people_out_as_wholes():
    seen = []
    estimates.jackknife(lambda rows: seen.append(set(rows)) or 0.0, [7, 7, 8, 8, 9, 9])
    assert seen == [set(range(6)), {2, 3, 4, 5}, {0, 1, 4, 5}, {0, 1, 2, 3}]


def test_an_interval_holds_its_value_to_the_last_bit():
    for n in range(1, 200):
        for hits in ([True] * n, [False] * n):
            found = estimates.rate(hits)
            assert found.low <= found.value <= found.high


def test_means_by_hand():
    got = estimates.label_means(["b", "a", "a"], [[1, 10], [2, 20], [4, 40]], draws=200)
    assert got.names == ("a", "b") and got.n.tolist() == [2, 1]
    assert got.mean.tolist() == [[3, 30], [1, 10]]
    assert (got.low <= got.mean).all() and (got.mean <= got.high).all()
    assert got.draws.shape == (200, 2, 2)
    assert np.allclose(got.draws[..., 1], 10 * got.draws[..., 0], equal_nan=True)  # one resample for both
    again = estimates.label_means(["b", "a", "a"], [[1, 10], [2, 20], [4, 40]], draws=200)
    assert np.array_equal(again.draws, got.draws, equal_nan=True)


def test_order_is_kept_and_absent_labels_are_nan():
    got = estimates.label_means(["x", "y"], [1, 2], order=("z", "x"), draws=50)
    assert got.names == ("z", "x") and got.n.tolist() == [0, 1]
    assert np.isnan(got.mean[0, 0]) and got.mean[1, 0] == 1


def test_row_interval_is_the_normal_one_for_many_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=4000)
    got = estimates.label_means(["a"] * 4000, x, draws=2000)
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert got.low[0, 0] == pytest.approx(x.mean() - half, abs=0.012)
    assert got.high[0, 0] == pytest.approx(x.mean() + half, abs=0.012)


def simulate(rng, people=60, each=20, between=1.0, within=1.0):
    who = np.repeat(np.arange(people), each)
    return who, rng.normal(0, between, people)[who] + rng.normal(0, within, len(who))


def test_cluster_intervals_cover_and_row_intervals_do_not():
    rng = np.random.default_rng(1)
    covered = np.zeros(2)
    for trial in range(200):
        who, x = simulate(rng)
        for i, groups in enumerate((who, None)):
            got = estimates.label_means(["a"] * len(x), x, groups, draws=200, seed=trial)
            covered[i] += got.low[0, 0] <= 0 <= got.high[0, 0]
    assert 0.88 <= covered[0] / 200 <= 0.99  # nominal 0.95
    assert covered[1] / 200 < 0.6  # sqrt(1 + 20) / sqrt(1 + 1) = 3.2 times too narrow


def test_explained_recovers_the_simulated_share_and_is_zero_for_noise():
    rng = np.random.default_rng(2)
    who, x = simulate(rng, people=300)
    share, low, high = estimates.explained(x, who, who, draws=300)
    assert share == pytest.approx(0.5, abs=0.05) and low < 0.5 < high
    noise = estimates.explained(rng.normal(size=len(x)), who, who, draws=300)[0]
    assert abs(noise) < 0.02  # eta squared would be 300 / 6000 = 0.05
    label = rng.integers(0, 24, len(x))
    got = estimates.explained(label * 1.0, label, who, draws=50)
    assert got == pytest.approx((1, 1, 1))
    assert abs(estimates.explained(x, label, who, draws=50)[0]) < 0.02


def test_explained_matches_its_definition():
    rng = np.random.default_rng(3)
    y, f = rng.normal(size=90), rng.integers(0, 4, 90)
    y = y + 0.7 * f
    within = sum(((y[f == k] - y[f == k].mean()) ** 2).sum() for k in range(4))
    by_hand = 1 - (89 / 86) * within / ((y - y.mean()) ** 2).sum()
    assert estimates.explained(y, f, np.arange(90), draws=10)[0] == pytest.approx(by_hand)


def test_effective_number():
    assert estimates.effective_number(np.full(7, 0.3)) == pytest.approx(7)
    assert estimates.effective_number([1, 0, 0]) == 1
    assert estimates.effective_number([1, 3]) == pytest.approx(1.6)
