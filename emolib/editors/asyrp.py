"""Asyrp: edit along directions of h-space, without a word of prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from emolib.diffusion import inversion
from emolib.diffusion.backbone import Backbone
from emolib.diffusion.presets import MINISD_SETTINGS as PRESET
from emolib.diffusion.sampling import Trajectory, denoise
from emolib.editors.base import Draws, LatentEditor, Request, draw, steps_taken
from emolib.interventions import hspace
from emolib.interventions.asyrp import STEPS, Asymmetric
from emolib.interventions.directions import Directions, load_shipped_directions
from emolib.runtime import InputError


@dataclass(frozen=True)
class Asyrp(LatentEditor):
    """Kwon et al. 2023: DDIM inversion up to the bank's `t_start`, then the asymmetric process with delta_h.

    Strength 0 returns the source bit for bit; otherwise delta_h is taken `strength` x `scale` times (None: as
    often as the bank says) in each of 30 steps, in others `Directions.times` as much: what the steps move
    adds up, so that fewer of them have to move more (the paper scales so, too).

    directions  a bank of them (`emolib hspace fit`, `fit_directions`, `load_directions`), whose names
                are the emotions; by default those that came with MiniSD. A `source_emotion`'s is taken off,
                but not of supervised ones, which see what a picture shows
    t_edit      the edit acts down to this timestep (`hspace.asyrp.interval` measures one); None: the bank's
    t_boost     fresh noise comes in below this one (DDPM steps, "quality boosting"); 0: nowhere
    """

    backbone: Backbone
    directions: Directions = field(default_factory=load_shipped_directions)
    strength: float = PRESET["asyrp"].strength
    scale: float | None = None
    num_inference_steps: int = STEPS
    t_edit: int | None = None
    t_boost: int = 0

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        self.directions.check(self.backbone.unet)
        if len(self._levels()) < 2:
            raise InputError(
                f"of {self.num_inference_steps} steps none begins at timestep {self.directions.t_start} or"
                " below, where these directions act; take more steps"
            )

    def _levels(self) -> list[int]:
        grid = dict.fromkeys(self.backbone.timesteps(self.num_inference_steps))
        return [t for t in grid if t <= self.directions.t_start]

    def edit_latents(self, z: Tensor, request: Request, generator: Draws) -> Tensor:
        # 1. The shift of each row: towards its emotion, away from what the picture shows; (n, C, h, w).
        model, bank, levels = self.backbone, self.directions, self._levels()
        b, n = len(z), len(request.emotions)
        away = [request.source_emotions[i % b] for i in range(n)]
        times = self.strength * (bank.scale if self.scale is None else self.scale)
        times = times * bank.times(self.num_inference_steps)
        scaled = hspace.scaled(bank.to(model.device).shift(request.emotions, away=away), times)
        # 2. Up to the noise without it, and back down with it.
        cond = model.embed(bank.prompt)
        walk = inversion.ddim(model.guided(cond, 1.0), z, levels).expand(n)
        t_edit = bank.t_edit if self.t_edit is None else self.t_edit
        predictor = Asymmetric(model, cond, scaled, t_edit, place=bank.place)
        calm = [t for t in levels if t >= self.t_boost]
        moved = denoise(predictor, Trajectory(calm, start=walk.start))  # (n, C, h, w)
        # 3. Below `t_boost` fresh noise comes in, one for each picture and step.
        boosted = [calm[-1], *(t for t in levels if t < self.t_boost)]
        if len(boosted) > 1:
            noise = torch.stack([draw(z, generator) for _ in boosted[1:]])  # (steps, B, C, h, w)
            noise = noise.expand(-1, n, -1, -1, -1)
            moved = denoise(predictor, Trajectory(boosted, start=moved, noise=noise, eta=1.0))
        return moved
