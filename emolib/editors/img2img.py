"""Image to image (SDEdit): noise the picture, denoise it towards the emotion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib.backbone import Backbone
from emolib.editors.contract import PERSON, TEMPLATE, each, prompt, steps_taken
from emolib.runtime import InputError
from emolib.sampling import Trajectory, add_noise, denoise


@dataclass(frozen=True)
class Img2Img:
    """SDEdit (Meng et al. 2021, algorithm 1) in latents: noise to `strength`, denoise towards the emotion.

    Strength 0 returns the source bit for bit; 1 starts from the noisiest level and keeps next to nothing.
    `template` may use {article}, {word} and {description}.
    """

    backbone: Backbone
    strength: float = 0.6
    guidance_scale: float = 5.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        if not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, not {self.guidance_scale}")
        self.backbone.timesteps(self.num_inference_steps)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
    ) -> Tensor:
        """See `Editor`. The noise is drawn once for each source picture."""
        n = len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)
        pairs = zip(each(emotion, n, "emotion"), each(description, n, "description"), strict=True)
        texts = [prompt(label, who, self.template) for label, who in pairs]
        steps = steps_taken(self.num_inference_steps, self.strength)
        if steps == 0:
            return images.expand(n, -1, -1, -1).clone()
        backbone = self.backbone
        levels = backbone.timesteps(self.num_inference_steps)[-steps - 1 :]
        z = backbone.encode(images)
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z)
        start = add_noise(z, noise, backbone.alphas_cumprod[levels[0]].item())
        predictor = backbone.guided(backbone.embed(texts), self.guidance_scale)
        z = denoise(predictor, Trajectory(levels, start=start.expand(n, -1, -1, -1)))
        return backbone.decode(z).to(images.device)
