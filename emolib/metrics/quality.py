"""Do the edits look like pictures of the real kind? Frechet distance, KID, and colour taken out of an edit.

All distances are between features (N, D); whose features they are, and how many, belongs beside the number.
"FID" proper uses Inception-v3's 2,048 (Heusel et al. 2017); other features have another scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emolib.images import to_pil


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and a root (k, D) of the covariance, root' root = covariance, in float64; n observations.

    k = min(n, D): for n < D the centred data are their own root, and no D x D matrix is ever made.
    """

    mean: np.ndarray
    root: np.ndarray
    n: int


def gaussian(features: ArrayLike) -> Gaussian:
    """Fit the Gaussian with the features' mean and (n - 1) covariance. ValueError for fewer than two rows."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a covariance needs features (N, D) of two pictures or more, not {x.shape}")
    mean = x.mean(0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    root = centred if len(x) <= x.shape[1] else np.linalg.qr(centred, mode="r")
    return Gaussian(mean, root, len(x))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Measure the squared Frechet (2-Wasserstein) distance: FID's formula (Heusel et al. 2017, eq. 6).

    |mu_a - mu_b|^2 + tr A + tr B - 2 tr (A B)^1/2, the last trace being the nuclear norm of root_b root_a':
    exact, without the square root of a matrix, and cheap while few pictures meet many features (the idea of
    FastFID, Mathiasen & Hvilshoj 2020).
    """
    cross = np.linalg.svd(b.root @ a.root.T, compute_uv=False).sum()
    apart = np.square(a.mean - b.mean).sum() + np.square(a.root).sum() + np.square(b.root).sum()
    return float(max(apart - 2 * cross, 0.0))


def kernel_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Measure KID: unbiased squared MMD under (x'y / D + 1)^3 (Binkowski et al. 2018, eq. 4).

    Over all pairs of two or more rows each, no random subsets; can be negative.
    """
    x, y = (np.asarray(features, dtype=np.float64) for features in (a, b))
    own_x, own_y, cross = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (own_x, own_y)]
    return float(sum(within) - 2 * cross.mean())


def match_colours(images: Tensor, source: Tensor) -> Tensor:
    """Give the edits (B, 3, H, W) each source's colour histogram, channel by channel: its palette put back.

    What is left of Emo-S then did not come from colour. Histogram matching on 8-bit values.
    """
    from skimage.exposure import match_histograms

    pairs = zip(to_pil(images), to_pil(source), strict=True)
    matched = [match_histograms(np.asarray(a), np.asarray(b), channel_axis=2) for a, b in pairs]
    pixels = torch.from_numpy(np.stack(matched)).permute(0, 3, 1, 2).float()
    return (pixels / 127.5 - 1).clamp(-1, 1).to(images.device)
