"""Emotion metrics by hand, distances between sets of features by closed forms, control."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import spearmanr
from torchmetrics.image.kid import maximum_mean_discrepancy

from emolib.metrics import control, emotion, estimates, preservation, quality
from emolib.metrics.quality import Gaussian

LABELS = ("neutral", "awe", "anger", "fear")
PROBS = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5]])
SOURCE = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.9, 0.1]])
TARGET = torch.tensor([1, 1, 2])


def test_emo_a_and_emo_s_by_hand():
    assert emotion.top_k(PROBS, TARGET, 1).tolist() == [True, False, False]
    assert emotion.top_k(PROBS, TARGET, 2).tolist() == [True, True, True]
    assert emotion.target_probability(PROBS, TARGET).tolist() == pytest.approx([0.6, 0.3, 0.3])
    assert emotion.emotion_score(PROBS, SOURCE, TARGET).tolist() == pytest.approx([0.5, 0.0, -0.6])
    assert emotion.emotion_score(PROBS, PROBS, TARGET).tolist() == [0.0, 0.0, 0.0]


def test_valence_is_the_side_with_more_probability():
    # Sides of the three: +0.6 against -0.3, +0.2 against -0.3, +0.1 against -0.8.
    probs = torch.stack([PROBS[0], torch.tensor([0.5, 0.2, 0.2, 0.1]), PROBS[2]])
    assert emotion.valence_hit(probs, TARGET, LABELS).tolist() == [1.0, 0.0, 1.0]
    hit = emotion.valence_hit(probs, torch.tensor([2, 0, 1]), LABELS)
    assert hit[[0, 2]].tolist() == [0.0, 0.0] and hit[1].isnan()


def test_kl_divergence_by_hand():
    logs = [-math.log(p) for p in (0.6, 0.3, 0.3)]
    assert emotion.kl_divergence(TARGET, PROBS).tolist() == pytest.approx(logs)
    even = torch.full((1, 4), 0.25)
    half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert emotion.kl_divergence(half, even).item() == pytest.approx(math.log(2))
    assert emotion.kl_divergence(PROBS, PROBS).abs().max() < 1e-6
    one_hot = torch.eye(4)[TARGET]
    torch.testing.assert_close(emotion.kl_divergence(one_hot, PROBS), emotion.kl_divergence(TARGET, PROBS))
    assert torch.isfinite(emotion.kl_divergence(torch.tensor([3]), half)).all()


def test_confusion_counts_targets_by_row():
    counts = emotion.confusion(PROBS.argmax(1), TARGET, 4)
    assert counts.tolist() == [[0] * 4, [1, 1, 0, 0], [0, 0, 0, 1], [0] * 4]


def test_constant_error_is_the_best_constants():
    # Five points evenly over [-3, 3], as EmotiCrafter's grid: whoever answers 0 is off by 1.8.
    assert emotion.constant_error([-3, -1.5, 0, 1.5, 3]).mean() == pytest.approx(1.8)
    wanted = torch.tensor([0.7, -0.7, -0.7, 0.2])
    best = min((wanted - c).abs().mean() for c in torch.linspace(-1, 1, 201))
    assert emotion.constant_error(wanted).mean() == pytest.approx(best.item(), abs=1e-6)


def test_all_faces_of_a_picture():
    assert emotion.all_faces([1, 1, 0, 1, 1], ["p", "p", "q", "q", "r"]).tolist() == [True, False, True]


def test_bystander_change_is_total_variation():
    assert emotion.bystander_change(PROBS, SOURCE).tolist() == pytest.approx([0.6, 0.0, 0.6])


def test_target_rate():
    judged = torch.tensor([1, 2, 3, 1])
    assert emotion.target_rate(judged, [1, 2, 0, 0]).value == 0.5
    assert emotion.target_rate(judged, 1) == estimates.rate([1, 0, 0, 1])


def features(n, d, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n, d)) @ rng.normal(0, 1, (d, d)) / math.sqrt(d)


def test_frechet_distance_of_known_gaussians():
    # Covariances that commute: |mu|^2 + sum (sqrt a - sqrt b)^2, here 9 + 16 + (1 - 2)^2 + (2 - 5)^2.
    a = Gaussian(np.zeros(2), np.diag([1.0, 2.0]), 9)
    b = Gaussian(np.array([3.0, 4.0]), np.diag([2.0, 5.0]), 9)
    assert quality.frechet(a, b) == pytest.approx(9 + 16 + 1 + 9)
    assert quality.frechet(b, a) == pytest.approx(quality.frechet(a, b))
    # Turning one root does not change the covariance, nor the distance.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert quality.frechet(Gaussian(a.mean, turn @ a.root, 9), b) == pytest.approx(35)


def test_frechet_distance_of_samples_tends_to_the_truth():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20000, 3)), rng.normal([1, 0, 0], [1, 2, 1], (20000, 3))
    assert quality.frechet(quality.gaussian(a), quality.gaussian(b)) == pytest.approx(1 + 1, abs=0.06)
    with pytest.raises(ValueError, match="two pictures"):
        quality.gaussian(np.zeros((1, 4)))


@pytest.mark.parametrize(("n", "m"), [(12, 10), (12, 60), (80, 50)])  # fewer, fewer and more, more than D
def test_frechet_agrees_with_the_square_root_of_a_matrix(n, m):
    a, b = features(n, 20), features(m, 20, seed=1, shift=0.3)
    gaussians = quality.gaussian(a), quality.gaussian(b)
    c, d = np.cov(a.T), np.cov(b.T)
    naive = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert quality.frechet(*gaussians) == pytest.approx(naive, rel=1e-3)
    np.testing.assert_allclose(gaussians[0].root.T @ gaussians[0].root, c, atol=1e-9)
    assert len(gaussians[0].root) == min(n, 20)


def test_a_set_has_no_distance_from_itself_in_any_order():
    a = features(30, 12)
    mixed = a[np.random.default_rng(1).permutation(30)]
    assert quality.frechet(quality.gaussian(a), quality.gaussian(mixed)) == pytest.approx(0, abs=1e-9)
    distances = [quality.kernel_distance(x, features(30, 12, 1)) for x in (a, mixed)]
    assert distances[0] == pytest.approx(distances[1])


def test_kernel_distance_is_torchmetrics():
    a, b = features(14, 6), features(14, 6, seed=1)
    kernels = [torch.from_numpy((x @ y.T / 6 + 1) ** 3) for x, y in ((a, a), (a, b), (b, b))]
    assert quality.kernel_distance(a, b) == pytest.approx(maximum_mean_discrepancy(*kernels).item())


def test_kernel_distance_is_unbiased():
    assert quality.kernel_distance(features(20, 4), features(20, 4, shift=2.0)) > 1
    rng = np.random.default_rng(0)
    draws = [quality.kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / math.sqrt(200)


def test_a_change_of_colour_alone_is_taken_back():
    source = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tinted = (source * torch.tensor([0.5, 0.8, 0.3]).view(3, 1, 1) + 0.2).clamp(-1, 1)
    assert preservation.psnr(tinted, source).max() < 20
    assert preservation.psnr(quality.match_colours(tinted, source), source).min() > 35


def test_success_needs_everything():
    hit, identity, background = [1, 0, 1, 1, 1], [0.9, 0.9, 0.2, 0.9, math.nan], [40, 40, 40, 20, 40]
    limits = {"identity_from": 0.5, "background_from": 30}
    assert control.success(hit, identity, background, **limits).tolist() == [True] + [False] * 4
    assert control.success(hit, None, background, **limits).tolist() == [True, False, True, False, True]


def test_esmi_by_hand():
    # KL falls from 2 to 0.5: 0.75; 30 of 40 grey levels of change inside: 0.75.
    assert control.esmi([2.0], [0.5], [30], [40]).tolist() == [0.75]
    # Nothing done: 0. Further from the target and all change inside: half of 1.
    assert control.esmi([2.0, 2.0], [2.0, 3.0], [0, 5], [0, 5]).tolist() == [0.0, 0.5]
    assert control.esmi([2.0], [0.0], [0.0], [9.0], alpha=0.25).tolist() == [0.75]


def test_preservation_at_matched_emotion():
    assert control.at_matched([0.0, 0.2, 0.6], [50.0, 40.0, 20.0], at=0.3) == pytest.approx(35.0)
    assert control.at_matched([0.0, 0.3], [math.inf, 20.0], at=0.0) == math.inf
    assert math.isnan(control.at_matched([0.0, 0.2], [50.0, 40.0], at=0.3))
    assert math.isnan(control.at_matched([0.4, 0.5], [50.0, 40.0], at=0.3))


def test_pareto_front():
    points = [[1, 5], [2, 4], [2, 3], [0, 5], [3, 1], [math.nan, 9]]
    assert control.pareto_front(points).tolist() == [True, True, False, False, True, False]
    assert control.pareto_front([[1, 1], [1, 1]]).tolist() == [True, True]


def test_rank_correlation_is_spearmans():
    strength, response = [0.1, 0.4, 0.6, 0.9], np.random.default_rng(0).normal(size=(3, 4)).round(1)
    theirs = [spearmanr(strength, row).statistic for row in response]
    assert control.rank_correlation(strength, response) == pytest.approx(theirs)
    assert control.rank_correlation(strength, [[0, 0.1, 0.5, 0.9]]) == pytest.approx([1.0])
    assert np.isnan(control.rank_correlation(strength, [[0.5] * 4])).all()


def test_smoothness():
    assert control.smoothness([[0, 1, 2, 3], [0, 0, 3, 3], [5, 5, 5, 5]])[:2].tolist() == [1.0, 0.0]
    assert control.smoothness([[0, 1, 3]]) == pytest.approx([2 / 3])  # the largest step is 2/3 of the path
    assert np.isnan(control.smoothness([[5, 5, 5]])).all()


def test_seed_spread_by_hand():
    a, b, c = (torch.full((1, 3, 4, 4), value) for value in (-1.0, 0.0, 1.0))
    assert control.seed_spread(torch.stack([a, b, c])).item() == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert control.seed_spread(torch.stack([a, a])).item() == 0.0


def test_diversity_of_changes_by_hand():
    source = torch.zeros(4, 3)
    same = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0], [0.0, 0, 0]])
    assert control.change_diversity(same, source) == pytest.approx(0.0)
    # e1, e1, e2: cosine distances 0, 1, 1.
    assert control.change_diversity(torch.eye(3)[[0, 0, 1]], source[:3]) == pytest.approx(2 / 3)
    opposite = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    assert control.change_diversity(opposite, source[:2]) == pytest.approx(2.0)
    assert math.isnan(control.change_diversity(source, source))
