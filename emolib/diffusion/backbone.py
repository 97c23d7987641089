"""The diffusers file: find and load a Stable Diffusion, encode, decode, embed prompts, predict noise.

Nothing above this module calls a network of the pipeline directly, except the interventions (`attention`,
`hspace`, `splice`) that reach into `backbone.unet`. No gradient mode is set here: a caller that does not
train says `torch.no_grad()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from emolib.diffusion import hub, sampling
from emolib.diffusion.presets import PRESETS, Preset, tell_family
from emolib.diffusion.sampling import Prediction
from emolib.runtime import InputError, one_of, pick_device, pick_dtype, reading

MEMORY = ("auto", "fast", "balanced", "low")
ALWAYS = (0, float("inf"))


@dataclass(frozen=True, eq=False)
class Embedding:
    """Encoded prompts: `hidden` (B, L, D) for cross-attention; SDXL also has `pooled` (B, P)."""

    hidden: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def expand(self, n: int) -> Embedding:
        """For n pictures: one is a view, several are repeated in their order. RuntimeError if it cannot."""
        if len(self) > 1 and n % len(self) == 0:
            return Embedding.cat([self] * (n // len(self)))
        pooled = None if self.pooled is None else self.pooled.expand(n, -1)
        return Embedding(self.hidden.expand(n, -1, -1), pooled)

    def lerp(self, end: Embedding, s: float) -> Embedding:
        """Go the share `s` of the straight way to `end`, row by row; beyond it where s > 1."""
        pooled = None if self.pooled is None else self.pooled.lerp(end.pooled, s)
        return Embedding(self.hidden.lerp(end.hidden, s), pooled)

    @staticmethod
    def cat(parts: Sequence[Embedding]) -> Embedding:
        """The embeddings one after the other, as one batch."""
        pooled = None if parts[0].pooled is None else torch.cat([part.pooled for part in parts])
        return Embedding(torch.cat([part.hidden for part in parts]), pooled)


class Backbone:
    """A Stable Diffusion 1.x, 2.x or XL, as functions of tensors. Made by `load_backbone`.

    Pictures are float32 (B, 3, H, W) in [-1, 1], latents float32 (B, C, H / f, W / f). Networks run in
    `dtype`, everything else in float32 or better. Pictures and latents may be given from any device; latents
    and embeddings live on `device`, and pictures come back on the CPU.

    name, pipe, unet, vae  the model's name and diffusers objects
    device, dtype          where and in what precision the networks run
    alphas_cumprod         (T,) float64 on the CPU: the schedule it was trained on
    prediction_type        "epsilon", "v_prediction" or "sample"
    size, stride           its native picture side, and f, whose multiple both sides must be (pixels)
    """

    def __init__(self, pipe: DiffusionPipeline, name: str, device: torch.device | str = "cpu") -> None:
        self.pipe, self.name, self.device = pipe, name, torch.device(device)
        self.unet, self.vae = pipe.unet, pipe.vae
        self.dtype = self.unet.dtype
        self._schedule = DDIMScheduler.from_config(pipe.scheduler.config)
        self.alphas_cumprod = self._schedule.alphas_cumprod.double()
        self.prediction_type: str = self._schedule.config.prediction_type
        self.stride: int = pipe.vae_scale_factor
        self.size: int = self.unet.config.sample_size * self.stride
        self._scale: float = self.vae.config.scaling_factor
        self._shift: float = getattr(self.vae.config, "shift_factor", None) or 0.0
        # SDXL's extra conditioning: pooled text and the picture's size.
        self._needs_pooled = self.unet.config.addition_embed_type == "text_time"

    def __repr__(self) -> str:
        return self.name

    @property
    def preset(self) -> Preset:
        """The preset of its family, told from its configuration."""
        width = self.unet.config.cross_attention_dim
        return tell_family(self.prediction_type, width, two_text_encoders=self._needs_pooled)

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """The model's own grid of N + 1 levels, descending; see `sampling.timestep_grid`. InputError."""
        config = self._schedule.config
        try:
            return sampling.timestep_grid(
                num_inference_steps,
                num_train_timesteps=config.num_train_timesteps,
                spacing=config.timestep_spacing,
                steps_offset=config.steps_offset,
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the pictures' latents, each (B, C, H / f, W / f).

        Raises InputError for a side that is no multiple of `stride`.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"{self.name}: a {width} x {height} picture does not fit; resize both sides to a multiple"
                f" of {self.stride} (its native size is {self.size})"
            )
        normal = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist
        return (normal.mean.float() - self._shift) * self._scale, normal.std.float() * self._scale

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Pictures -> latents: the posterior's mean, or a draw from it with `generator`. InputError."""
        mean, std = self.posterior(images)
        if generator is None:
            return mean
        return mean + std * torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)

    def decode(self, z: Tensor) -> Tensor:
        """Latents -> pictures on the CPU, clipped to [-1, 1]. FloatingPointError if the decoder overflows."""
        z = (z / self._scale + self._shift).to(self.device, self.vae.dtype)
        images = self.vae.decode(z, return_dict=False)[0].float()
        if not torch.isfinite(images).all():
            raise FloatingPointError(f"{self.name}: the decoder overflowed in {self.vae.dtype}; use float32")
        return images.clamp(-1, 1).cpu()

    def embed(self, prompts: str | Sequence[str]) -> Embedding:
        """Encode prompts, as the model's own pipeline does (its text encoders, its learned tokens).

        Raises InputError for a "<token>" that it does not know: it would be read letter by letter.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        self.check_tokens(prompts)
        encoded = self.pipe.encode_prompt(
            prompts,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        pooled = encoded[2].to(self.dtype) if self._needs_pooled else None
        return Embedding(encoded[0].to(self.dtype), pooled)

    def check_tokens(self, prompts: Sequence[str]) -> None:
        """InputError if prompts hold a "<token>" that the model does not know, and would read by letters."""
        for name in re.findall(r"<[^\s<>|]+>", " ".join(prompts).lower()):
            if name not in self.pipe.tokenizer.added_tokens_encoder:
                raise InputError(f"{name} is no token of {self.name}; load it first (learned_token, --token)")

    def null(self) -> Embedding:
        """The unconditional embedding (of one picture): the empty prompt, or zeros where SDXL trained so."""
        empty = self.embed("")
        if not self.pipe.config.get("force_zeros_for_empty_prompt"):
            return empty
        return Embedding(*(torch.zeros_like(part) for part in (empty.hidden, empty.pooled)))

    def predict(
        self,
        z: Tensor,
        t: int | Tensor,
        cond: Embedding,
        uncond: Embedding | None = None,
        guidance_scale: float | Tensor = 1.0,
        *,
        level: int | Tensor | None = None,
    ) -> Prediction:
        """One guided network evaluation: the prediction for latents `z` (B, C, h, w) at `level` (default t).

        `t` is the timestep that the network is told, an int or (B,). Classifier-free guidance is one call on
        the doubled batch; scale 1 is one call with `cond` alone, 0 one with `uncond` alone; a scale of (B,)
        gives each picture its own. Raises ValueError for guidance without `uncond`.
        """
        z, n, scale = z.to(self.device), len(z), guidance_scale
        if uncond is None and (isinstance(scale, Tensor) or scale != 1):
            raise ValueError(f"guidance_scale {scale} needs uncond")
        if not isinstance(scale, Tensor) and scale in (0, 1):
            output = self._network(z, t, (cond if scale else uncond).expand(n))
        else:
            text = Embedding.cat([uncond.expand(n), cond.expand(n)])
            plain, conditioned = self._network(torch.cat([z, z]), t, text).chunk(2)
            scale = scale.to(z).view(-1, 1, 1, 1) if isinstance(scale, Tensor) else scale
            output = sampling.guide(plain, conditioned, scale)
        level = t if level is None else level
        abar = self.alphas_cumprod[level.cpu() if isinstance(level, Tensor) else level]
        abar = abar.to(z).view(-1, 1, 1, 1) if abar.ndim else abar.item()
        return sampling.to_prediction(output, z, abar, self.prediction_type)

    def _network(self, z: Tensor, t: int | Tensor, text: Embedding) -> Tensor:
        t = torch.as_tensor(t, device=self.device)
        t = t.expand(len(z)) if t.ndim == 0 else t.repeat(len(z) // len(t))
        added = None
        if self._needs_pooled:
            # SDXL is told the original size, the crop's corner, the target size: ours is a whole picture.
            height, width = (side * self.stride for side in z.shape[-2:])
            size = torch.tensor([height, width, 0, 0, height, width], dtype=text.pooled.dtype)
            added = {"text_embeds": text.pooled, "time_ids": size.to(self.device).expand(len(z), -1)}
        output = self.unet(z.to(self.dtype), t, text.hidden, added_cond_kwargs=added, return_dict=False)[0]
        return output.to(z.dtype)

    def guided(
        self,
        cond: Embedding,
        guidance_scale: float,
        uncond: Embedding | None = None,
        *,
        interval: tuple[float, float] = ALWAYS,
    ) -> Guided:
        """The predictor of `sampling.denoise` for these prompts; `uncond` defaults to `null()`.

        `interval` [low, high]: the timesteps with guidance; elsewhere the network is asked once, not twice
        (Kynkäänniemi et al. 2024: guidance harms at high noise and idles at low).
        """
        if uncond is None and guidance_scale != 1:
            uncond = self.null()
        return Guided(self, cond, uncond, guidance_scale, interval)


@dataclass(frozen=True, eq=False)
class Guided:
    """`sampling.Predictor` of a backbone with fixed prompts; a step's own `uncond` overrules this one.

    `within()` is the context in which the network is asked, e.g. without the changes of a LoRA."""

    backbone: Backbone
    cond: Embedding
    uncond: Embedding | None
    guidance_scale: float
    interval: tuple[float, float] = ALWAYS
    within: Callable[[], AbstractContextManager] = nullcontext

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.backbone.alphas_cumprod

    def __call__(
        self, z: Tensor, t: int | Tensor, *, level: int | Tensor | None = None, uncond: Any = None
    ) -> Prediction:
        uncond = self.uncond if uncond is None else uncond
        low, high = self.interval
        inside = torch.as_tensor((low <= t) & (t <= high))
        scale = torch.where(inside, self.guidance_scale, 1.0) if inside.any() else 1.0
        scale = self.guidance_scale if inside.all() else scale
        with self.within():
            return self.backbone.predict(z, t, self.cond, uncond, scale, level=level)


def load_backbone(
    name: str | Path, *, device: str = "auto", dtype: str = "auto", memory: str = "auto"
) -> Backbone:
    """Load a model of `presets.PRESETS`, a diffusers folder, or a Hub id "owner/name"; weights frozen.

    device  "auto", "cpu", "cuda", "cuda:1", "mps"
    dtype   "auto" (float16 on CUDA, float32 elsewhere), "float32", "float16", "bfloat16"
    memory  "fast": everything stays on the device; "balanced": the VAE works picture by picture and large
            ones in tiles; "low": besides, attention in slices and idle networks wait in CPU memory (SDXL on
            16 GB); "auto": balanced on CUDA, else fast

    Only safetensors are read. Raises InputError: an unknown name (with the nearest), a folder or repository
    that is not there, no network and not cached, another kind of model, broken files.
    """
    one_of(memory, MEMORY, "memory option")
    where = pick_device(device)
    weights = pick_dtype(where, dtype)
    source = hub.find(str(name), half=weights != torch.float32)
    with hub.quiet():
        with reading(source.path, "Stable Diffusion"):
            pipe = DiffusionPipeline.from_pretrained(
                source.path,
                dtype=weights,
                variant=source.variant,
                use_safetensors=True,
                **dict.fromkeys(source.without),
            )
        _check_kind(pipe, source.path)
        _prepare(pipe, where, memory)
        # A folder goes by its own name: where it lies on this machine does not belong into logs and tables.
        known = str(name) in PRESETS or not Path(name).expanduser().exists()
        return Backbone(pipe, str(name) if known else Path(name).resolve().name, where)


def _check_kind(pipe: DiffusionPipeline, where: str) -> None:
    takes, makes = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != makes:
        raise InputError(
            f"{where}: its network takes {takes} channels, not the {makes} of a plain text-to-image model"
            " (an inpainting or editing checkpoint?); give the base model"
        )


def _prepare(pipe: DiffusionPipeline, device: torch.device, memory: str) -> None:
    """Freeze, place on the device, and set what `memory` says."""
    memory = {"auto": "balanced" if device.type == "cuda" else "fast"}.get(memory, memory)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    if getattr(pipe.vae.config, "force_upcast", False) and pipe.vae.dtype == torch.float16:
        pipe.vae.to(torch.float32)  # SDXL's decoder overflows in float16
    if memory in ("balanced", "low"):
        pipe.vae.enable_slicing()
        pipe.vae.enable_tiling()
    if memory == "low":
        pipe.enable_attention_slicing()
    if memory == "low" and device.type == "cuda":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
