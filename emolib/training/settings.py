"""The settings of a training run, and the precision it computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emolib.runtime import InputError, fast_bf16, one_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """How a run is trained. The defaults are textual inversion's: MiniSD is at its best after 30 to 60 steps.

    steps           at most so many optimiser steps; `patience` usually ends it earlier
    batch           draws of every group in a step
    micro_batch     so many draws of all groups go through the network at once; 0 is all of them. The result
                    is the same but for rounding; the prompts are encoded once a step in any case
    lr, warmup      learning rate of Adam, and the steps over which it rises from zero
    decay           it falls linearly to zero over this last part of `steps`
    min_snr         gamma of the min-SNR weights; 0 switches them off
    focus           with pairs: weigh every place of the loss by how much the two pictures differ there
    held_out        part of a group's examples kept for the evaluation, where there are four or more
    evaluate_every  steps between evaluations, each with `evaluate_on` draws a group, always the same ones
    patience        evaluations without improvement after which a group stops; 0: never
    precision       "auto", "float32", "bfloat16", "float16": autocast of the networks
    compile         torch.compile the denoiser: pays on a GPU from some hundred steps on
    checkpoint_every  seconds
    """

    steps: int = 300
    batch: int = 4
    micro_batch: int = 0
    lr: float = 5e-3
    warmup: int = 10
    decay: float = 0.5
    min_snr: float = 0.0
    focus: bool = False
    held_out: float = 0.25
    evaluate_every: int = 10
    evaluate_on: int = 8
    patience: int = 5
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    checkpoint_every: float = 10.0

    def __post_init__(self) -> None:
        whole = ("steps", "batch", "evaluate_every", "evaluate_on")
        for name in whole:
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("micro_batch", "warmup", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be a positive number, not {self.lr}")
        if not 0 <= self.min_snr < float("inf"):
            raise InputError(f"min_snr must be 0 (off) or a positive number, not {self.min_snr}")
        if not 0 <= self.held_out < 1 or not 0 <= self.decay <= 1:
            raise InputError("held_out must lie in [0, 1) and decay in [0, 1]")


def rate(settings: Settings, step: int) -> float:
    """Learning rate of `step`: linear warm-up, constant, linear decay towards zero at `settings.steps`."""
    tail = max(1.0, settings.decay * settings.steps)
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup), (settings.steps - step) / tail)


PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The autocast dtype of `device`; "auto" is bfloat16 where the device computes in it, float16 on older
    GPUs, else float32. InputError for an unknown name."""
    import torch

    one_of(name, PRECISIONS, "precision")
    if name != "auto":
        return getattr(torch, name)
    if fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast to `dtype`; nothing at float32."""
    import torch

    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
