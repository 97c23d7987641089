"""Edit by noise and by inversion: img2img and the six inversions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib import runtime
from emolib.diffusion import inversion
from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.sampling import Trajectory, denoise
from emolib.editors import base
from emolib.editors.base import TEMPLATE
from emolib.runtime import InputError


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

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`."""
        predictor = base.towards(self, texts)
        walk = inversion.noised(predictor, z, levels, base.draw(z, generator))
        return denoise(predictor, walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class DDIMInversion:
    """DDIM inversion (Song et al. 2020), then the guided walk back, which loses the picture."""

    backbone: Backbone
    strength: float = 0.8
    guidance_scale: float = 3.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws nothing."""
        walk = inversion.ddim(base.unguided(self, texts), z, levels)
        return denoise(base.towards(self, texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class NegativePromptInversion:
    """DDIM inversion, walked back with the source prompt as the negative one (Miyake et al. 2023).

    Guidance then pushes from what the picture shows towards the emotion, and an edit that asks for what is
    there is walked without guidance. No cost over DDIM inversion.
    """

    backbone: Backbone
    strength: float = 0.8
    guidance_scale: float = 3.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws nothing."""
        source = base.unguided(self, texts)
        walk = inversion.negative_prompt(source, z, levels, source.cond)
        return denoise(base.towards(self, texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class NullTextInversion:
    """Null-text inversion (Mokady et al. 2022): learn the uncond of every step that leads back, then edit.

    The other methods need no gradients. This one takes up to `inner_steps` + 3 evaluations a step and the
    memory of a training step: InputError if the device does not have it, a warning where it is over 1 GB.

    early_stop  mean squared error of the latents at which a step counts as learned
    """

    backbone: Backbone
    strength: float = 0.8
    guidance_scale: float = 3.0
    num_inference_steps: int = 30
    template: str = TEMPLATE
    inner_steps: int = 10
    early_stop: float = 1e-5

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws nothing."""
        empty, source = self.backbone.null(), base.unguided(self, texts)
        self._check_memory(z, levels, empty)
        walk = inversion.null_text(
            source,
            self.backbone.guided(source.cond, 0.0, empty),
            z,
            levels,
            empty,
            self.guidance_scale,
            inner_steps=self.inner_steps,
            early_stop=self.early_stop,
        )
        return denoise(base.towards(self, texts), walk.expand(len(texts.targets)))

    def _check_memory(self, z: Tensor, levels: list[int], empty: Embedding) -> None:
        learned = Embedding(empty.hidden.detach().clone().requires_grad_(), empty.pooled)
        evaluate = self.backbone.guided(learned, 1.0)
        needed = len(z) * inversion.gradient_memory(lambda: evaluate(z[:1], levels[0])) / 1e9
        free = runtime.free_memory(self.backbone.device) / 1e9
        what = f"null-text inversion keeps {needed:.1f} GB for the gradients of {len(z)} pictures"
        if needed > free:
            raise InputError(f"{what}, but {free:.1f} GB are free; give fewer at once or use another method")
        if needed > 1:
            evaluations = (len(levels) - 1) * (self.inner_steps + 3)
            warnings.warn(f"{what} and takes up to {evaluations} evaluations", stacklevel=2)


@dataclass(frozen=True)
class EditFriendlyInversion:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023): keep the noise that makes the picture.

    Exact: an edit that asks for what the source prompt says returns the picture as the VAE has it.

    source_guidance_scale  of the inversion; None is the edit's own (the paper: 3.5, and 15 for the edit)
    batch_size             how many latents the inversion gives to the network in one call
    """

    backbone: Backbone
    strength: float = 0.55
    guidance_scale: float = 1.75
    num_inference_steps: int = 30
    template: str = TEMPLATE
    source_guidance_scale: float | None = None
    batch_size: int = 16

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws one noise a step, from the clean end: strength changes no draw."""
        model, own = self.backbone, self.source_guidance_scale
        source = model.guided(model.embed(texts.sources), self.guidance_scale if own is None else own)
        noise = torch.stack([base.draw(z, generator) for _ in levels[1:]][::-1])
        walk = inversion.edit_friendly(source, z, levels, noise, batch_size=self.batch_size)
        return denoise(base.towards(self, texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class DirectInversion:
    """Direct (PnP) inversion (Ju et al. 2023): the source walks along in the batch, held on its inversion.

    follow  share of the source's correction that the edits take as well. The paper's 0 serves methods that
            let the edits look at the source; without one it is DDIM inversion. With 1 an edit that asks for
            what is there is exact.
    """

    backbone: Backbone
    strength: float = 0.8
    guidance_scale: float = 1.75
    num_inference_steps: int = 30
    template: str = TEMPLATE
    follow: float = 1.0

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws nothing."""
        source = base.unguided(self, texts)
        walk = inversion.ddim(source, z, levels)
        start = torch.cat([walk.latents[0], walk.expand(len(texts.targets)).start])
        both = Embedding.cat([source.cond, self.backbone.embed(texts.targets)])
        both = self.backbone.guided(both, self.guidance_scale)
        pin = inversion.direct(walk, follow=self.follow)
        return denoise(both, Trajectory(levels, start=start), callback=pin)[len(z) :]


@dataclass(frozen=True)
class ExactInversion:
    """Exact inversion by O-BELM (Wang et al. 2024): a two-step rule in place of DDIM's, its own inverse.

    Guided away from the source prompt (see `NegativePromptInversion`), so that an edit that asks for what is
    there is exact at any guidance. One evaluation a step.
    """

    backbone: Backbone
    strength: float = 0.8
    guidance_scale: float = 3.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    __post_init__ = base.check_fields
    __call__ = base.edit

    def change(self, z: Tensor, levels: list[int], texts: base.Prompts, generator: torch.Generator) -> Tensor:
        """See `latent.LatentEditor`. Draws nothing."""
        source = base.unguided(self, texts)
        walk = inversion.exact(source, z, levels)
        target = base.towards(self, texts, source.cond)
        back = inversion.two_step(source, walk)
        return denoise(target, walk.expand(len(texts.targets)), callback=back)
