"""Predict what an edit takes of memory before it starts: its networks are run on the meta device, where
tensors have sizes and no content, and what lives at once is added up.

Attention counts as PyTorch's fused kernels take it, which never hold all its weights. What libraries set
aside for themselves (work space, the CUDA context, gaps) is not counted: `SLACK` allows for it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emolib.diffusion import hub
from emolib.runtime import free_memory

if TYPE_CHECKING:
    from emolib.diffusion.backbone import Backbone

SLACK = 1.6
"""What a process grows by, in terms of what is counted: benchmarks/photographs.py on a CPU, half of SD 1.5's
widths at 512 px; small networks, whose fixed costs rule, take up to 2.4 times what is counted."""
ROOM = 5.5e9
"""Bytes that activations of one batch may take: with SD 1.5's weights under 8 GB, with SDXL's under 15."""
LARGE = 256
"""Models of a smaller native side, px, are not worth a prediction."""
TIGHT = 0.8
"""An edit is tight that takes more than this share of the memory there is."""


class Ledger(TorchDispatchMode):
    """Count the bytes of all tensors that live at once while it is entered; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: Counter[int] = Counter()  # storage -> tensors that share it
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.now += 0 if self.holders[key] else size
        self.holders[key] += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        self.now -= 0 if self.holders[key] else size


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            query, value = args[0], args[2]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_peak(network: Callable, *inputs: Tensor) -> int:
    """Count the bytes that live at once, beside weights and inputs, while the network works."""
    with Ledger() as ledger:
        network(*inputs)
    return ledger.peak


def predict_activations(model: Backbone, edits: int, height: int, width: int) -> int:
    """Predict the bytes that `edits` edits of one picture, in one batch, take over the weights at their peak.

    `height`, `width` px. The larger of denoising, with guidance and the source beside the edits, and of
    decoding; from the networks' configurations, at the model's precision and `memory` option."""
    latent = (height // model.stride, width // model.stride)
    unet, vae = model.unet, model.vae
    sliced, tiled = vae.use_slicing, vae.use_tiling
    denoising = _count_denoising(_Hashed(unet.config), model.dtype, latent)
    decoding = _count_decoding(_Hashed(vae.config), vae.dtype, latent, tiled)
    return int(SLACK * max(2 * (edits + 1) * denoising, (1 if sliced else edits) * decoding))


def predict_edit(model: Backbone, edits: int, height: int, width: int) -> int:
    """Predict the bytes that an edit takes in all: weights, and `predict_activations`."""
    networks = (part for part in model.pipe.components.values() if isinstance(part, torch.nn.Module))
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    return weights + predict_activations(model, edits, height, width)


def count_fitting(model: Backbone, edits: int, height: int, width: int) -> int:
    """Say how many of so many edits may share a batch: all, or as many as `ROOM` and the device hold.

    Small models are not asked: they always fit."""
    if edits == 1 or model.size < LARGE:
        return edits
    room = min(ROOM, TIGHT * free_memory(model.device))
    while edits > 1 and predict_activations(model, edits, height, width) > room:
        edits -= 1
    return edits


def describe_tightness(model: Backbone) -> str:
    """Say what an edit at the model's own size takes, where that is most of the memory; else nothing."""
    if model.size < LARGE:
        return ""
    free = free_memory(model.device)  # where weights lie on a GPU already, they no longer count as free
    predict = predict_activations if torch.device(model.device).type == "cuda" else predict_edit
    need = predict(model, 1, model.size, model.size)
    tight = f"takes about {need / 1e9:.1f} GB of {free / 1e9:.1f} GB of memory; --memory low takes less"
    return tight if need > TIGHT * free else ""


class _Hashed(dict):
    """A network's configuration, told from others by what it says."""

    def __hash__(self) -> int:
        return hash(repr(sorted(self.items())))


@cache
def _count_denoising(config: _Hashed, dtype: torch.dtype, latent: tuple[int, int]) -> int:
    """Bytes of one picture in one call of the UNet; n pictures take n times as many."""
    with hub.quiet(), torch.device("meta"), _FusedAttention():
        unet = UNet2DConditionModel.from_config(config).to(dtype).eval()
        z = torch.empty(1, config["in_channels"], *latent, dtype=dtype)
        text, added = torch.empty(1, 77, config["cross_attention_dim"], dtype=dtype), None
        if config["addition_embed_type"] == "text_time":  # SDXL
            times = 6 * config["addition_time_embed_dim"]
            pooled = config["projection_class_embeddings_input_dim"] - times
            added = {"text_embeds": torch.empty(1, pooled, dtype=dtype), "time_ids": torch.empty(1, 6)}
        return count_peak(lambda: unet(z, torch.zeros(1), text, added_cond_kwargs=added, return_dict=False))


@cache
def _count_decoding(config: _Hashed, dtype: torch.dtype, latent: tuple[int, int], tiled: bool) -> int:
    with hub.quiet(), torch.device("meta"), _FusedAttention():
        vae = AutoencoderKL.from_config(config).to(dtype).eval()
        vae.use_tiling = tiled
        z = torch.empty(1, config["latent_channels"], *latent, dtype=dtype)
        return count_peak(lambda: vae.decode(z, return_dict=False))
