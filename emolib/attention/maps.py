"""Cross-attention maps to look at, and to confine an edit with: which pixels look at which word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from emolib.attention.control import Layer
from emolib.sampling import Prediction


class AttentionMaps:
    """A controller that changes nothing and adds up the cross-attention of `rows` conditional rows.

    reductions   which layers count, by how much smaller than the latents their grid is
    Behind an `Injection` it sees the maps that were used, before it the network's own.
    """

    def __init__(self, rows: int, reductions: Sequence[int] = (2, 4)) -> None:
        self.rows, self.reductions = rows, tuple(reductions)
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._calls = 0

    def wants(self, layer: Layer) -> bool:
        return layer.cross and layer.reduction in self.reductions

    def edit(self, maps: Tensor, layer: Layer) -> Tensor:
        mean = maps.detach().float().mean(1).mT.unflatten(2, layer.size)  # (rows, tokens, h, w)
        self._sums[layer.size] = self._sums.get(layer.size, 0) + mean
        self._calls += 1
        return maps

    def followed(self, layer: Layer) -> None:
        return None

    def word(self, row: int, tokens: Sequence[int], size: tuple[int, int]) -> Tensor:
        """(h, w) = `size`, in [0, 1]: how much each pixel of `row` attends to `tokens`, the mean over heads,
        layers and steps so far. ValueError before the network ran with a layer that counts."""
        if not self._sums:
            raise ValueError(f"no maps yet, or no cross-attention layer of reduction {self.reductions}")
        total = torch.zeros(size)
        for value in self._sums.values():
            part = value[row, list(tokens)].sum(0)[None, None]
            total = total + F.interpolate(part, size, mode="bilinear", align_corners=False)[0, 0].cpu()
        return total / self._calls


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """A `denoise` callback: outside the mask of the words' attention, targets keep their source's latents.

    Hertz et al. 2022, "local editing" (section 3.2 and algorithm 1, line 8): maps are maximum-pooled over
    3 x 3, divided by their largest value and cut at `threshold`; the mask is the target's united with its
    source's. (Their code's threshold is 0.3.)

    tokens   for each row the positions of its words
    sources  as in `Injection`
    start    the step it begins with: the maps of the first steps are vague
    """

    maps: AttentionMaps
    tokens: Sequence[Sequence[int]]
    sources: Sequence[int]
    threshold: float = 0.3
    start: int = 0

    def mask(self, size: tuple[int, int]) -> Tensor:
        """(rows, 1, h, w) bool: where each row may differ from its source."""
        heat = torch.stack([self.maps.word(row, each, size) for row, each in enumerate(self.tokens)])
        heat = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)
        inside = heat > self.threshold * heat.amax((2, 3), keepdim=True)
        return inside | inside[list(self.sources)]

    def __call__(self, i: int, z: Tensor, prediction: Prediction) -> Tensor | None:
        if i < self.start:
            return None
        return blend(z, self.mask(tuple(z.shape[-2:])), self.sources)


def blend(z: Tensor, mask: Tensor, sources: Sequence[int]) -> Tensor:
    """Latents (B, C, h, w) that are their own where `mask` (B, 1, h, w) holds, their source's elsewhere."""
    return torch.where(mask.to(z.device), z, z[list(sources)])
