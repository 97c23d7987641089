"""Random changes that carry over from renders to photographs: framing, background, light, camera.

Pictures are float32 (B, 3, S, S) in [-1, 1], masks (B, 1, S, S) in [0, 1] (1: the person), points (B, N, 2)
in pixels, x to the right and y down, in the order of `emolib.data.framing.LANDMARKS`. Every number is drawn
from an explicit generator on the pictures' device.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

from emolib.data.framing import LANDMARKS
from train import data
from train.augment import _pick, _uniform, degrade, distort
from train.data import Portraits

_OTHER = {"left": "right", "right": "left"}
_SPLIT = [name.partition("_") for name in LANDMARKS]
MIRRORED = [LANDMARKS.index(_OTHER.get(side, side) + bar + rest) for side, bar, rest in _SPLIT]
"""Which landmark each one becomes in a mirrored picture."""
EYES = [LANDMARKS.index(f"{side}_pupil") for side in ("left", "right")]
MOUTH = [LANDMARKS.index(f"{side}_mouth_corner") for side in ("left", "right")]

# The example tables of the JPEG standard (ITU-T T.81, annex K.1): brightness and colour.
_LUMA = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
_CHROMA = (
    """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
"""
    + "99 " * 32
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def frame(x, masks, points, draw, *, shift: float = 0.08, zoom: float = 0.2, turn: float = 0.25, flip=True):
    """Turn (radians), zoom and shift (parts of the side) about the middle of eyes and mouth; mirror half.

    Returns pictures, masks and points; what lies beyond the old picture is mirrored into the new one.
    """
    size, count = x.shape[-1], len(x)
    angle, scale = (_uniform(x, draw, -a, a).reshape(count) for a in (turn, 1.0))
    scale = torch.exp(scale * math.log1p(zoom))
    mirror = torch.where(_uniform(x, draw, 0, 1).reshape(count) < (0.5 if flip else 0), -1.0, 1.0)
    offset = torch.stack([_uniform(x, draw, -2 * shift, 2 * shift).reshape(count) for _ in range(2)], 1)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    linear = torch.stack([torch.stack([mirror * cos, -sin], 1), torch.stack([mirror * sin, cos], 1)], 1)
    # from the new picture to the old one: old = linear @ (new - offset - middle) + middle
    old = 2 * points / size - 1
    middle = (old[:, EYES].mean(1) + old[:, MOUTH].mean(1)) / 2
    move = middle - (linear @ (middle + offset)[:, :, None])[:, :, 0]
    grid = F.affine_grid(torch.cat([linear, move[:, :, None]], 2), list(x.shape), align_corners=False)
    both = F.grid_sample(torch.cat([x, masks], 1), grid, padding_mode="reflection", align_corners=False)
    new = torch.linalg.solve(linear, (old - move[:, None]).transpose(1, 2)).transpose(1, 2)
    new = torch.where(mirror[:, None, None] < 0, new[:, MIRRORED], new)
    return both[:, :3], both[:, 3:], (new + 1) * size / 2


def swap_background(x, masks, draw, *, chance: float = 0.6):
    """Put some people before another picture's background, clouds of colour, or a plain wall."""
    count, size = len(x), x.shape[-1]
    order = torch.randperm(count, generator=draw, device=x.device)
    other, free = x[order], 1 - masks[order]
    seen = F.interpolate(F.avg_pool2d(other * free, size // 8), (size, size), mode="bilinear")
    share = F.interpolate(F.avg_pool2d(free, size // 8), (size, size), mode="bilinear")
    wall = other * free + (1 - free) * seen / share.clamp(min=0.05)
    clouds = 0
    for cells, strength in ((1, 0.7), (4, 0.4), (16, 0.25), (size, 0.05)):
        noise = torch.randn(count, 3, cells, cells, generator=draw, device=x.device)
        octave = F.interpolate(noise, (size, size), mode="bilinear", align_corners=False)
        clouds = clouds + octave * _uniform(x, draw, 0, strength)
    wall = _pick(wall, clouds, draw, 0.4).clamp(-1, 1)
    return _pick(x, x * masks + wall * (1 - masks), draw, chance)


def relight(x, draw, *, amount: float = 1.0, grey: float = 0.15):
    """Change exposure, gamma, contrast, white balance and saturation; light some from one side; make a share
    `grey` of them grey. `amount` scales all but the last."""
    light = ((x + 1) / 2).clamp(1e-3, 1)
    light = light ** torch.exp(_uniform(x, draw, -0.45, 0.45) * amount)
    warm, tint = (_uniform(x, draw, -0.15, 0.15) * amount for _ in range(2))
    light = light * torch.exp(torch.cat([warm, tint / 2, -warm], 1))
    across, angle = torch.linspace(-1, 1, x.shape[-1], device=x.device), _uniform(x, draw, 0, 2 * math.pi)
    ramp = torch.cos(angle) * across + torch.sin(angle) * across[:, None]
    light = light * torch.exp(_pick(torch.zeros_like(ramp), ramp * 0.45 * amount, draw, 0.5))
    mean = light.mean((1, 2, 3), keepdim=True)
    light = (light - mean) * torch.exp(_uniform(x, draw, -0.35, 0.25) * amount) + mean
    light = light * torch.exp(_uniform(x, draw, -0.3, 0.3) * amount)
    luminance = (light * light.new_tensor(_TO_YCC[0])[:, None, None]).sum(1, keepdim=True)
    light = luminance + (light - luminance) * (1 + _uniform(x, draw, -0.5, 0.4) * amount)
    light = _pick(light, luminance.expand_as(light), draw, grey)
    return (2 * light - 1).clamp(-1, 1)


@lru_cache(maxsize=4)
def _jpeg_parts(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The (8, 8) cosine transform, the (3, 8, 8) tables and the (3, 3) matrix to YCbCr."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    cosines = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    cosines[0] /= math.sqrt(2)
    luma, chroma = (torch.tensor([float(v) for v in t.split()]).reshape(8, 8) for t in (_LUMA, _CHROMA))
    parts = cosines, torch.stack([luma, chroma, chroma]), torch.tensor(_TO_YCC)
    return tuple(part.to(device) for part in parts)


def jpeg(x, quality):
    """What JPEG of this quality (B,) in [1, 100] leaves of the pictures; colour is kept at full size."""
    cosines, tables, matrix = _jpeg_parts(x.device)
    quality = quality.clamp(1, 100).reshape(-1, 1, 1, 1)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = (tables * scale).clamp(1, 255)[:, :, None, None]  # (B, 3, 1, 1, 8, 8)
    count, _, size, width = x.shape
    ycc = torch.einsum("kc,bchw->bkhw", matrix, 127.5 * x)
    blocks = ycc.reshape(count, 3, size // 8, 8, width // 8, 8).transpose(3, 4)
    kept = torch.round(cosines @ blocks @ cosines.T / table) * table
    ycc = (cosines.T @ kept @ cosines).transpose(3, 4).reshape(x.shape)
    return (torch.einsum("ck,bkhw->bchw", torch.linalg.inv(matrix), ycc) / 127.5).clamp(-1, 1)


def cut_out(x, draw, *, chance: float = 0.25, side: tuple[float, float] = (0.08, 0.35)):
    """Hide a rectangle of some pictures, sides in parts of the picture, behind a colour with grain."""
    size = x.shape[-1]
    at = torch.arange(size, device=x.device) / size
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    for axis in (at, at[:, None]):
        half = _uniform(x, draw, *side) / 2
        inside = inside & ((axis - _uniform(x, draw, 0, 1)).abs() < half)
    colour = torch.rand(len(x), 3, 1, 1, generator=draw, device=x.device) * 2 - 1
    grain = torch.randn(x.shape, generator=draw, device=x.device) * _uniform(x, draw, 0, 0.3)
    return _pick(x, torch.where(inside, (colour + grain).clamp(-1, 1), x), draw, chance)


def photograph(x, masks, points, draw, *, grey=0.15, cut=0.25, light=1.0, **framing):
    """All of the above -> pictures and points: framed anew, before another wall, in another light, through a
    worse camera. `light` scales `relight`, `framing` goes to `frame`."""
    x, masks, points = frame(x, masks, points, draw, **framing)
    x = relight(swap_background(x, masks, draw), draw, amount=light, grey=grey)
    x = degrade(cut_out(x, draw, chance=cut), draw)
    quality = _uniform(x, draw, 15, 95)
    return _pick(x, jpeg(x, quality), draw, 0.4), points


def draw_photographs(people: Portraits, rows: torch.Tensor, draw: torch.Generator, **how):
    """The portraits at `rows` as photographs: pictures (B, 3, S, S) and points. `how` goes to `photograph`.

    Without masks the walls stay what they are."""
    x = data.pixels(people.images[rows])
    masks = torch.ones_like(x[:, :1]) if people.masks is None else people.masks[rows].float() / 255
    return photograph(x, masks, people.landmarks[rows], draw, **how)


def vary(people: Portraits, rows: torch.Tensor, draw: torch.Generator, **how) -> torch.Tensor:
    """The portraits at `rows` as photographs (B, 3, S, S); without landmarks only moved, relit, damaged."""
    if "landmarks" in people.frame:
        return draw_photographs(people, rows, draw, **how)[0]
    return distort(data.pixels(people.images[rows]), draw)
