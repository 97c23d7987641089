"""In what precision a step runs: bfloat16 where the hardware multiplies in it, float16 on older GPUs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from emolib.runtime import fast_bf16, one_of

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The autocast dtype of `device`; "auto" is bfloat16 where the device computes in it, float16 on older
    GPUs, else float32. InputError for an unknown name."""
    one_of(name, PRECISIONS, "precision")
    if name != "auto":
        return getattr(torch, name)
    if fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast to `dtype`; nothing at float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
