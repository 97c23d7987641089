"""The one fine-tuning loop. A method decides which parameters train and which prompts pictures go with.

A group is a concept: its examples, and the parameters that only they move (textual inversion: a token's rows;
LoRA and DreamBooth: one group with all of theirs). Several groups share every step and influence each other
in nothing. A run can be killed at any moment and goes on from its last checkpoint to the same result, bit for
bit; started on several processes it splits every batch among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.training.examples import Batch, Batches, Examples, fingerprint, pick
from emolib.training.objective import Objective
from emolib.training.run import Curve, Run
from emolib.training.settings import Settings, rate

Tell = Callable[[str], None]
TELL_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Fit:
    """What came of a run: its curve, the steps taken, and the seconds they took (all sittings together)."""

    curve: Curve
    steps: int
    seconds: float


def fit(
    backbone: Backbone,
    examples: Mapping[str, Examples],
    parameters: Mapping[str, Sequence[nn.Parameter]],
    settings: Settings,
    *,
    constrain: Callable[[str], None] | None = None,
    work: Path | None = None,
    tell: Tell | None = None,
) -> Fit:
    """Train the `parameters` of each group on its `examples`; they end as they were at their best evaluation.

    `constrain(group)` runs after every step, without gradients (a norm that is kept, say). `work` is a folder
    for checkpoint and log, from which the same call goes on. `tell` gets a line of progress now and then.
    Under torch.distributed (`accelerate launch`) every process calls this with the same arguments.
    Raises InputError (a checkpoint of another run), FloatingPointError (the loss diverged).
    """
    batches = Batches(backbone, examples, seed=settings.seed, held_out=settings.held_out)
    objective = Objective(backbone, batches, settings)
    run = Run(
        parameters,
        settings,
        work=work,
        identity=f"{backbone.name} {fingerprint(examples)}",
        scale_gradients=objective.dtype == torch.float16,
    )
    tell = tell if tell and _rank() == 0 else lambda line: None
    if run.load():
        tell(f"goes on at step {run.step} of at most {settings.steps}")
    fixed = batches.evaluation(settings.evaluate_on)
    if not run.curve.points:
        _evaluate(run, objective, fixed)
    _sit(run, objective, fixed, constrain, tell)
    run.check()
    run.take_best()
    return Fit(run.curve, run.step, run.seconds)


def _sit(run: Run, objective: Objective, fixed: Batch, constrain, tell: Tell) -> None:
    """Step until the run is finished; log, tell and save on the way."""
    settings, first, before = run.settings, run.step, run.seconds
    start = saved = told = time.monotonic()
    while not run.finished:
        _step(run, objective, constrain)
        now = time.monotonic()
        run.seconds = before + now - start
        if run.step % settings.evaluate_every == 0 or run.step == settings.steps:
            _evaluate(run, objective, fixed)
        if run.finished or now - told > TELL_EVERY:
            told = now
            tell(_progress(run, (run.step - first) / (now - start)))
        if run.work and _rank() == 0 and (run.finished or now - saved > settings.checkpoint_every):
            saved = now
            run.save()


def _step(run: Run, objective: Objective, constrain: Callable[[str], None] | None) -> None:
    """One optimiser step of all active groups; each one's loss is the mean over its own draws."""
    settings, names = run.settings, run.active
    batch = objective.batches.training(run.step, settings.batch, names)[_rank() :: _world()]
    losses = torch.zeros_like(run.losses)
    if len(batch):
        _backward(run, objective, batch, losses)
    trained = [p for name in names for p in run.parameters[name]]
    _add_up(trained, losses)
    run.losses += losses
    for group in run.optimizer.param_groups:
        group["lr"] = rate(settings, run.step)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    if constrain is not None:
        with torch.no_grad():
            for name in names:
                constrain(name)
    run.step += 1


def _backward(run: Run, objective: Objective, batch: Batch, losses: Tensor) -> None:
    """Gradients of the batch, and its losses added up by group.

    The distinct prompts go through the text encoder once. Micro-batches leave their gradients at a cut just
    behind it, and one backward pass carries the sum on: the same gradient at a fraction of the text's cost.
    """
    settings = run.settings
    embedding, which = objective.encode(batch)
    parts = [part for part in (embedding.hidden, embedding.pooled) if part is not None]
    cuts = [part.detach().requires_grad_(part.requires_grad) for part in parts]
    size = settings.micro_batch or len(batch)
    for i in range(0, len(batch), size):
        part = batch[i : i + size]
        found = objective.losses(part, pick(Embedding(*cuts), which[i : i + size])) / settings.batch
        run.scaler.scale(found.sum()).backward()
        losses.index_add_(0, part.group.to(losses.device), found.detach())
    waiting = [(part, cut.grad) for part, cut in zip(parts, cuts, strict=True) if cut.grad is not None]
    if waiting:
        torch.autograd.backward(*zip(*waiting, strict=True))


def _add_up(parameters: Sequence[nn.Parameter], losses: Tensor) -> None:
    """Sum gradients and losses over all processes, in one message."""
    if _world() == 1:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    message = torch.cat([part.flatten() for part in (*grads, losses)])
    distributed.all_reduce(message)
    pieces = message.split([part.numel() for part in (*grads, losses)])
    for parameter, piece in zip(parameters, pieces, strict=False):
        parameter.grad = piece.view_as(parameter).clone()
    losses.copy_(pieces[-1])


@torch.no_grad()
def _evaluate(run: Run, objective: Objective, fixed: Batch) -> None:
    """Add the fixed draws' losses to the curve: same pictures, noise and timesteps every time, so that a
    change is learning and nothing else (Voronov et al. 2023, arXiv 2302.04841)."""
    names, order = run.active, list(run.parameters)
    active = torch.tensor([name in names for name in order])
    batch = fixed[active[fixed.group]]
    embedding, which = objective.encode(batch)
    size = run.settings.micro_batch or run.settings.batch * len(names)
    found = torch.cat(
        [
            objective.losses(batch[i : i + size], pick(embedding, which[i : i + size]))
            for i in range(0, len(batch), size)
        ]
    )
    sums = torch.zeros_like(run.losses).index_add_(0, batch.group.to(found.device), found)
    if _world() > 1:
        distributed.broadcast(sums, 0)
    run.check(sums)
    steps = run.step - run.curve.points[-1]["step"] if run.curve.points else 1
    evaluation = (sums / run.settings.evaluate_on).tolist()
    training = (run.losses / steps).tolist()
    pick_active = {name: i for i, name in enumerate(order) if name in names}
    run.record(
        {name: evaluation[i] for name, i in pick_active.items()},
        {name: training[i] for name, i in pick_active.items()} if run.step else {},
        write=_rank() == 0,
    )


def _progress(run: Run, speed: float) -> str:
    """ "step 120/400  evaluation -1.2 %  2 of 8 still learn  3.1 steps/s, at most 90 s left"."""
    found = [(run.curve.of(name)[0][1], *run.curve.best(name)) for name in run.parameters]
    change = sum(best / first - 1 for first, _, best in found) / len(found)
    parts = [f"step {run.step}/{run.settings.steps}", f"evaluation {100 * change:+.2f} %"]
    if len(found) == 1:
        parts[-1] += f" (best at {found[0][1]})"
    else:
        parts.append(f"{len(run.active)} of {len(found)} still learn")
    if not run.finished:
        left = (run.settings.steps - run.step) / speed
        parts.append(f"{speed:.1f} steps/s, at most {left:.0f} s left")
    return "  ".join(parts)


def _world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0
