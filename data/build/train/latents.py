"""The autoencoder's view of the portraits, computed once: posteriors of each picture and its mirror image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from emolib.runtime import atomic_write, progress
from train import data


def _key(vae: AutoencoderKL, people: data.Portraits, size: int) -> str:
    """Changes with the encoder's weights, the pictures and the size."""
    digest = hashlib.sha256(f"{size} {len(people)} {people.frame['image_id'].str.cat()}".encode())
    for value in (*vae.encoder.state_dict().values(), *vae.quant_conv.state_dict().values()):
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    digest.update(people.images[:: max(1, len(people) // 64)].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:10]


@torch.no_grad()
def posteriors(vae: AutoencoderKL, people: data.Portraits, size: int, folder: Path) -> torch.Tensor:
    """(N, 2, 8, h, w) float16: mean and log variance of each picture at `size` px, and of its mirror image.

    Kept in `folder`. A cached posterior, unlike a cached sample, leaves the training distribution as it is.
    """
    file = folder / f"latents-{size}-{_key(vae, people, size)}.safetensors"
    if file.is_file():
        return load_file(file)["moments"].to(people.images.device)
    parts = []
    for images in progress(people.images.split(64), f"encoding {len(people)} portraits at {size} px"):
        x = data.pixels(images)
        if x.shape[-1] != size:
            x = F.interpolate(
                x, size=(size, size), mode="bilinear", antialias=True, align_corners=False
            ).clamp(-1, 1)
        both = [vae.encode(t).latent_dist.parameters.half() for t in (x, x.flip(-1))]
        parts.append(torch.stack(both, 1))
    moments = torch.cat(parts)
    with atomic_write(file) as temporary:
        save_file({"moments": moments.cpu().contiguous()}, temporary)
    return moments


def sample(moments: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Latents (B, 4, h, w) float32 drawn from posteriors (B, 8, h, w); not yet scaled."""
    mean, logvar = moments.float().chunk(2, 1)
    noise = torch.randn(mean.shape, generator=draw, device=mean.device)
    return mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise
