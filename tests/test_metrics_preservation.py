"""What an edit kept: against numbers worked out by hand and the libraries that define them."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from emolib.metrics import preservation as metrics


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ms_ssim(images, reference):
    return metrics.ssim_map_and_ms_ssim(images, reference)[1]


def metric_of(name):
    return ms_ssim if name == "ms_ssim" else getattr(metrics, name)


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
    theirs = structural_similarity_index_measure(a / 2 + 0.5, b / 2 + 0.5, data_range=1.0, reduction="none")
    torch.testing.assert_close(metrics.ssim(a, b), theirs, atol=1e-5, rtol=1e-5)
    assert metrics.ssim(a[:1], b[:1]).shape == (1,)


def test_pictures_that_cannot_be_compared():
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


def test_an_untouched_picture_is_kept_whole():
    x = noise(2, 3, 48, 48)
    assert metrics.psnr(x, x).tolist() == [math.inf] * 2
    assert ms_ssim(x, x).tolist() == pytest.approx([1.0] * 2)
    assert metrics.alignment_shift(x, x).tolist() == [0.0] * 2
    assert not metrics.beats_doing_nothing(x, x, noise(2, 3, 48, 48, seed=1)).any()


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_falls_with_growing_noise_and_does_not_care_which_is_which(name):
    metric, x = metric_of(name), smooth(1, 48)
    worse = torch.cat(
        [(x + level * noise(1, 3, 48, 48)).clamp(-1, 1) for level in (0.05, 0.1, 0.2, 0.4, 0.8)]
    )
    values = metric(worse, x.expand(5, -1, -1, -1))
    assert (values.diff() < 0).all()
    torch.testing.assert_close(metric(x.expand(5, -1, -1, -1), worse), values, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim", "sharpness_ratio", "alignment_shift"])
def test_the_order_of_pictures_does_not_matter(name):
    metric, order = metric_of(name), torch.tensor([2, 0, 1])
    a, b = noise(3, 3, 48, 48), noise(3, 3, 48, 48, seed=1)
    torch.testing.assert_close(metric(a[order], b[order]), metric(a, b)[order])


def smooth(n, side, seed=0):
    """Blurred noise: neighbouring pixels alike, as in pictures."""
    return torch.nn.functional.avg_pool2d(noise(n, 3, side + 8, side + 8, seed=seed), 9, 1) * 4


def test_ms_ssim_takes_the_scales_that_fit():
    sides = {10: 0, 11: 1, 22: 2, 43: 2, 44: 3, 96: 4, 175: 4, 176: 5}
    assert {side: metrics.scales(side, side) for side in sides} == sides
    a = smooth(2, 176)
    b = (a + 0.3 * noise(2, 3, 176, 176, seed=1)).clamp(-1, 1)
    theirs = multiscale_structural_similarity_index_measure(
        a / 2 + 0.5, b / 2 + 0.5, data_range=1.0, reduction="none", normalize="relu"
    )
    torch.testing.assert_close(ms_ssim(a, b), theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="11 px"):
        ms_ssim(noise(1, 3, 10, 16), noise(1, 3, 10, 16))


@pytest.mark.parametrize("side", [12, 96])
def test_ssim_and_ms_ssim_at_once_are_what_they_are_alone(side):
    a = smooth(3, side)
    b = (a + 0.3 * noise(3, 3, side, side, seed=1)).clamp(-1, 1)
    similarity, several = metrics.ssim_map_and_ms_ssim(a, b)
    assert torch.equal(similarity, metrics.ssim_map(a, b))
    assert torch.allclose(several, metrics.ssim(a, b)) == (side == 12)  # there is only one scale


def test_masked_error_by_hand():
    source, edit = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    mask = torch.zeros(1, 12, 12)
    mask[:, :, :6] = 1
    edit[..., :6] = 1.0  # half the range, inside only
    assert metrics.masked_error(edit, source, mask).item() == pytest.approx(0.25)
    assert metrics.masked_psnr(edit, source, mask).item() == pytest.approx(10 * math.log10(4))
    assert metrics.masked_psnr(edit, source, mask == 0).item() == math.inf
    assert metrics.masked_psnr(edit, source, mask * 0).isnan().all()
    whole = torch.ones(1, 12, 12)
    torch.testing.assert_close(metrics.masked_psnr(edit, source, whole), metrics.psnr(edit, source))


def test_masked_ssim_does_not_see_across_the_rim():
    source = smooth(1, 40)
    edit, mask = source.clone(), torch.zeros(1, 40, 40)
    edit[..., :12], mask[..., :12] = -edit[..., :12], 1
    similarity = metrics.ssim_map(edit, source)
    assert metrics.masked_ssim(similarity, mask == 0).item() == pytest.approx(1.0)
    # A plain mean over the same side's pixels is dragged down by windows that reach across.
    assert similarity[0, :, 12:].mean() < 0.97
    assert metrics.masked_ssim(similarity, mask).item() < 0.2
    assert metrics.masked_ssim(similarity, torch.zeros(1, 40, 40)).isnan().all()


def test_box_mask():
    mask = metrics.box_mask([[1, 2, 3, 5], [0, 0, 6, 6]], 6, 6)
    assert mask.sum((1, 2)).tolist() == [6, 36]
    assert mask[0, 2:5, 1:3].all()


def test_a_shifted_picture_is_measured_in_pixels():
    wide = smooth(1, 80)
    source, moved = wide[..., 8:72, 8:72], wide[..., 5:69, 4:68]
    assert metrics.alignment_shift(moved, source).item() == pytest.approx(5.0, abs=0.3)
    assert metrics.alignment_shift(moved * 0, source).isnan().all()


def test_beating_doing_nothing():
    source, truth = torch.zeros(3, 3, 8, 8), torch.ones(3, 3, 8, 8)
    edits = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 0.0, -0.1)])
    assert metrics.beats_doing_nothing(edits, source, truth).tolist() == [True, False, False]
