"""How a run is trained: knobs that need no torch to be read, and the precision it computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emolib.runtime import fast_bf16, in_range, one_of

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Of h-space directions (see training.directions): epochs of trained ones, steps and the noisiest timestep of
# supervised ones. Edits begin at T_START; further up the network sees no face to keep. On 8 validation people
# (guide judge) directions for all levels gave 0.94 of the emotions and 20.0 dB to the truth, those for the
# lower half 1.00 and 23.2.
EPOCHS, PAIR_STEPS, T_START = 4, 150, 500
RANGES = {
    **dict.fromkeys(("steps", "batch", "evaluate_on"), (1, 10**9)),
    **dict.fromkeys(("warmup", "evaluate_every", "log_every", "patience", "micro_batch"), (0, 10**9)),
    "lr": (1e-12, 1e300),
    "decay": (0, 1),
    "min_snr": (0, 1e6),
    "held_out": (0, 0.999),
    "rank": (1, 10**4),
    "contrast": (0, 1e3),
}
"""What a knob may be."""


@dataclass(frozen=True)
class Plan:
    """How the loop trains, whatever the method.

    steps           at most so many optimiser steps
    batch           examples in a step (of textual inversion: of every token)
    lr, warmup      learning rate, and the steps over which it rises from zero
    decay           it falls linearly to zero over this last part of `steps`
    clip            gradients are shortened to this length; 0: never
    evaluate_every  steps between evaluations, and after the last one; 0: only then
    log_every       steps between lines of the log; 0: only with evaluations
    patience        evaluations without improvement after which a group stops; 0: never
    checkpoint_every  seconds
    precision       "auto", "float32", "bfloat16", "float16": autocast of the networks
    compile         torch.compile the network: pays on a GPU from some hundred steps on
    """

    steps: int = 300
    batch: int = 4
    lr: float = 5e-3
    warmup: int = 10
    decay: float = 0.5
    clip: float = 0.0
    evaluate_every: int = 10
    log_every: int = 0
    patience: int = 0
    checkpoint_every: float = 10.0
    seed: int = 0
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if hasattr(self, name):
                in_range(getattr(self, name), low, high, name)
        one_of(self.precision, PRECISIONS, "precision")


@dataclass(frozen=True)
class Settings(Plan):
    """How tokens are learned. MiniSD is at its best after 30 to 60 steps; `patience` usually ends a run.

    micro_batch   so many draws of all groups go through the network at once; 0 is all of them. The result is
                  the same but for rounding; the prompts are encoded once a step in any case
    min_snr       gamma of the min-SNR weights; 0 switches them off
    focus         with pairs: weigh every place of the loss by how much the two pictures differ there
    held_out      part of a group's examples kept for the evaluation, where there are four or more
    evaluate_on   draws a group in an evaluation, always the same ones
    """

    patience: int = 5
    micro_batch: int = 0
    min_snr: float = 0.0
    focus: bool = False
    held_out: float = 0.25
    evaluate_on: int = 8


@dataclass(frozen=True)
class LoraSettings(Settings):
    """How a LoRA is learned; the best evaluation is kept.

    rank      of every layer's change
    contrast  weight of the contrast between the two ends of a slider; 0: none
    between   of a slider: what is noised lies anywhere between the two ends, and the network learns where to
              go from there, as in an edit. False: the published objective, whose network has seen each end
              under its own noise alone and, at low noise, keeps what it sees. On 6 validation people (guide
              judge, img2img, 40 steps of training) .54 of a feeling without, 1.0 with
    """

    steps: int = 60
    batch: int = 4
    lr: float = 5e-3
    evaluate_every: int = 20
    patience: int = 0
    min_snr: float = 5.0
    focus: bool = True
    rank: int = 4
    contrast: float = 0.0
    between: bool = True


def rate(plan: Plan, step: int) -> float:
    """Return the learning rate of `step`: linear warm-up, constant, linear decay towards zero at the end."""
    rise = min(1.0, (step + 1) / max(1, plan.warmup))
    fall = min(1.0, (plan.steps - step) / max(1.0, plan.decay * plan.steps))
    return plan.lr * rise * fall


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Choose the autocast dtype of `device`; "auto" is bfloat16 where the device computes in it, float16 on
    older GPUs, else float32. InputError for an unknown name."""
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
