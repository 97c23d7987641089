"""What the edit kept: PSNR, SSIM, MS-SSIM, background, identity, alignment, sharpness, distance to the truth.

Pictures are float32 (B, 3, H, W) in [-1, 1]; masks (B, H, W), nonzero inside; per-picture metrics return
(B,). The reference is the source or the true answer. All may lie on any device, each on another; what was
measured is on the CPU.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WINDOW, SIGMA = 11, 1.5  # px, SSIM's Gaussian window
C1, C2 = 0.01**2, 0.03**2  # its constants, for the range [0, 1]
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's five scales, finest first


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Measure the peak signal-to-noise ratio in dB, higher is closer; inf for equal pictures."""
    error = (images.cpu().double() - reference.cpu().double()).square().mean((1, 2, 3))
    return (10 * torch.log10(4 / error)).float()  # the range [-1, 1] is 2 wide


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Measure structural similarity (Wang et al. 2004): 11 px Gaussian window, sigma 1.5, mean of channels.

    Computed on [0, 1] as everybody does: SSIM compares brightnesses and is not the same on [-1, 1]. At most
    1, which equal pictures reach. ValueError for sides under 11 px. By hand, as it is four times as fast as
    torchmetrics' at 64 px.
    """
    return ssim_map(images, reference).mean((1, 2))


def ssim_map(images: Tensor, reference: Tensor) -> Tensor:
    """Measure the map (B, H, W), averaged over channels, whose mean `ssim` is. The border is mirrored."""
    luminance, contrast = _similarity(_unit(images), _unit(reference))
    return (luminance * contrast).mean(1)


def ssim_map_and_ms_ssim(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Measure `ssim_map` (B, H, W) and MS-SSIM (B,; Wang et al. 2003) at once: both need the finest scale.

    As many scales as the pictures have room for: five from 176 px on, four at EmoFaces' 96 (`scales` says);
    fewer share the published exponents' weight among them, so values of different sizes are not comparable.
    ValueError for sides under 11 px.
    """
    used = BETAS[: max(scales(*images.shape[-2:]), 1)]
    a, b, product = _unit(images), _unit(reference), torch.ones(len(images))
    rim, maps = WINDOW // 2, []
    for scale, beta in enumerate(used):
        luminance, contrast = _similarity(a, b)
        if scale in (0, len(used) - 1):
            maps.append(luminance * contrast)
        if scale == len(used) - 1:
            value = maps[-1].mean((1, 2, 3))
        else:
            value = contrast[..., rim:-rim, rim:-rim].mean((1, 2, 3))
        # The fractional power of a negative structure term would be NaN.
        product = product * value.clamp(min=0) ** (beta / sum(used))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return maps[0].mean(1), product


def scales(height: int, width: int) -> int:
    """Count the scales of five that MS-SSIM takes of such a picture: the coarsest still holds one window."""
    return sum(min(height, width) // 2**n >= WINDOW for n in range(5))


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's two factors (B, C, H, W) of pictures on [0, 1]: luminance, and contrast with structure."""
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs sides of {WINDOW} px or more, not {tuple(a.shape[-2:])}")
    down, across = (_window(side, a.dtype) for side in a.shape[-2:])
    moments = down @ torch.cat([a, b, a * a, b * b, a * b], 1) @ across.T
    mean_a, mean_b, square_a, square_b, both = moments.chunk(5, 1)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    covariance, variances = both - product, (square_a + square_b - squares).clamp(min=0)
    luminance = (2 * product + C1) / (squares + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


@lru_cache(maxsize=16)
def _window(side: int, dtype: torch.dtype) -> Tensor:
    """(side, side): SSIM's Gaussian window along one axis, mirrored at the ends, as a matrix.

    Two matrix products are several times faster on a CPU than a convolution with 121 taps.
    """
    reach = WINDOW // 2
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * SIGMA**2))
    rows = torch.arange(side)[:, None]
    places = (rows + torch.arange(-reach, reach + 1)).abs()
    places = torch.where(places < side, places, 2 * (side - 1) - places)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    matrix.scatter_add_(1, places, (taps / taps.sum()).expand(side, -1))
    return matrix.to(dtype)


