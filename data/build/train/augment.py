"""Random changes to whole batches of pictures, drawn from an explicit generator on the pictures' device.

Pictures are float32 (B, 3, H, W) in [-1, 1] in and out. Hue is never changed: captions name colours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def _uniform(like: torch.Tensor, draw: torch.Generator, low: float, high: float) -> torch.Tensor:
    """(B, 1, 1, 1) numbers in [low, high]."""
    out = torch.rand(len(like), 1, 1, 1, generator=draw, device=like.device)
    return out * (high - low) + low


def move(
    x: torch.Tensor, draw: torch.Generator, *, shift: float = 0.06, zoom: float = 0.08, turn: float = 0.08
) -> torch.Tensor:
    """Flip half of the pictures; shift (parts of the width), zoom, turn (radians) all; edges are mirrored."""
    size = len(x), 1, 1, 1
    flip = torch.where(torch.rand(size, generator=draw, device=x.device) < 0.5, -1.0, 1.0)
    scale, angle = 1 + _uniform(x, draw, -zoom, zoom), _uniform(x, draw, -turn, turn)
    dx, dy = 2 * _uniform(x, draw, -shift, shift), 2 * _uniform(x, draw, -shift, shift)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = [torch.cat([flip * cos, -flip * sin, dx], -1), torch.cat([sin, cos, dy], -1)]
    grid = F.affine_grid(torch.cat(rows, 2).squeeze(1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def relight(x: torch.Tensor, draw: torch.Generator, *, amount: float = 0.2) -> torch.Tensor:
    """Change brightness, contrast and saturation a little."""
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + _uniform(x, draw, -amount, amount)) + mean + _uniform(x, draw, -amount, amount)
    grey = x.mean(1, keepdim=True)
    return (grey + (x - grey) * (1 + _uniform(x, draw, -amount, amount))).clamp(-1, 1)


def _pick(x: torch.Tensor, other: torch.Tensor, draw: torch.Generator, chance: float) -> torch.Tensor:
    return torch.where(_uniform(x, draw, 0, 1) < chance, other, x)


def degrade(x: torch.Tensor, draw: torch.Generator, *, noise: float = 0.06) -> torch.Tensor:
    """Damage as decoders do it: some pictures are shrunk and enlarged again, some blurred, some get noise
    or the 8-px ripple of JPEG."""
    height, width = x.shape[-2:]
    for part, chance in ((2, 0.2), (1.5, 0.2)):
        small = F.interpolate(x, size=(int(height / part), int(width / part)), mode="area")
        x = _pick(x, F.interpolate(small, size=(height, width), mode="bilinear"), draw, chance)
    x = _pick(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), draw, 0.15)
    grain = torch.randn(x.shape, generator=draw, device=x.device) * _uniform(x, draw, 0, noise)
    x = _pick(x, x + grain, draw, 0.4)
    ripple = torch.randn(len(x), 3, 8, 8, generator=draw, device=x.device)
    ripple = ripple.repeat(1, 1, -(-height // 8), -(-width // 8))[..., :height, :width]
    return _pick(x, x + ripple * _uniform(x, draw, 0, 0.05), draw, 0.15).clamp(-1, 1)


def distort(x: torch.Tensor, draw: torch.Generator, *, light: float = 0.2) -> torch.Tensor:
    """All of the above: moved, relit by `light`, damaged."""
    return degrade(relight(move(x, draw), draw, amount=light), draw)
