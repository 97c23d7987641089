"""The autoencoder's view of the portraits, computed once: posteriors of several views of each picture."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from emolib.runtime import atomic_write, generator, progress
from train import appearance, data


def _key(vae: AutoencoderKL, people: data.Portraits, size: int) -> str:
    """Changes with the encoder's weights, the pictures and the size."""
    digest = hashlib.sha256(f"{size} {len(people)} {people.frame['image_id'].str.cat()}".encode())
    digest.update(str(people.masks is not None).encode())
    for value in (*vae.encoder.state_dict().values(), *vae.quant_conv.state_dict().values()):
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    digest.update(people.images[:: max(1, len(people) // 64)].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:10]


def views_of(people: data.Portraits, rows: torch.Tensor, views: int, seed: tuple, light: float):
    """Yield pictures (B, 3, S, S) `views` times: as they are, mirrored, as photographs drawn from `seed`."""
    x = data.pixels(people.images[rows])
    yield from (x, x.flip(-1))
    for view in range(2, views):
        draw = torch.Generator(rows.device).manual_seed(generator(0, *seed, view).initial_seed())
        yield appearance.draw_photographs(people, rows, draw, cut=0.0, grey=0.0, light=light)[0]


@torch.no_grad()
def posteriors(
    vae: AutoencoderKL, people: data.Portraits, size: int, folder: Path, views: int = 2, light: float = 0.6
) -> torch.Tensor:
    """(N, views, 2C, h, w) float16: mean and log variance of each picture at `size` px, of its mirror image,
    and of it as `views` - 2 photographs, changed alike for all pictures of a person (see `views_of`).

    Kept in `folder`. A cached posterior, unlike a cached sample, leaves the training distribution as it is.
    """
    file = folder / f"latents-{size}-{views}-{_key(vae, people, size)}.safetensors"
    if file.is_file():
        return load_file(file)["moments"].to(people.images.device)
    moments = None
    groups = people.siblings.to(people.images.device).split(32)
    for number, group in enumerate(progress(groups, f"encoding {len(people)} portraits at {size} px")):
        for rows in group.T:
            shown = [_resize(x, size) for x in views_of(people, rows, views, ("views", number), light)]
            found = torch.stack([vae.encode(x).latent_dist.parameters.half() for x in shown], 1)
            if moments is None:
                moments = found.new_zeros(len(people), *found.shape[1:])
            moments[rows] = found
    with atomic_write(file) as temporary:
        save_file({"moments": moments.cpu().contiguous()}, temporary)
    return moments


def _resize(x: torch.Tensor, size: int) -> torch.Tensor:
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return x if x.shape[-1] == size else small.clamp(-1, 1)


def sample(moments: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Latents (B, C, h, w) float32 drawn from posteriors (B, 2C, h, w); not yet scaled."""
    mean, logvar = moments.float().chunk(2, 1)
    noise = torch.randn(mean.shape, generator=draw, device=mean.device)
    return mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise
