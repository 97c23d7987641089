"""Columns that need a network from outside: LPIPS, CLIP-I, DINO-I. Without it they say why.

CLIP and DINO are taken from a folder or the local Hub cache alone; torchvision may fetch LPIPS's backbone.
"""

from __future__ import annotations

from collections.abc import Callable

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


def lpips() -> Compare:
    """LPIPS (Zhang et al. 2018) of AlexNet, fed [-1, 1] as its authors say; lower is closer."""
    measure = _lpips("alex")
    return lambda c: measure(c.edit, c.source)


def emoedit_lpips() -> Compare:
    """LPIPS as EmoEdit's script computes it: fed [0, 1], where it expects [-1, 1]."""
    measure = _lpips("alex")
    return lambda c: measure(c.edit / 2 + 0.5, c.source / 2 + 0.5)


def piebench_lpips_e3() -> Compare:
    """PIE-Bench's background LPIPS x 1e3: SqueezeNet, the edited region black in both pictures."""
    measure = _lpips("squeeze")
    return lambda c: 1e3 * measure(*blacked_out(c))


def _lpips(net: str) -> Callable[[Tensor, Tensor], Tensor]:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type=net).eval()
    except (ImportError, OSError, RuntimeError) as error:
        raise Unavailable(f"{OFFLINE} (LPIPS needs torchvision and its {net} weights)") from error

    @torch.no_grad()
    def measure(edit: Tensor, source: Tensor) -> Tensor:
        pairs = zip(edit.split(1), source.split(1), strict=True)
        return torch.stack([metric(a, b) for a, b in pairs]).float()

    return measure


def clip_i(name: str = CLIP) -> Compare:
    """CLIP-I: cosine of CLIP image embeddings. `name` is a folder or Hub id of a transformers CLIPModel."""
    from transformers import CLIPModel

    model, prepare = _load(CLIPModel, name)
    return _cosines(lambda x: _pooled(model.get_image_features(pixel_values=prepare(x))))


def dino_i(name: str = DINO) -> Compare:
    """DINO-I: cosine of the mean over DINOv2's last tokens, as EmoEdit defines it. `name` as in `clip_i`."""
    from transformers import AutoModel

    model, prepare = _load(AutoModel, name)
    return _cosines(lambda x: model(pixel_values=prepare(x)).last_hidden_state.mean(1))


COLUMNS: dict[str, Callable[[], Compare]] = {
    "lpips": lpips,
    "clip_i": clip_i,
    "dino_i": dino_i,
    "emoedit_lpips": emoedit_lpips,
    "piebench_lpips_e3": piebench_lpips_e3,
}
"""Column -> what loads it, or raises Unavailable."""

LOCAL = ("clip_i", "dino_i")
"""Columns that fetch nothing: they are tried in every evaluation."""


def _load(kind, name: str) -> tuple[torch.nn.Module, Preparation]:
    """Load the network in float32 and its preprocessing, from this machine alone."""
    folder = local_folder(name)
    try:
        if folder is None:
            raise FileNotFoundError(name)
        model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        return model, load_preparation(folder)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{OFFLINE} ({name} is not in the local cache)") from error


def _pooled(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _cosines(embed: Callable[[Tensor], Tensor]) -> Compare:
    @torch.no_grad()
    def compare(c: Comparison) -> Tensor:
        a, b = embed(torch.cat([c.edit, c.source])).chunk(2)
        return F.cosine_similarity(a, b, dim=1).float()

    return compare
