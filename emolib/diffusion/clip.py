"""CLIP as two functions, one of them differentiable: what the trained shift's loss needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from emolib.diffusion import hub
from emolib.runtime import InputError, repo_path


class Clip:
    """A CLIP as two differentiable functions; made by `load_clip`.

    Embeddings are (B, D) of length one, float32 on the CPU, wherever the network runs.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.size: int = model.config.vision_config.image_size
        self.mean, self.std = (
            torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std)
        )

    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], resized to CLIP's square -> (B, D)."""
        images = images.to(self.model.device)
        x = images if images.shape[-2:] == (self.size, self.size) else self._resize(images)
        x = ((x + 1) / 2 - self.mean.to(x)) / self.std.to(x)
        return F.normalize(self.model.get_image_features(pixel_values=x).pooler_output, dim=-1).cpu()

    def _resize(self, images: Tensor) -> Tensor:
        return F.interpolate(
            images, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
        )

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, D)."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        found = self.model.get_text_features(**tokens.to(self.model.device)).pooler_output
        return F.normalize(found, dim=-1).cpu()


def load_clip(folder: str | Path | None = None, device: torch.device | str = "cpu") -> Clip:
    """A transformers CLIP in `folder` (default: the repository's MiniCLIP), frozen, float32. InputError."""
    where = repo_path("data", "miniclip") if folder is None else Path(folder)
    if not (where / "config.json").is_file():
        raise InputError(f"{where}: no CLIP there; get the repository's data/ folder, or name another folder")
    with hub.quiet():
        model = CLIPModel.from_pretrained(where, dtype=torch.float32, use_safetensors=True).to(device)
        return Clip(model, AutoTokenizer.from_pretrained(where), AutoImageProcessor.from_pretrained(where))
