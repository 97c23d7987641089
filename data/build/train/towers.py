"""What MiniCLIP's two parts train: the text tower with what it meets, the picture tower; and their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel


def contrastive(
    pictures: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, true: torch.Tensor
) -> torch.Tensor:
    """Mean of both directions' cross entropy; `true` (texts, pictures) bool marks every pair that fits.

    Embeddings are (B, D) of length one. With `true` the identity this is CLIP's own loss.
    """
    logits = scale * texts.float() @ pictures.float().T
    true = true.float()
    to_pictures = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    to_texts = F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
    return (to_pictures + to_texts) / 2


def reading(logits: list[torch.Tensor], values: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each attribute's logits (B, values) where the caption names it.

    `values` (B, A) are the true ones, `named` (B, A) bool."""
    parts = [
        F.cross_entropy(found.float(), values[:, a], reduction="none")[named[:, a]]
        for a, found in enumerate(logits)
    ]
    return torch.cat(parts).mean()


class Meeting(nn.Module):
    """A CLIP's text tower and a head that brings standardised frozen features to meet it.

    `reads` tell, linearly, each attribute's value from the text's last state, `counts` values of each: what a
    picture's features hardly show of an attribute the text tower would otherwise not keep for the denoiser.
    """

    def __init__(self, clip: CLIPModel, features: torch.Tensor, counts: Sequence[int], hidden: int = 256):
        super().__init__()
        self.clip = clip
        for tower in (clip.vision_model, clip.visual_projection):
            tower.requires_grad_(False)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("spread", features.std(0) + 1e-3)
        out = clip.config.projection_dim
        self.head = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.GELU(), nn.Linear(hidden, out))
        width = clip.config.text_config.hidden_size
        self.reads = nn.ModuleList(nn.Linear(width, count) for count in counts)

    def pictures(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) embeddings of length one."""
        return F.normalize(self.head((features.float() - self.mean) / self.spread), dim=-1)

    def forward(
        self, ids: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Embeddings (B, D) of texts and pictures, and logits (B, values) of each attribute."""
        state = state_of(self.clip, ids)
        texts = F.normalize(self.clip.text_projection(state), dim=-1)
        return texts, self.pictures(features), [read(state) for read in self.reads]


class Seeing(nn.Module):
    """A CLIP with a locked text transformer, and a head that predicts the judge's features from its patches.

    Both projections and the temperature learn.
    """

    def __init__(self, clip: CLIPModel, channels: int):
        super().__init__()
        self.clip = clip
        clip.text_model.requires_grad_(False)
        self.head = nn.Linear(clip.config.vision_config.hidden_size, channels)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, D) of pictures, and predicted features (B, places, C), row by row."""
        out = self.clip.vision_model(pixel_values=images)
        embeds = F.normalize(self.clip.visual_projection(out.pooler_output), dim=-1)
        return embeds, self.head(out.last_hidden_state[:, 1:])


def state_of(clip: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, W) last states of token ids (B, L); padding behind the longest is not computed."""
    longest = int((ids != clip.config.text_config.pad_token_id).sum(1).max()) + 1
    return clip.text_model(input_ids=ids[:, : max(2, longest)].long()).pooler_output


def texts_of(clip: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, D) embeddings of length one of token ids (B, L)."""
    return F.normalize(clip.text_projection(state_of(clip, ids)), dim=-1)
