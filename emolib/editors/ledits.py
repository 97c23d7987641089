"""LEDITS++ through diffusers' own pipeline: the peer that the editors here are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from emolib.diffusion.presets import MINISD_SETTINGS as PRESET
from emolib.editors.base import DiffusionEditor, Draws, Prompts
from emolib.interventions.lora import only_rows
from emolib.runtime import InputError, in_range

CHANNELS = 4  # of latents: the number that diffusers' pipeline is written for
MULTIPLE = 32  # px: it takes sides of a multiple of this


@dataclass(frozen=True)
class LEditsPP(DiffusionEditor):
    """LEDITS++ (Brack et al. 2023): noise that leads back, a second-order solver, guidance by the edit alone.

    Stable Diffusion 1 and 2, and MiniSD, whose eight latent channels the pipeline sees as four of twice the
    height. The inversion is not exact: the solver's last step, from the lowest of its timesteps to the
    clean picture, adds no noise that could make up for it. Pictures are edited one by one, emotions of one
    picture share its inversion, and what is felt now is not used. Fields: see `DiffusionEditor`, and

    edit_threshold      share of the latents, in [0, 1), that the guidance of a step leaves alone
    use_intersect_mask  besides, the edit keeps to the words' attention, as in the paper; that needs four
                        latent channels and cross-attention at a quarter of the latents' side
    """

    strength: float = PRESET["ledits++"].strength
    guidance_scale: float = PRESET["ledits++"].guidance_scale
    edit_threshold: float = 0.75
    use_intersect_mask: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self.along, 1, 1, "along of LEDITS++, which reads prompts and no embeddings,")
        config = self.backbone.unet.config
        channels = config.in_channels
        attends = any("CrossAttn" in block for block in config.down_block_types[2:3])
        lacks = None
        if config.addition_embed_type is not None or channels % CHANNELS:
            lacks = f"it is here for Stable Diffusion 1 and 2, whose latents have {CHANNELS} channels, not XL"
        elif self.use_intersect_mask and not (channels == CHANNELS and attends):
            lacks = f"its mask needs {CHANNELS} latent channels and attention at a quarter of their side;"
            lacks += " set use_intersect_mask to false (--preset)"
        if lacks:
            raise InputError(f"{self.backbone} cannot do LEDITS++: {lacks}")

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        # Draws one noise a step for each picture.
        sides = [side * self.backbone.stride for side in z.shape[-2:]]
        if any(side % MULTIPLE for side in sides):
            raise InputError(
                f"LEDITS++ takes sides of a multiple of {MULTIPLE} px, not {sides[1]} x {sides[0]}"
            )
        steps, many = len(levels) - 1, len(texts.targets) // len(z)
        # The pipeline counts the steps below `skip`, and rounds their grid's length down.
        skip = (self.num_inference_steps + 0.5) / steps - 1
        edited, draws = [], [generator] * len(z) if isinstance(generator, torch.Generator) else generator
        with self._pipeline(z) as pipe:
            for i in range(len(z)):
                pipe.vae.latents = fold(z[i, None])
                own = {"num_inversion_steps": steps, "skip": skip, "generator": draws[i]}
                with only_rows(self.backbone.unet, 0.0):
                    pipe.invert(torch.zeros(1, 3, *sides), **own)
                mine = texts.targets[i * many : (i + 1) * many] if len(z) == 1 else [texts.targets[i]]
                edited += [self._edit(pipe, text) for text in mine]
        return torch.cat(edited).to(z)

    def _edit(self, pipe: LEditsPPPipelineStableDiffusion, text: str) -> Tensor:
        z = pipe(
            editing_prompt=[text],
            edit_guidance_scale=self.guidance_scale,
            edit_threshold=self.edit_threshold,
            use_intersect_mask=self.use_intersect_mask,
            output_type="latent",
        ).images
        return unfold(z, self.backbone.unet.config.in_channels)

    @contextmanager
    def _pipeline(self, z: Tensor) -> Iterator[LEditsPPPipelineStableDiffusion]:
        """The pipeline on latents; it exchanges the network's attention processors, which are put back."""
        ours, unet = self.backbone.pipe, self.backbone.unet
        before = dict(unet.attn_processors)
        solver = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "timestep_spacing": "leading"}
        solver["steps_offset"] = ours.scheduler.config.get("steps_offset", 1)
        pipe = LEditsPPPipelineStableDiffusion(
            vae=_Latents(self.backbone.stride, z),
            text_encoder=ours.text_encoder,
            tokenizer=ours.tokenizer,
            unet=unet if z.shape[1] == CHANNELS else _Folded(unet),
            scheduler=DPMSolverMultistepScheduler.from_config(ours.scheduler.config, **solver),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        try:
            yield pipe
        finally:
            unet.set_attn_processor(before)


class _Latents(torch.nn.Module):
    """In the autoencoder's place: pictures are encoded before the pipeline, and decoded after it."""

    def __init__(self, stride: int, like: Tensor) -> None:
        super().__init__()
        self.latents, self.device, self.dtype = like, like.device, like.dtype
        levels = (1,) * stride.bit_length()  # the pipeline reads the stride off their number
        self.config = FrozenDict(block_out_channels=levels, scaling_factor=1.0, sample_size=1 << 20)

    def encode(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: self.latents))

    def decode(self, z: Tensor, **options: Any) -> tuple[Tensor]:
        return (torch.zeros(len(z), 3, 8, 8),)  # the pipeline's reconstruction, which nobody looks at


class _Folded(torch.nn.Module):
    """A UNet whose latents (B, 4 k, h, w) look like (B, 4, k h, w)."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet, self.config = unet, unet.config
        self.device, self.dtype = unet.device, unet.dtype
        self.set_attn_processor = unet.set_attn_processor

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        z = unfold(sample, self.config.in_channels)
        output = self.unet(z, timestep, encoder_hidden_states).sample
        return SimpleNamespace(sample=fold(output))


def fold(z: Tensor) -> Tensor:
    """(B, 4 k, h, w) -> (B, 4, k h, w): groups of four channels, one below the other."""
    return torch.cat(z.split(CHANNELS, 1), 2)


def unfold(z: Tensor, channels: int) -> Tensor:
    """The way back, to `channels`."""
    return torch.cat(z.chunk(channels // CHANNELS, 2), 1)