def masked_error(images: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Measure the mean squared error of the pixels inside `mask`, on the [0, 1] scale; NaN for none."""
    inside = (mask.cpu() != 0).double()
    error = (images.cpu().double() - reference.cpu().double()).square().mean(1) / 4
    return ((error * inside).sum((1, 2)) / inside.sum((1, 2))).float()


def masked_psnr(images: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Measure PSNR in dB of the pixels inside `mask` alone; inf if they are equal, NaN for none."""
    return -10 * torch.log10(masked_error(images, reference, mask))


def masked_ssim(similarity: Tensor, mask: Tensor) -> Tensor:
    """Average an `ssim_map` over the places whose whole window lies inside `mask`; NaN where there are none.

    Windows that reach across the mask's rim would let the outside in.
    """
    similarity, outside = similarity.cpu(), (mask.cpu() == 0).float()[:, None]
    reach = WINDOW // 2
    padded = F.pad(outside, (reach,) * 4, value=1.0)
    near = F.max_pool2d(F.max_pool2d(padded, (WINDOW, 1), 1), (1, WINDOW), 1)[:, 0]
    inside = (near == 0).to(similarity)
    return (similarity * inside).sum((1, 2)) / inside.sum((1, 2))


def box_mask(boxes, height: int, width: int) -> Tensor:
    """Mark (B, H, W) bool the inside of each box [x0, y0, x1, y1]."""
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.int64).reshape(-1, 4))[:, :, None]
    x, y = torch.arange(width), torch.arange(height)
    across = (x >= boxes[:, 0]) & (x < boxes[:, 2])
    down = (y >= boxes[:, 1]) & (y < boxes[:, 3])
    return down[:, :, None] & across[:, None, :]


def cosine(edit: Tensor, source: Tensor) -> Tensor:
    """Measure (B,) the cosine of embeddings (B, D), one face against one."""
    return F.cosine_similarity(edit.cpu().double(), source.cpu().double(), dim=1).float()


def alignment_shift(images: Tensor, reference: Tensor) -> Tensor:
    """Measure (B,) px by which the picture has moved against the reference: to a tenth, by phase correlation.

    Guizar-Sicairos et al. 2008. Editors that draw the picture anew (Kontext, Qwen) drift; PSNR then punishes
    what is only a shift. NaN where one is flat. No window: under one, pictures of img2img were said to have
    moved by 7 px that have not moved at all.
    """
    from skimage.registration import phase_cross_correlation

    shifts = []
    for moved, fixed in zip(_luma(images).numpy(), _luma(reference).numpy(), strict=True):
        moved, fixed = moved - moved.mean(), fixed - fixed.mean()
        there = moved.any() and fixed.any()
        shift = phase_cross_correlation(fixed, moved, upsample_factor=10)[0] if there else np.nan
        shifts.append(float(np.linalg.norm(shift)))
    return torch.tensor(shifts, dtype=torch.float32)


def sharpness(images: Tensor) -> Tensor:
    """Measure the standard deviation of the luminance's Laplacian: linear in contrast, 0 for a flat picture.

    The root of the variance-of-Laplacian focus measure (Pech-Pacheco et al. 2000)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return F.conv2d(_luma(images)[:, None], kernel[None, None]).std((1, 2, 3), correction=0)


def sharpness_ratio(images: Tensor, source: Tensor) -> Tensor:
    """Divide the edit's `sharpness` by the source's: under 1 is blurred, over 1 is sharpened or noisy.

    NaN or inf where the source is flat."""
    return sharpness(images) / sharpness(source)


def beats_doing_nothing(images: Tensor, source: Tensor, truth: Tensor) -> Tensor:
    """Tell (B,) bool whether the edit is closer to the true answer (squared error) than the source is.

    The honest bar: an editor that fails it does more harm than good, whatever a judge says.
    """
    edit, nothing, truth = (x.cpu().double() for x in (images, source, truth))
    return (edit - truth).square().mean((1, 2, 3)) < (nothing - truth).square().mean((1, 2, 3))


def _luma(images: Tensor) -> Tensor:
    return (images.cpu().float() * torch.tensor(LUMA).view(3, 1, 1)).sum(1)


def _unit(images: Tensor) -> Tensor:
    return images.cpu().float() / 2 + 0.5
