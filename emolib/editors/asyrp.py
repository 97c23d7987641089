"""Asyrp: edit along directions of h-space, without a word of prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib.backbone import Backbone
from emolib.editors.contract import PERSON, each, steps_taken
from emolib.editors.prompt_to_prompt import invert
from emolib.hspace import hooks
from emolib.hspace.asyrp import T_EDIT, Asymmetric
from emolib.hspace.directions import Directions
from emolib.runtime import InputError, one_of
from emolib.sampling import Trajectory, denoise


@dataclass(frozen=True)
class Asyrp:
    """Kwon et al. 2023: DDIM inversion, then the asymmetric process with the emotion's delta_h.

    Strength 0 returns the source bit for bit; otherwise delta_h is taken `strength` x `scale` times.

    directions      a bank of them: `emolib hspace fit`, `hspace.fit.fit` or `hspace.directions.load`; an
                    emotion is any of its names
    source_emotion  what the pictures show, whose direction is taken off; None: the bank's own source
    t_edit          the edit acts down to this timestep (`hspace.asyrp.interval` measures one) ...
    t_boost         ... and fresh noise comes in below this one (DDPM steps; "quality boosting"); 0: nowhere
    """

    backbone: Backbone
    directions: Directions
    strength: float = 1.0
    scale: float = 1.0
    num_inference_steps: int = 30
    source_emotion: str | None = None
    t_edit: int = T_EDIT
    t_boost: int = 0

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        self.backbone.timesteps(self.num_inference_steps)
        self.directions.check(self.backbone.unet)
        if self.source_emotion is not None:
            one_of(self.source_emotion, self.directions.emotions, "source emotion")
        if not math.isfinite(self.scale):
            raise InputError(f"scale must be a finite number, not {self.scale}")

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
    ) -> Tensor:
        """See `Editor`. Emotions are names of the bank; `description` plays no part."""
        n = len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)
        shift = self.directions.shift(each(emotion, n, "emotion"), away=self.source_emotion)
        if self.strength == 0:
            return images.expand(n, -1, -1, -1).clone()
        backbone, cond = self.backbone, self.backbone.embed(self.directions.prompt)
        levels = backbone.timesteps(self.num_inference_steps)
        start = invert(backbone, backbone.encode(images), cond, levels).latents[0].expand(n, -1, -1, -1)
        predictor = Asymmetric(backbone, cond, hooks.scaled(shift, self.strength * self.scale), self.t_edit)
        exact = [t for t in levels if t >= self.t_boost]
        z = denoise(predictor, Trajectory(exact, start=start))
        boosted = [exact[-1], *(t for t in levels if t < self.t_boost)]
        if len(boosted) > 1:
            shape = (len(boosted) - 1, len(images), *z.shape[1:])
            noise = torch.randn(shape, generator=generator, device=generator.device).to(z)
            noise = noise.expand(-1, n, -1, -1, -1)
            z = denoise(predictor, Trajectory(boosted, start=z, noise=noise, eta=1.0))
        return backbone.decode(z).to(images.device)
