"""Does the emotion word rule the picture? Guided samples with fixed seeds, read by the guide judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from torch import nn

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES
from emolib.runtime import atomic_write
from train import data
from train.judges import outputs


@dataclass
class Gauge:
    """Measures a pipeline on the nine emotions: `count` samples from text of each, `count` val people edited.

    The rates are parts of all samples that `judge` reads as the prompt's emotion; chance is 1/9. A sheet goes
    to `folder`: a row per sample, then per edit; a column per emotion; the edits' first column is the source.
    """

    pipe: StableDiffusionPipeline
    judge: nn.Module
    val: data.Portraits
    folder: Path
    count: int = 8
    steps: int = 20
    guidance: float = 5.0
    strength: float = 0.6
    bf16: bool = True
    prompts: list[str] = field(
        default_factory=lambda: [words.prompt(name, template=words.CAPTION) for name in EMOFACES]
    )

    @torch.no_grad()
    def __call__(self, unet: nn.Module, step: int, size: int) -> dict[str, float]:
        """Rates {"text_rate", "edit_rate", "text_anger", ...} of `unet` at `size` px."""
        self.pipe.unet = unet
        device = next(unet.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            made, edited, sources = self._samples(size), *self._edits(size)
        native = self.val.images.shape[-1]
        found, sheet = {}, [made.unflatten(0, (self.count, 9)), edited.unflatten(0, (len(sources), 9))]
        for name, pictures in (("text", made), ("edit", edited)):
            wide = F.interpolate(pictures, size=(native, native), mode="bilinear", align_corners=False)
            right = outputs(self.judge, wide)[:, :9].argmax(1).view(-1, 9) == torch.arange(9, device=device)
            found[f"{name}_rate"] = float(right.float().mean())
            found |= {f"{name}_{EMOFACES[k]}": float(right[:, k].float().mean()) for k in range(9)}
        sheet[1][:, 0] = sources
        self._sheet(torch.cat(sheet), step)
        return found

    def _run(self, pipe, prompts: list[str], seed: int, **inputs) -> torch.Tensor:
        draws = [torch.Generator().manual_seed(seed + i // 9) for i in range(len(prompts))]
        made = pipe(
            prompts, num_inference_steps=self.steps, guidance_scale=self.guidance, generator=draws,
            output_type="pt", **inputs,
        )  # fmt: skip
        return made.images.float() * 2 - 1

    def _samples(self, size: int) -> torch.Tensor:
        return torch.cat(
            [self._run(self.pipe, self.prompts, i, height=size, width=size) for i in range(self.count)]
        )

    def _edits(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        neutral = self.val.images[self.val.emotion == 0][: self.count]
        x = F.interpolate(
            data.pixels(neutral), size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        pipe = StableDiffusionImg2ImgPipeline(**self.pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        made = []
        for i, source in enumerate(x.clamp(-1, 1)):
            image = (source[None].repeat(9, 1, 1, 1) + 1) / 2
            made.append(self._run(pipe, self.prompts, i, image=image, strength=self.strength))
        return torch.cat(made), x

    def _sheet(self, pictures: torch.Tensor, step: int) -> None:
        rows, columns, _, height, width = pictures.shape
        pixels = ((pictures.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
        flat = pixels.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
        with atomic_write(self.folder / f"samples-{step:07d}.png") as temporary:
            Image.fromarray(np.asarray(flat)).save(temporary)
