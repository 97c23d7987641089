"""Columns that need a network from outside: LPIPS, CLIP-I, DINO-I. Without it they say why.

CLIP and DINO are taken from a folder or the local Hub cache alone; torchvision may fetch LPIPS's backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from emolib.data.preparation import Preparation, load_preparation
from emolib.metrics.protocols import Comparison, blacked_out
from emolib.runtime import local_folder

OFFLINE = "not available offline"
CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dinov2-base"  # as EmoEdit takes them
Compare = Callable[[Comparison], Tensor]
"""A column: (B,) numbers of a `protocols.Comparison`."""


class Unavailable(Exception):
    """The network is not on this machine; the message is what the column says."""


def load_lpips(net: str, feed: Callable[[Comparison], tuple[Tensor, Tensor]], scale: float = 1.0) -> Compare:
    """Load LPIPS (Zhang et al. 2018) of the network `net`; `feed` says which two pictures it is given."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with _unavailable(f"LPIPS needs torchvision and its {net} weights"):
        metric = LearnedPerceptualImagePatchSimilarity(net_type=net).eval()

    @torch.no_grad()
    def compare(c: Comparison) -> Tensor:
        pairs = zip(*(pictures.split(1) for pictures in feed(c)), strict=True)
        return scale * torch.stack([metric(a, b) for a, b in pairs]).float()

    return compare


def load_clip_i(name: str = CLIP) -> Compare:
    """Load CLIP-I: cosine of CLIP image embeddings. `name`: folder or Hub id of a transformers CLIPModel."""
    from transformers import CLIPModel

    def embed(output) -> Tensor:
        return output if isinstance(output, Tensor) else output.pooler_output

    model, prepare = _load_network(CLIPModel, name)
    return _cosines(lambda x: embed(model.get_image_features(pixel_values=prepare(x))))


def load_dino_i(name: str = DINO) -> Compare:
    """Load DINO-I: cosine of DINOv2's mean last tokens, as EmoEdit defines it. `name` as in `load_clip_i`."""
    from transformers import AutoModel

    model, prepare = _load_network(AutoModel, name)
    return _cosines(lambda x: model(pixel_values=prepare(x)).last_hidden_state.mean(1))


COLUMNS: dict[str, Callable[[], Compare]] = {
    "lpips": lambda: load_lpips("alex", lambda c: (c.edit, c.source)),  # [-1, 1], as its authors say
    "clip_i": load_clip_i,
    "dino_i": load_dino_i,
    "emoedit_lpips": lambda: load_lpips("alex", lambda c: (c.edit / 2 + 0.5, c.source / 2 + 0.5)),
    "piebench_lpips_e3": lambda: load_lpips("squeeze", blacked_out, 1e3),
}
"""Column -> what loads it, or raises Unavailable."""

LOCAL = ("clip_i", "dino_i")
"""Columns that fetch nothing: they are tried in every evaluation."""


@contextmanager
def _unavailable(lacks: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise Unavailable(f"{OFFLINE} ({lacks})") from error


def _load_network(kind, name: str) -> tuple[torch.nn.Module, Preparation]:
    """Load the network in float32 and its preprocessing, from this machine alone."""
    with _unavailable(f"{name} is not in the local cache"):
        folder = local_folder(name) or Path(name)
        model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        return model, load_preparation(folder)


def _cosines(embed: Callable[[Tensor], Tensor]) -> Compare:
    @torch.no_grad()
    def compare(c: Comparison) -> Tensor:
        a, b = embed(torch.cat([c.edit, c.source])).chunk(2)
        return F.cosine_similarity(a, b, dim=1).float()

    return compare
