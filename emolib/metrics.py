"""Numbers about edits, each with its n and a 95 % interval: PSNR, SSIM, sharpness, rates, means.

Pictures are float32 (B, 3, H, W) in [-1, 1]; per-picture metrics return (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Estimate(NamedTuple):
    """A measured number, its 95 % interval, and how many observations it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, higher is closer; inf for equal pictures."""
    _same_shape(images, reference)
    error = (images.double() - reference.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(4 / error)).float()  # the range [-1, 1] is 2 wide


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, Wang et al. 2004: 11 px Gaussian window of sigma 1.5, mean over channels.

    Computed on [0, 1] as everybody does: SSIM compares brightnesses and is not the same on [-1, 1]. At most
    1, which equal pictures reach. Raises ValueError for sides under 11 px.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    _same_shape(images, reference)
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs sides of 11 px or more, not {tuple(images.shape[-2:])}")
    pair = (images.float() / 2 + 0.5, reference.float() / 2 + 0.5)
    return structural_similarity_index_measure(*pair, data_range=1.0, reduction="none").reshape(-1)


def sharpness(images: Tensor) -> Tensor:
    """Standard deviation of the luminance's Laplacian: linear in contrast, 0 for a flat picture.

    The root of the variance-of-Laplacian focus measure (Pech-Pacheco et al. 2000)."""
    luma = (images.float() * torch.tensor(LUMA, device=images.device).view(3, 1, 1)).sum(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device)
    return F.conv2d(luma, kernel[None, None]).std((1, 2, 3), correction=0)


def sharpness_ratio(images: Tensor, source: Tensor) -> Tensor:
    """`sharpness` of the edit over that of the source: under 1 is blurred, over 1 is sharpened or noisy.

    NaN or inf where the source is flat."""
    return sharpness(images) / sharpness(source)


def rate(hits: ArrayLike) -> Estimate:
    """The share of true values among `hits` (any shape), with Wilson's 95 % interval (Wilson 1927).

    For independent trials; several pictures of one person are not: see `mean` with `groups`. ValueError for
    none.
    """
    from scipy.stats import binomtest

    hits = _numbers(hits) != 0
    interval = binomtest(int(hits.sum()), hits.size).proportion_ci(0.95, method="wilson")
    return Estimate(float(hits.mean()), float(interval.low), float(interval.high), hits.size)


def target_rate(emotion: ArrayLike, target: ArrayLike) -> Estimate:
    """How often the judged emotion (positions of labels) is the target, with Wilson's interval."""
    judged, wanted = _numbers(emotion), _numbers(target)
    if judged.shape != wanted.shape and wanted.size != 1:
        raise ValueError(f"{judged.size} judged emotions for {wanted.size} targets")
    return rate(judged == wanted)


def mean(
    values: ArrayLike, *, groups: Sequence | None = None, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean, with a percentile bootstrap 95 % interval (Efron 1979).

    `groups` (one label for each value, e.g. identities) are resampled as wholes, because pictures of one
    person vary together; n counts the values. Raises ValueError for no values or unequal lengths.
    """
    values = _numbers(values)
    names = np.arange(values.size) if groups is None else np.asarray(groups).reshape(-1)
    if names.size != values.size:
        raise ValueError(f"{names.size} groups for {values.size} values")
    group = np.unique(names, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(group)
    sums = np.bincount(group, weights=values)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    # No interpolation between resamples: it would make NaN of infinite PSNRs.
    low, high = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    return Estimate(float(values.mean()), float(low), float(high), values.size)


def _numbers(values: ArrayLike) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if not values.size:
        raise ValueError("nothing to measure: no values")
    return values.astype(np.float64).reshape(-1)


def _same_shape(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise ValueError(
            f"shapes {tuple(images.shape)} and {tuple(reference.shape)} are not one (B, 3, H, W)"
        )
