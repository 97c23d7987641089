"""The asymmetric reverse process (Asyrp, Kwon et al. 2023, arXiv 2210.10960) and when it edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.sampling import Prediction, Predictor, Trajectory
from emolib.interventions.hspace import MIDDLE, Shift, paired

T_EDIT = 300
"""Where edits end unless it was measured: of 1000 timesteps, the noisiest 700 are edited."""

STEPS = 30
"""The number of steps for which scales are stated."""

Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, eq=False)
class Asymmetric:
    """A `sampling.Predictor`: x0 from the shifted network, the direction from the plain one (section 3.2).

    Moving eps in both changes little, because the two nearly cancel in the step (their theorem 1). From
    timestep `t_edit` upwards it edits ([T, t_edit] is the editing interval), below it is the plain predictor.
    Both networks share their encoder half (`hspace.paired`): on MiniSD an editing step costs 1.6 plain ones.
    """

    backbone: Backbone
    cond: Embedding
    shift: Shift
    t_edit: int = T_EDIT
    guidance_scale: float = 1.0
    uncond: Embedding | None = None
    place: str = MIDDLE

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.backbone.alphas_cumprod

    def __call__(
        self, z: Tensor, t: int | Tensor, *, level: int | Tensor | None = None, uncond: Any = None
    ) -> Prediction:
        if (torch.as_tensor(t) < self.t_edit).all():
            return self.plain(z, t, level=level, uncond=uncond)
        plain, moved = self.both(z, t, level=level, uncond=uncond)
        return Prediction(moved.x0, plain.eps)

    def plain(
        self, z: Tensor, t: int | Tensor, *, level: int | Tensor | None = None, uncond: Any = None
    ) -> Prediction:
        """Predict without the shift."""
        uncond = self.uncond if uncond is None else uncond
        return self.backbone.predict(z, t, self.cond, uncond, self.guidance_scale, level=level)

    def both(
        self, z: Tensor, t: int | Tensor, *, level: int | Tensor | None = None, uncond: Any = None
    ) -> tuple[Prediction, Prediction]:
        """Predict latents `z` (B, C, h, w) plain and shifted; equal below `t_edit`."""
        n, uncond = len(z), self.uncond if uncond is None else uncond
        # The batch twice, (2 B, c, h, w): `paired` evaluates the first half plain, the second shifted.
        text = [None if part is None else Embedding.cat([part.expand(n)] * 2) for part in (self.cond, uncond)]
        t, level = (torch.cat([x, x]) if isinstance(x, Tensor) and x.ndim else x for x in (t, level))
        with paired(self.backbone.unet, self._inside, n, place=self.place):
            x0, eps = self.backbone.predict(torch.cat([z, z]), t, *text, self.guidance_scale, level=level)
        return Prediction(x0[:n], eps[:n]), Prediction(x0[n:], eps[n:])

    def _inside(self, h: Tensor, t: Tensor) -> Tensor:
        return self.shift(h, t) * (t >= self.t_edit).to(h).view(-1, 1, 1, 1)


def per_step(num_inference_steps: int) -> float:
    """Say how much more than one of `STEPS` each of so many steps has to shift, for the same edit."""
    return STEPS / num_inference_steps


class Interval(NamedTuple):
    """The edit acts from the noisiest timestep down to `t_edit`; fresh noise comes in below `t_boost`."""

    t_edit: int
    t_boost: int


class Curves(NamedTuple):
    """Along a walk: its `timesteps`, how far the predicted x0 is from the source, how far the latents are."""

    timesteps: list[int]
    predicted: list[float]
    latents: list[float]


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Measure the RMS of a - b in units of the standard deviation of b, the source; 0 for equal tensors."""
    return float((a - b).square().mean().sqrt() / b.std())


@torch.no_grad()
def measure_distances(
    predictor: Predictor,
    trajectory: Trajectory,
    *,
    distance: Distance = relative_distance,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> Curves:
    """Measure distances to the source (the last recorded latents) along a walk: one evaluation a level.

    distance  of two batches. The paper takes LPIPS of pictures, which needs a network that emolib does not
              ship; the default is a plain RMS distance, of latents unless `decode` turns them into pictures.
              It knows nothing of perception, and LPIPS thresholds do not carry over to it.
    TypeError if the trajectory has no latents."""
    show = decode or (lambda z: z)
    levels = [int(t) for t in trajectory.timesteps]
    source = show(trajectory.latents[-1])
    curves = Curves(levels[:-1], [], [])
    for level, z in zip(levels[:-1], trajectory.latents, strict=False):
        curves.predicted.append(distance(show(predictor(z, level).x0), source))
        curves.latents.append(distance(show(z), source))
    return curves


def find_interval(curves: Curves, *, edit: float, boost: float | None = None) -> Interval:
    """Choose on measured `curves` as the paper does (section 4): two thresholds make two timesteps.

    edit   t_edit is the lowest timestep down to which the predicted x0 is at least so far from the source;
           the paper: LPIPS 0.33, less the further apart the words of source and target are
    boost  t_boost is the highest timestep below which latents are nearer to the source than this; the paper:
           LPIPS 1.2. None: no fresh noise (t_boost 0), since it changes what the picture shows as well"""
    t_edit, t_boost = curves.timesteps[0], 0
    for t, predicted in zip(curves.timesteps, curves.predicted, strict=True):
        if predicted < edit:
            break
        t_edit = t
    if boost is not None:
        near = [t for t, latents in zip(curves.timesteps, curves.latents, strict=True) if latents < boost]
        t_boost = max(near, default=0)
    return Interval(t_edit, t_boost)
