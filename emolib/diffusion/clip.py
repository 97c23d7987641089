"""CLIP as two functions, one of them differentiable: what the trained shift's loss needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from emolib.data.preparation import Preparation, load_preparation
from emolib.diffusion import hub
from emolib.runtime import InputError, repo_path


class Clip:
    """A CLIP as two differentiable functions; made by `load_clip`.

    Embeddings are (B, D) of length one, float32 on the CPU, wherever the network runs.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any, prepare: Preparation) -> None:
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.prepare = prepare

    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> (B, D)."""
        pixels = self.prepare(images.to(self.model.device))
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).cpu()

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
        return Clip(model, AutoTokenizer.from_pretrained(where), load_preparation(where))
