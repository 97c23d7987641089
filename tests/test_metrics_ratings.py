"""Statistics of ratings, against closed forms and simulations whose truth is known."""

import numpy as np
import pytest

from emolib.metrics import estimates


def test_means_by_hand():
    got = estimates.label_means(["b", "a", "a"], [[1, 10], [2, 20], [4, 40]], draws=200)
    assert got.names == ("a", "b") and got.n.tolist() == [2, 1]
    assert got.mean.tolist() == [[3, 30], [1, 10]]
    assert (got.low <= got.mean).all() and (got.mean <= got.high).all()
    assert got.draws.shape == (200, 2, 2)
    assert np.allclose(got.draws[..., 1], 10 * got.draws[..., 0], equal_nan=True)  # one resample for both


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


def test_same_seed_same_draws():
    a, b = (estimates.label_means(["a"] * 9, range(9), seed=5, draws=20).draws for _ in range(2))
    assert np.array_equal(a, b)
