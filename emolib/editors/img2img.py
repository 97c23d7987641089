"""Image to image (SDEdit): noise the picture, denoise it towards the emotion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emolib import inversion
from emolib.backbone import Backbone
from emolib.editors import latent
from emolib.editors.contract import TEMPLATE
from emolib.sampling import denoise


@dataclass(frozen=True)
class Img2Img:
    """SDEdit (Meng et al. 2021, algorithm 1) in latents: noise to `strength`, denoise towards the emotion.

    Strength 1 starts from the noisiest level and keeps next to nothing. One noise is drawn for each source
    picture; what its person feels now is not used. Fields: see `latent.LatentEditor`.
    """

    backbone: Backbone
    strength: float = 0.6
    guidance_scale: float = 5.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    __post_init__ = latent.check
    __call__ = latent.edit

    def change(
        self, z: Tensor, levels: list[int], texts: latent.Prompts, generator: torch.Generator
    ) -> Tensor:
        """See `latent.LatentEditor`."""
        predictor = latent.towards(self, texts)
        walk = inversion.noised(predictor, z, levels, latent.draw(z, generator))
        return denoise(predictor, walk.expand(len(texts.targets)))
