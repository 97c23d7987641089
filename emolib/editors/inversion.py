"""Edit by noise and by inversion: img2img and the six inversions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib import runtime
from emolib.diffusion import inversion
from emolib.diffusion.backbone import Embedding
from emolib.diffusion.presets import MINISD_SETTINGS as PRESET
from emolib.diffusion.sampling import Trajectory, denoise
from emolib.editors.base import DiffusionEditor, Draws, Prompts, draw, without_lora
from emolib.runtime import InputError


@dataclass(frozen=True)
class Img2Img(DiffusionEditor):
    """SDEdit (Meng et al. 2021, algorithm 1) in latents: noise to `strength`, denoise towards the emotion.

    Strength 1 starts from the noisiest level and keeps next to nothing. One noise is drawn for each source
    picture; what its person feels now is not used. Fields: see `DiffusionEditor`.
    """

    strength: float = PRESET["img2img"].strength
    guidance_scale: float = PRESET["img2img"].guidance_scale

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        predictor = self.towards(texts)
        walk = inversion.noised(predictor, z, levels, draw(z, generator))
        return denoise(predictor, walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class DDIMInversion(DiffusionEditor):
    """DDIM inversion (Song et al. 2020), then the guided walk back, which loses the picture."""

    strength: float = PRESET["ddim"].strength
    guidance_scale: float = PRESET["ddim"].guidance_scale

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        walk = inversion.ddim(self.unguided(texts), z, levels)
        return denoise(self.towards(texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class NegativePromptInversion(DiffusionEditor):
    """DDIM inversion, walked back with the source prompt as the negative one (Miyake et al. 2023).

    Guidance then pushes from what the picture shows towards the emotion, and an edit that asks for what is
    there is walked without guidance. No cost over DDIM inversion.
    """

    strength: float = PRESET["negative-prompt"].strength
    guidance_scale: float = PRESET["negative-prompt"].guidance_scale

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        source = self.unguided(texts)
        walk = inversion.negative_prompt(source, z, levels, source.cond)
        return denoise(self.towards(texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class NullTextInversion(DiffusionEditor):
    """Null-text inversion (Mokady et al. 2022): learn the uncond of every step that leads back, then edit.

    The other methods need no gradients. This one takes up to `inner_steps` + 3 evaluations a step and the
    memory of a training step: InputError if the device does not have it, a warning where it is over 1 GB.

    early_stop  mean squared error of the latents at which a step counts as learned
    """

    strength: float = PRESET["null-text"].strength
    guidance_scale: float = PRESET["null-text"].guidance_scale
    inner_steps: int = 10
    early_stop: float = 1e-5

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        empty, source = self.backbone.null(), self.unguided(texts)
        self._check_memory(z, levels, empty)
        walk = inversion.null_text(
            source,
            without_lora(self.backbone.guided(source.cond, 0.0, empty)),
            z,
            levels,
            empty,
            self.guidance_scale,
            inner_steps=self.inner_steps,
            early_stop=self.early_stop,
        )
        return denoise(self.towards(texts), walk.expand(len(texts.targets)))

    def _check_memory(self, z: Tensor, levels: list[int], empty: Embedding) -> None:
        """InputError if the gradients of the pictures do not fit into the free memory."""
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
class EditFriendlyInversion(DiffusionEditor):
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023): keep the noise that makes the picture.

    Exact: an edit that asks for what the source prompt says returns the picture as the VAE has it.

    source_guidance_scale  of the inversion; None is the edit's own (the paper: 3.5, and 15 for the edit)
    batch_size             how many latents the inversion gives to the network in one call
    """

    strength: float = PRESET["edit-friendly"].strength
    guidance_scale: float = PRESET["edit-friendly"].guidance_scale
    source_guidance_scale: float | None = None
    batch_size: int = 16

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        # One noise a step, drawn from the clean end: strength changes no draw.
        model, own = self.backbone, self.source_guidance_scale
        scale = self.guidance_scale if own is None else own
        source = without_lora(model.guided(model.embed(texts.sources), scale))
        noise = torch.stack([draw(z, generator) for _ in levels[1:]][::-1])
        walk = inversion.edit_friendly(source, z, levels, noise, batch_size=self.batch_size)
        return denoise(self.towards(texts), walk.expand(len(texts.targets)))


@dataclass(frozen=True)
class DirectInversion(DiffusionEditor):
    """Direct (PnP) inversion (Ju et al. 2023): the source walks along in the batch, held on its inversion.

    follow  share of the source's correction that the edits take as well. The paper's 0 serves methods that
            let the edits look at the source; without one it is DDIM inversion. With 1 an edit that asks for
            what is there is exact.
    """

    strength: float = PRESET["direct"].strength
    guidance_scale: float = PRESET["direct"].guidance_scale
    follow: float = 1.0

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        source = self.unguided(texts)
        walk = inversion.ddim(source, z, levels)
        start = torch.cat([walk.latents[0], walk.expand(len(texts.targets)).start])
        both = Embedding.cat([source.cond, self.embed_targets(texts)])
        edited = [0.0] * len(z) + [1.0] * len(texts.targets)
        both = without_lora(self.backbone.guided(both, self.guidance_scale), edited)
        pin = inversion.direct(walk, follow=self.follow)
        return denoise(both, Trajectory(levels, start=start), callback=pin)[len(z) :]


@dataclass(frozen=True)
class ExactInversion(DiffusionEditor):
    """Exact inversion by O-BELM (Wang et al. 2024): a two-step rule in place of DDIM's, its own inverse.

    Guided away from the source prompt (see `NegativePromptInversion`), so that an edit that asks for what is
    there is exact at any guidance. One evaluation a step.
    """

    strength: float = PRESET["exact"].strength
    guidance_scale: float = PRESET["exact"].guidance_scale

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        source = self.unguided(texts)
        walk = inversion.exact(source, z, levels)
        target = self.towards(texts, source.cond)
        back = inversion.two_step(source, walk)
        return denoise(target, walk.expand(len(texts.targets)), callback=back)
