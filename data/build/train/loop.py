"""The one training loop of all recipes: a running average of the weights, a log, and exact resumption.

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
from accelerate import Accelerator
from torch import nn

from emolib.runtime import InputError, generator, pick_device
from emolib.training import checkpoint

STOPPED = 3  # exit code of a run that was stopped (signal or --minutes) before its last step
Losses = Callable[[nn.Module, int, torch.Generator], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Plan:
    """How a run is trained. Taken up again, only `steps`, `minutes` and the `*_every` fields may differ."""

    work: Path
    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.3  # the learning rate falls linearly to zero over this last part of the run
    weight_decay: float = 0.01
    ema: float = 0.999
    seed: int = 0
    device: str = "auto"
    precision: str = "bf16"
    compile: bool = False
    minutes: float = 0.0  # stop after so many minutes, with a checkpoint; 0: never
    checkpoint_every: float = 120.0  # seconds
    log_every: int = 50  # steps
    evaluate_every: int = 0  # steps; 0: only at the end


def accelerator(plan: Plan) -> Accelerator:
    """The device and precision of the run. InputError if it would be spread over several processes."""
    device = pick_device(plan.device)
    found = Accelerator(cpu=device.type == "cpu", mixed_precision=plan.precision)
    if found.num_processes > 1:
        raise InputError(
            "these models are too small for several processes; start the recipe without a launcher"
        )
    return found


def rate(plan: Plan, step: int) -> float:
    """Learning rate of `step`: linear warm-up, constant, linear decay to zero at `plan.steps`."""
    tail = max(1.0, plan.decay * plan.steps)
    return plan.lr * min(1.0, (step + 1) / max(1, plan.warmup), (plan.steps - step) / tail)


def step_seed(seed: int, step: int) -> int:
    """The number all randomness of one step derives from."""
    return generator(seed, "train", step).initial_seed()


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


class Run:
    """The state of one run: model, average, optimiser, meters, step, seconds spent; saved and loaded."""

    def __init__(self, plan: Plan, model: nn.Module, device: torch.device):
        self.plan, self.device = plan, device
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self.average = Average(self.model, plan.ema)
        self.optimizer = optimizer_for(self.model, plan)
        self.meters: dict[str, torch.Tensor] = {}
        self.step, self.seconds = 0, 0.0
        self.path, self.log_path = plan.work / "checkpoint.safetensors", plan.work / "log.jsonl"
        plan.work.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            self.load()
        checkpoint.trim_log(self.log_path, self.step)

    def save(self) -> None:
        """Write the checkpoint, atomically. RuntimeError if training has diverged (the old one stays)."""
        self._check()
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.model.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in checkpoint.optimizer_tensors(self.optimizer).items()}
        tensors |= {f"meter.{k}": v for k, v in self.meters.items()}
        facts = {"step": self.step, "seconds": self.seconds, "plan": self.settings()}
        checkpoint.save(self.path, tensors, facts)

    def load(self) -> None:
        """Take up the checkpoint. InputError if it belongs to a model of another shape."""
        tensors, facts = checkpoint.load(self.path)
        try:
            self.model.load_state_dict(checkpoint.part(tensors, "model"))
            self.average.model.load_state_dict(checkpoint.part(tensors, "average"))
        except RuntimeError:
            raise InputError(f"{self.path}: is of another model; give --fresh or another --work") from None
        checkpoint.load_optimizer(self.optimizer, checkpoint.part(tensors, "optimizer"))
        self.meters = {k: v.to(self.device) for k, v in checkpoint.part(tensors, "meter").items()}
        self.step, self.seconds = facts["step"], facts["seconds"]
        print(f"goes on at step {self.step} of {self.plan.steps}", flush=True)

    def settings(self) -> dict:
        """The plan without its folder."""
        return {k: v for k, v in asdict(self.plan).items() if k != "work"}

    def _check(self) -> None:
        for name, value in self.meters.items():
            if not torch.isfinite(value):
                raise RuntimeError(f"step {self.step}: {name} is not finite; the last checkpoint is kept")

    def measure(self, values: dict[str, torch.Tensor]) -> None:
        """Add to the meters, on the device: nothing waits for the accelerator."""
        for name, value in values.items():
            self.meters[name] = self.meters.get(name, 0) + value.detach().float()
        self.meters["count"] = self.meters.get("count", torch.zeros((), device=self.device)) + 1

    def log(self, values: dict | None = None) -> dict:
        """Append a line to the log: `values`, or the mean of the meters, which start again."""
        if values is None:
            self._check()
            count = float(self.meters["count"])
            values = {k: float(v) / count for k, v in self.meters.items() if k != "count"}
            values["lr"] = rate(self.plan, self.step - 1)
            self.meters = {}
        line = {"step": self.step, "pictures": self.step * self.plan.batch, "seconds": round(self.seconds, 1)}
        line |= {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        checkpoint.append_log(self.log_path, line)
        return line


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
    call goes on.
    """
    backend = accelerator(plan)
    run = Run(plan, model, backend.device)
    if plan.compile:
        run.model.compile()
    optimizer = backend.prepare(run.optimizer)
    draw = torch.Generator(backend.device)
    run.log({"device": _name(backend.device), "plan": run.settings()})
    start = saved = told = time.monotonic()
    before, spent = run.step, run.seconds
    with stop_on_signal() as caught:
        while run.step < plan.steps:
            _one_step(run, backend, optimizer, losses, draw)
            last = run.step == plan.steps
            run.seconds = spent + time.monotonic() - start
            if last or run.step % plan.log_every == 0:
                line, now = run.log(), time.monotonic()
                if last or now - told > 5:
                    told = now
                    print(_progress(plan, line, (run.step - before) * plan.batch / (now - start)), flush=True)
            if evaluate and (last or (plan.evaluate_every and run.step % plan.evaluate_every == 0)):
                found = evaluate(run.average.model, run.step)
                print("  " + "  ".join(f"{k} {v:.4g}" for k, v in run.log(found).items()), flush=True)
            over = bool(caught) or (plan.minutes and time.monotonic() - start > 60 * plan.minutes)
            if last or over or time.monotonic() - saved > plan.checkpoint_every:
                run.save()
                saved = time.monotonic()
            if over and not last:
                print(
                    f"stopped at step {run.step} of {plan.steps}; the same command goes on from here",
                    flush=True,
                )
                raise SystemExit(STOPPED)
    return run.average.model


def _one_step(run: Run, backend: Accelerator, optimizer, losses: Losses, draw: torch.Generator) -> None:
    seed = step_seed(run.plan.seed, run.step)
    torch.manual_seed(seed)  # for layers that draw by themselves, such as stochastic depth
    draw.manual_seed(seed)
    for group in run.optimizer.param_groups:
        group["lr"] = rate(run.plan, run.step)
    with backend.autocast():
        values = losses(run.model, run.step, draw)
    backend.backward(values["loss"])
    values["grad_norm"] = torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    run.average.update(run.step)
    run.measure(values)
    run.step += 1


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else device.type


def _progress(plan: Plan, line: dict, speed: float) -> str:
    left = (plan.steps - line["step"]) * plan.batch / speed / 60
    others = [
        f"{k} {v:.4g}" for k, v in line.items() if k not in ("step", "pictures", "seconds", "lr", "grad_norm")
    ]
    return (
        f"step {line['step']}/{plan.steps}  {'  '.join(others)}  {speed:.1f} pictures/s  {left:.1f} min left"
    )
