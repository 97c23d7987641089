"""Asyrp: edit along directions of h-space, without a word of prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib.diffusion import inversion
from emolib.diffusion.backbone import Backbone
from emolib.diffusion.sampling import Trajectory, denoise
from emolib.editors.base import PERSON, each, number_of_edits, steps_taken
from emolib.interventions import hspace
from emolib.interventions.asyrp import STEPS, Asymmetric
from emolib.interventions.directions import Directions, shipped
from emolib.runtime import InputError


@dataclass(frozen=True)
class Asyrp:
    """Kwon et al. 2023: DDIM inversion up to the bank's `t_start`, then the asymmetric process with delta_h.

    Strength 0 returns the source bit for bit; otherwise delta_h is taken `strength` x `scale` times (None: as
    often as the bank says) in each of 30 steps, in others `Directions.times` as much: what the steps move
    adds up, so that fewer of them have to move more (the paper scales so, too).

    directions  a bank of them (`emolib hspace fit`, `hspace.fit.fit`, `hspace.directions.load`), whose names
                are the emotions; None: those that came with MiniSD. A `source_emotion`'s is taken off,
                but not of supervised ones, which see what a picture shows
    t_edit      the edit acts down to this timestep (`hspace.asyrp.interval` measures one); None: the bank's
    t_boost     fresh noise comes in below this one (DDPM steps, "quality boosting"); 0: nowhere
    """

    backbone: Backbone
    directions: Directions | None = None
    strength: float = 1.0
    scale: float | None = None
    num_inference_steps: int = STEPS
    t_edit: int | None = None
    t_boost: int = 0

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        self.backbone.timesteps(self.num_inference_steps)
        if self.directions is None:
            object.__setattr__(self, "directions", shipped())  # frozen for everybody else
        self.directions.check(self.backbone.unet)
        if len(self._levels()) < 2:
            raise InputError(
                f"of {self.num_inference_steps} steps none begins at timestep {self.directions.t_start} or"
                " below, where these directions act; take more steps"
            )
        for name in ("scale", "t_edit"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.directions, name))
        if self.t_boost > self._levels()[0]:
            raise InputError(
                f"t_boost {self.t_boost} lies above timestep {self._levels()[0]}, where these edits begin"
            )
        if not math.isfinite(self.scale):
            raise InputError(f"scale must be a finite number, not {self.scale}")

    def _levels(self) -> list[int]:
        grid = dict.fromkeys(self.backbone.timesteps(self.num_inference_steps))
        return [t for t in grid if t <= self.directions.t_start]

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """See `Editor`. Emotions are names of the bank; `description` plays no part."""
        b, n = len(images), number_of_edits(images, emotion)
        felt, before = each(emotion, n, "emotion"), each(source_emotion, b, "source emotion")
        shift = self.directions.to(self.backbone.device).shift(felt, away=[before[i % b] for i in range(n)])
        if self.strength == 0:
            return images.expand(n, -1, -1, -1).clone()
        model, cond = self.backbone, self.backbone.embed(self.directions.prompt)
        levels = self._levels()
        walk = inversion.ddim(model.guided(cond, 1.0), model.encode(images), levels).expand(n)
        scaled = hspace.scaled(
            shift, self.strength * self.scale * self.directions.times(self.num_inference_steps)
        )
        predictor = Asymmetric(model, cond, scaled, self.t_edit, place=self.directions.place)
        calm = [t for t in levels if t >= self.t_boost]
        z = denoise(predictor, Trajectory(calm, start=walk.start))
        boosted = [calm[-1], *(t for t in levels if t < self.t_boost)]
        if len(boosted) > 1:
            shape = (len(boosted) - 1, b, *z.shape[1:])
            noise = torch.randn(shape, generator=generator, device=generator.device).to(z)
            noise = noise.expand(-1, n, -1, -1, -1)
            z = denoise(predictor, Trajectory(boosted, start=z, noise=noise, eta=1.0))
        return model.decode(z).to(images.device)
