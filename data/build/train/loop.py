"""How the recipes train: `emolib.training.loop`, with a running average of the weights and ways to stop.

Everything random in step s derives from (seed, s), so a checkpoint needs no generator state: weights,
average, optimiser and step are all there is. A run is a folder with `checkpoint.safetensors` and `log.jsonl`.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from emolib.runtime import InputError, generator, pick_device
from emolib.training import loop, settings

STOPPED = 3  # exit code of a run that was stopped (signal or --minutes) before its last step
Losses = Callable[[nn.Module, int, torch.Generator], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Plan(settings.Plan):
    """How a run is trained. Taken up again, only `steps`, `minutes` and the `*_every` fields may differ.

    weight_decay, ema  of AdamW; decay of the averaged weights
    minutes            stop after so many, with a checkpoint; 0: never
    """

    work: Path = Path()
    warmup: int = 100
    decay: float = 0.3
    clip: float = 1.0
    evaluate_every: int = 0
    log_every: int = 50
    checkpoint_every: float = 120.0
    weight_decay: float = 0.01
    ema: float = 0.999
    device: str = "auto"
    minutes: float = 0.0


def optimizer_for(model: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and embeddings (rows of unseen words would shrink to zero)."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or "embedding" in n]
    decayed = [p for n, p in named if not (p.ndim < 2 or "embedding" in n)]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.lr, betas=(0.9, 0.99), fused=True)


class Average:
    """The exponential moving average of a model's weights and buffers; `model` is ready for evaluation."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._floats = [(a, b.detach()) for a, b in pairs if a.is_floating_point()]
        self._others = [(a, b) for a, b in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model; early on faster, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([a for a, _ in self._floats], [b for _, b in self._floats], 1 - decay)
        for a, b in self._others:
            a.copy_(b)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Within, SIGTERM and SIGINT are only noted in the list: the loop finishes its step and saves."""
    caught: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda number, frame: caught.append(number)) for kind in kinds]
    try:
        yield caught
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def train(plan: Plan, model: nn.Module, losses: Losses, *, evaluate: Callable | None = None) -> nn.Module:
    """Train `model` by `losses(model, step, generator) -> {"loss": ..., ...}`; returns the averaged model.

    `evaluate(average, step) -> {name: number}` is called every `plan.evaluate_every` steps and at the end.
    SystemExit with code 3, after a checkpoint, when a signal or `plan.minutes` ends the run early: the same
    call goes on. InputError if it would be spread over several processes.
    """
    device = pick_device(plan.device)
    if PartialState(cpu=device.type == "cpu").num_processes > 1:
        raise InputError("these models are too small for several processes; start without a launcher")
    dtype = settings.compute_dtype(device, plan.precision)
    model = model.to(device, memory_format=torch.channels_last).train()
    average, draw, start = Average(model, plan.ema), torch.Generator(device), time.monotonic()
    if plan.compile:
        model.compile()

    def step_losses(step: int, groups) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        seed = generator(plan.seed, "train", step).initial_seed()
        torch.manual_seed(seed)  # for layers that draw by themselves, such as stochastic depth
        draw.manual_seed(seed)
        with settings.autocast(device, dtype):
            values = losses(model, step, draw)
        yield values["loss"], values

    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    state |= {f"average.{k}": v for k, v in average.model.state_dict().items()}
    about = {k: v for k, v in asdict(plan).items() if k != "work"}
    with stop_on_signal() as caught:
        run = loop.fit_parameters(
            {"model": [p for p in model.parameters() if p.requires_grad]},
            step_losses,
            plan,
            evaluate=lambda step, groups: evaluate(average.model, step) if evaluate and step else {},
            after_step=lambda step, groups: average.update(step),
            optimizer=optimizer_for(model, plan),
            state=state,
            work=plan.work,
            about={"device": _name(device), "plan": about},
            stop=lambda: caught or (plan.minutes and time.monotonic() - start > 60 * plan.minutes),
            tell=lambda line: print(line, flush=True),
        )
    if run.step < plan.steps:
        line = f"stopped at step {run.step} of {plan.steps}; the same command goes on from here"
        print(line, flush=True)
        raise SystemExit(STOPPED)
    return average.model


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type
