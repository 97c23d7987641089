"""Metrics against numbers worked out by hand and against the libraries that define them."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio

from emolib import metrics
from emolib.metrics import Estimate


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_by_hand_and_as_torchmetrics_has_it():
    black = torch.full((3, 3, 4, 4), -1.0)
    offset = black + torch.tensor([2.0, 0.2, 0.0]).view(3, 1, 1, 1)
    # error 2 of a range 2: 0 dB; error 0.2: 20 dB; none: infinite
    assert metrics.psnr(offset, black).tolist() == pytest.approx([0.0, 20.0, math.inf], abs=1e-4)
    a, b = noise(4, 3, 16, 16), noise(4, 3, 16, 16, seed=1)
    theirs = peak_signal_noise_ratio(a, b, data_range=2.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(metrics.psnr(a, b), theirs)


def test_ssim_is_the_published_one():
    a = noise(2, 3, 24, 32)
    b = (a + 0.2 * noise(2, 3, 24, 32, seed=1)).clamp(-1, 1)
    for i in range(2):
        theirs = structural_similarity(
            (a[i] / 2 + 0.5).numpy(),
            (b[i] / 2 + 0.5).numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert metrics.ssim(a, b)[i].item() == pytest.approx(theirs, abs=1e-3)
    torch.testing.assert_close(metrics.ssim(a, a), torch.ones(2))
    assert metrics.ssim(a[:1], b[:1]).shape == (1,)


def test_pictures_that_cannot_be_compared():
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match="not one"):
            metric(noise(2, 3, 16, 16), noise(1, 3, 16, 16))
    with pytest.raises(ValueError, match="11 px"):
        metrics.ssim(noise(1, 3, 10, 16), noise(1, 3, 10, 16))


def test_sharpness_by_hand():
    # One bright pixel in the middle of 5x5 grey ones: the inner 3x3 of the Laplacian is a +-shaped stencil.
    picture = torch.zeros(1, 3, 5, 5)
    picture[..., 2, 2] = 1.0
    stencil = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=float)
    assert metrics.sharpness(picture).item() == pytest.approx(stencil.std(), rel=1e-5)
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    assert metrics.sharpness(ramp).item() == pytest.approx(0.0, abs=1e-6)


def test_sharpness_ratio_is_linear_in_contrast_and_falls_with_blur():
    source = noise(2, 3, 16, 16)
    torch.testing.assert_close(metrics.sharpness_ratio(source, source), torch.ones(2))
    torch.testing.assert_close(metrics.sharpness_ratio(source * 0.5, source), torch.full((2,), 0.5))
    blurred = torch.nn.functional.avg_pool2d(source, 3, 1, 1)
    assert (metrics.sharpness_ratio(blurred, source) < 0.5).all()


def test_wilson_interval():
    # 8 of 10, from Wilson 1927: (p + z2/2n +- z sqrt(pq/n + z2/4n2)) / (1 + z2/n)
    z, n, p = 1.959963984540054, 10, 0.8
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]
    measured = metrics.rate([True] * 8 + [False] * 2)
    assert (measured.value, measured.n) == (0.8, 10)
    assert [measured.low, measured.high] == pytest.approx(expected, rel=1e-9)
    assert str(measured) == "0.800 [0.490, 0.943] (n=10)"


def test_certain_rates_keep_an_honest_interval():
    assert metrics.rate(torch.ones(20)).high == pytest.approx(1.0)
    assert 0.8 < metrics.rate(torch.ones(20)).low < 0.9
    assert metrics.rate([0]).low == pytest.approx(0.0)


def test_target_rate():
    judged = torch.tensor([1, 2, 3, 1])
    assert metrics.target_rate(judged, [1, 2, 0, 0]).value == 0.5
    assert metrics.target_rate(judged, 1) == metrics.rate([1, 0, 0, 1])
    with pytest.raises(ValueError, match="4 judged emotions for 2 targets"):
        metrics.target_rate(judged, [1, 2])


def test_bootstrap_interval_has_the_width_that_theory_says():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    measured = metrics.mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert measured.value == pytest.approx(values.mean())
    assert measured.high - measured.low == pytest.approx(2 * half, rel=0.1)
    assert measured == metrics.mean(values)
    assert measured != metrics.mean(values, seed=1)


def test_values_of_one_person_count_once():
    # 20 people, each measured 50 times with the same result: the interval must be that of 20, not of 1000.
    people = np.random.default_rng(2).normal(0.0, 1.0, 20)
    values, names = people.repeat(50), np.arange(20).repeat(50)
    grouped, naive, honest = metrics.mean(values, groups=names), metrics.mean(values), metrics.mean(people)
    assert grouped.value == pytest.approx(people.mean())
    assert grouped.n == 1000
    assert grouped.high - grouped.low == pytest.approx(honest.high - honest.low, rel=0.15)
    assert grouped.high - grouped.low > 5 * (naive.high - naive.low)


def test_unequal_groups_weigh_by_their_size():
    values, names = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    measured = metrics.mean(values, groups=names)
    assert measured.value == 2.0
    assert (measured.low, measured.high) == (1.0, 5.0)


def test_infinite_values_stay_infinite():
    assert metrics.mean([math.inf] * 3) == Estimate(math.inf, math.inf, math.inf, 3)


@pytest.mark.parametrize("measure", [metrics.rate, metrics.mean])
def test_nothing_to_measure(measure):
    with pytest.raises(ValueError, match="no values"):
        measure([])


def test_group_labels_must_match():
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        metrics.mean([1, 2, 3], groups=["a", "b"])
