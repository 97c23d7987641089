"""The one training loop. A method brings its parameters and the loss of a step; the loop does the rest.

    run = fit_parameters({"lora": parameters}, losses, plan, evaluate=evaluate, work=folder)

`losses(step, groups)` yields `(loss, values)`: a scalar that is made small, and numbers for the log; one pair
a micro-batch, whose gradients add up. What is random in a step has to follow from its number: then
parameters, optimiser and a few numbers are all there is, and a run that was killed goes on from its last
checkpoint to the same result, bit for bit.

Parameters come in groups, which share every step and influence each other in nothing: each keeps its best
evaluation, and stops by itself (eight tokens are eight groups; LoRA, DreamBooth or h-space have one).
Started on several processes (`accelerate launch`), each yields the losses of its share of the batch.

Why not all of `accelerate`: an `Accelerator` takes one precision a process, wraps modules and not single
vectors, and saves pickles. Of it come the processes and what they send each other.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from emolib.data.files import load_tensors, save_tensors
from emolib.runtime import InputError, atomic_write
from emolib.training.settings import Plan, rate

Groups = Mapping[str, Sequence[nn.Parameter]]
Losses = Callable[[int, Sequence[str]], Iterable[tuple[Tensor | None, Mapping[str, Tensor]]]]
"""`losses(step, groups)`; a process without a share of the batch yields (None, zeros)."""
Evaluate = Callable[[int, Sequence[str]], Mapping[str, float]]
"""`evaluate(step, groups)` -> numbers for the log; one under a group's name is that group's loss."""
Tell = Callable[[str], None]

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
TELL_EVERY = 5.0  # seconds


def fit_parameters(
    parameters: Groups,
    losses: Losses,
    plan: Plan,
    *,
    evaluate: Evaluate | None = None,
    after_step: Callable[[int, Sequence[str]], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: Mapping[str, Tensor] | None = None,
    scale_gradients: bool = False,
    work: Path | None = None,
    identity: str = "",
    about: Mapping[str, Any] | None = None,
    stop: Callable[[], Any] = lambda: False,
    tell: Tell | None = None,
) -> Run:
    """Train `parameters`, group by group; those that were evaluated end as they were at their best.

    evaluate    called before the first step, every `plan.evaluate_every` steps and after the last one
    after_step  called behind every step, without gradients (a norm that is kept, a running average)
    optimizer   of all parameters; default: AdamW without weight decay
    state       the tensors that are saved and restored (in place), by name; default: the parameters
    scale_gradients  for float16
    work        folder for checkpoint and log, from which the same call goes on
    identity    what this run is about, in a few words or a hash: another run's checkpoint is refused
    about       noted in the log whenever the run is begun or taken up
    stop        asked after every step; when true, the run is saved and left
    tell        gets a line of progress now and then
    Raises InputError (a checkpoint of another run), FloatingPointError (the loss diverged).
    """
    run = Run(parameters, plan, optimizer, state, scale_gradients, work, identity)
    main = PartialState().is_main_process
    tell = tell if tell and main else lambda line: None
    if run.load():
        tell(f"goes on at step {run.step} of at most {plan.steps}")
    if about:
        run.log(about)
    if evaluate and run.step == 0:
        run.report(evaluate)
    first, spent = run.step, run.seconds
    start = saved = shown = time.monotonic()
    while not run.finished:
        _step(run, losses, after_step)
        now = time.monotonic()
        run.seconds = spent + now - start
        last, every = run.step == plan.steps, plan.evaluate_every
        if last or (every and run.step % every == 0):
            run.report(evaluate)
        elif plan.log_every and run.step % plan.log_every == 0:
            run.report()
        over = run.finished or stop()
        if run.finished or now - shown > TELL_EVERY:
            shown = now
            tell(_progress(run, (run.step - first) / (now - start)))
        if work and main and (over or now - saved > plan.checkpoint_every):
            saved = now
            run.save()
        if over:
            break
    run.check()
    if run.finished:
        run.take_best()
    return run


def _step(run: Run, losses: Losses, after_step) -> None:
    """Take one optimiser step of all groups that still learn."""
    names, plan = run.active, run.plan
    values: dict[str, Tensor] = {}
    # 1. Gradients of every micro-batch add up in the parameters, their numbers in `values`.
    for loss, numbers in losses(run.step, names):
        if loss is not None:
            run.scaler.scale(loss).backward()
        for name, value in numbers.items():
            values[name] = values.get(name, 0) + value.detach().float()
    # 2. So do those of several processes.
    trained = [p for name in names for p in run.parameters[name]]
    if PartialState().num_processes > 1:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        grads, values = reduce([grads, values], reduction="sum")
        for parameter, grad in zip(trained, grads, strict=True):
            parameter.grad = grad
    if plan.clip:
        run.scaler.unscale_(run.optimizer)
        values["grad_norm"] = nn.utils.clip_grad_norm_(trained, plan.clip)
    # 3. The step itself.
    for group in run.optimizer.param_groups:
        group["lr"] = rate(plan, run.step)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    if after_step is not None:
        with torch.no_grad():
            after_step(run.step, names)
    # 4. What the log will say: sums since its last line, on the device, so that nothing waits for it.
    for name, value in values.items():
        run.meters[name] = run.meters.get(name, 0) + value
    run.counted += 1
    run.step += 1


class Run:
    """The state of a run: parameters and their best values, optimiser, step, seconds, curves.

    curves  {group: [(step, loss), ...]}, its evaluations in order
    meters  sums of what was measured since the last line of the log, over `counted` steps
    """

    def __init__(
        self,
        parameters: Groups,
        plan: Plan,
        optimizer: torch.optim.Optimizer | None = None,
        state: Mapping[str, Tensor] | None = None,
        scale_gradients: bool = False,
        work: Path | None = None,
        identity: str = "",
    ) -> None:
        self.parameters, self.plan, self.work = parameters, plan, work
        trained = [p for group in parameters.values() for p in group]
        self.optimizer = optimizer or torch.optim.AdamW(trained, lr=plan.lr, weight_decay=0.0)
        self.device = trained[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scale_gradients)
        named = {f"now.{name}.{i}": p for name, ps in parameters.items() for i, p in enumerate(ps)}
        self.state = state or named
        self.best: dict[str, list[Tensor]] = {}
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.meters: dict[str, Tensor] = {}
        self.means: dict[str, float] = {}  # of the log's last line
        self.counted, self.step, self.seconds = 0, 0, 0.0
        shapes = {name: list(value.shape) for name, value in self.state.items()}
        self.identity = hashlib.sha256(json.dumps([identity, shapes]).encode()).hexdigest()[:16]
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)

    @property
    def active(self) -> list[str]:
        """The groups that still learn."""
        return [name for name in self.parameters if not self.stopped(name)]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or no group learns any more."""
        return self.step >= self.plan.steps or not self.active

    def best_of(self, group: str) -> tuple[int, float]:
        """Step and loss of a group's lowest evaluation."""
        return min(self.curves[group], key=lambda point: point[1])

    def stopped(self, group: str) -> bool:
        """Whether a group's last `patience` evaluations brought nothing better."""
        losses = [loss for _, loss in self.curves.get(group, ())]
        return bool(losses) and 0 < self.plan.patience <= len(losses) - 1 - losses.index(min(losses))

    def check(self, *more: Tensor) -> None:
        """FloatingPointError if the run, or `more`, is no longer finite; what was saved before stays."""
        numbers = [*more, *self.meters.values(), *(p for group in self.parameters.values() for p in group)]
        if not all(bool(torch.isfinite(part).all()) for part in numbers):
            raise FloatingPointError(
                f"step {self.step}: the loss is no longer a number; lower the learning rate (it was"
                f" {self.plan.lr:g}) or choose float32; nothing was written"
            )

    def report(self, evaluate: Evaluate | None = None) -> None:
        """Write a line of the log: what was measured since the last one, and the evaluation, if it is due.

        Parameters that were never better are kept."""
        self.check()
        values = {name: float(value) / self.counted for name, value in self.meters.items()}
        self.means, self.meters = values, {}
        if self.counted:
            values = {**values, "lr": rate(self.plan, self.step - 1)}
        self.counted = 0
        losses = dict(evaluate(self.step, self.active)) if evaluate else {}
        if losses and PartialState().num_processes > 1:  # all go by what the first one saw
            numbers = torch.tensor(list(losses.values()), dtype=torch.float64, device=self.device)
            losses = dict(zip(losses, broadcast(numbers).tolist(), strict=True))
        for name in losses.keys() & self.parameters.keys():
            self.check(torch.tensor(losses[name]))
            self.curves.setdefault(name, []).append((self.step, losses[name]))
            if self.best_of(name)[0] == self.step:
                self.best[name] = [p.detach().clone() for p in self.parameters[name]]
        if values or losses:
            self.log({**values, **losses})

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        if self.work is None or not PartialState().is_main_process:
            return
        line = {"step": self.step, "pictures": self.step * self.plan.batch, "seconds": round(self.seconds, 1)}
        line |= {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        with (self.work / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @torch.no_grad()
    def take_best(self) -> None:
        """Set the parameters of every group that was evaluated to their best values."""
        for name, values in self.best.items():
            for parameter, value in zip(self.parameters[name], values, strict=True):
                parameter.copy_(value)

    def save(self) -> None:
        """Write the checkpoint, atomically, unless the run has diverged (FloatingPointError)."""
        self.check()
        tensors = dict(self.state)
        tensors |= {f"best.{name}.{i}": b for name, best in self.best.items() for i, b in enumerate(best)}
        tensors |= {f"meter.{name}": value for name, value in self.meters.items()}
        moments = self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{key}": v for i, state in moments.items() for key, v in state.items()}
        facts = {name: getattr(self, name) for name in ("identity", "step", "seconds", "counted", "curves")}
        facts["scaler"] = self.scaler.state_dict()
        header = {name: json.dumps(value) for name, value in facts.items()}
        save_tensors(self.work / CHECKPOINT, tensors, header)

    def load(self) -> bool:
        """Take up the checkpoint, if there is one. InputError if it is another run's."""
        if self.work is None:
            return False
        path = self.work / CHECKPOINT
        if not path.is_file():
            (self.work / LOG).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
            return False
        tensors, header = load_tensors(path)
        facts = {name: json.loads(value) for name, value in header.items()}
        if facts.get("identity") != self.identity:
            raise InputError(
                f"{path}: is a run with other pictures, settings or another model; remove it, or write"
                " elsewhere"
            )
        with torch.no_grad():
            for name, value in self.state.items():
                value.copy_(tensors[name])
        for name in facts["curves"]:
            group = self.parameters[name]
            self.best[name] = [tensors[f"best.{name}.{i}"].to(p) for i, p in enumerate(group)]
        self.meters = {k[6:]: value.to(self.device) for k, value in tensors.items() if k.startswith("meter.")}
        _load_moments(self.optimizer, {k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")})
        self.scaler.load_state_dict(facts["scaler"])
        self.curves = {name: [tuple(point) for point in curve] for name, curve in facts["curves"].items()}
        self.step, self.seconds, self.counted = facts["step"], facts["seconds"], facts["counted"]
        _trim_log(self.work / LOG, self.step)
        return True


def _load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser its moments and step counts, saved as "index.name"."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, name = key.split(".")
        like = parameters[int(i)]
        # The moments must lie in memory as their parameter does, or the fused kernels are slow or wrong.
        state.setdefault(int(i), {})[name] = torch.empty_like(like).copy_(value) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines written after `step`, the last checkpoint's: they will be written again."""
    if path.is_file():
        kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _progress(run: Run, speed: float) -> str:
    """ "step 120/400  evaluation -1.20 % (best at 110)  3.1 steps/s, at most 90 s left"."""
    parts = [f"step {run.step}/{run.plan.steps}"]
    if run.curves:
        changes = [run.best_of(name)[1] / (curve[0][1] or 1.0) - 1 for name, curve in run.curves.items()]
        best = f" (best at {run.best_of(*run.curves)[0]})" if len(changes) == 1 else ""
        parts.append(f"evaluation {100 * sum(changes) / len(changes):+.2f} %{best}")
        if len(changes) > 1:
            parts.append(f"{len(run.active)} of {len(changes)} still learn")
    else:
        means = {name: float(value) / run.counted for name, value in run.meters.items()} or run.means
        parts += [f"{name} {value:.4g}" for name, value in means.items()]
    if not run.finished:
        left = (run.plan.steps - run.step) / speed
        parts.append(f"{speed:.1f} steps/s, at most {left:.0f} s left")
    return "  ".join(parts)
