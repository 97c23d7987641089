"""The state of a run, its curve, and how both are saved and taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emolib.runtime import InputError
from emolib.training import checkpoint
from emolib.training.settings import Settings

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"


@dataclass
class Curve:
    """Evaluations in order; what was best and who has stopped follow from them.

    points  {"step", "evaluation": {group: loss}, "loss": {group: mean training loss since the last point}},
            with the groups that still learned then
    """

    points: list[dict[str, Any]] = field(default_factory=list)

    def of(self, group: str) -> list[tuple[int, float]]:
        """Steps and evaluation losses of a group."""
        return [
            (point["step"], point["evaluation"][group])
            for point in self.points
            if group in point["evaluation"]
        ]

    def best(self, group: str) -> tuple[int, float]:
        """Step and loss of a group's lowest evaluation."""
        return min(self.of(group), key=lambda point: point[1])

    def stopped(self, group: str, patience: int) -> bool:
        """Whether a group's last `patience` evaluations brought nothing better; never with patience 0."""
        losses = [loss for _, loss in self.of(group)]
        return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


class Run:
    """Step, curve, current and best parameters, and the optimiser, of groups that each have parameters.

    `work` is a folder for checkpoint and log (None: nothing is kept). `identity` says which examples and
    model the run belongs to.
    """

    def __init__(
        self,
        parameters: Mapping[str, Sequence[nn.Parameter]],
        settings: Settings,
        *,
        work: Path | None = None,
        identity: str = "",
        scale_gradients: bool = False,
    ) -> None:
        self.parameters, self.settings, self.work = parameters, settings, work
        flat = [p for group in parameters.values() for p in group]
        self.device = flat[0].device
        self.optimizer = torch.optim.AdamW(flat, lr=settings.lr, weight_decay=0.0)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scale_gradients)
        self.best = {name: [p.detach().clone() for p in group] for name, group in parameters.items()}
        self.losses = torch.zeros(len(parameters), device=self.device)  # sums since the curve's last point
        self.curve, self.step, self.seconds = Curve(), 0, 0.0
        about = {"settings": {**asdict(settings), "checkpoint_every": 0}, "identity": identity}
        digest = hashlib.sha256(json.dumps(about).encode())
        for p in flat:  # where it starts from
            digest.update(f"{tuple(p.shape)}".encode() + p.detach().float().cpu().numpy().tobytes())
        self.identity = digest.hexdigest()[:16]
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)

    @property
    def active(self) -> list[str]:
        """The groups that still learn."""
        return [name for name in self.parameters if not self.curve.stopped(name, self.settings.patience)]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or nobody learns any more."""
        return self.step >= self.settings.steps or not self.active

    def check(self, *more: Tensor) -> None:
        """FloatingPointError if the run, or `more`, is no longer finite; what was saved before stays."""
        numbers = [*more, self.losses, *(p.detach() for group in self.parameters.values() for p in group)]
        if not all(bool(torch.isfinite(part).all()) for part in numbers):
            raise FloatingPointError(
                f"step {self.step}: the loss is no longer a number; lower the learning rate (it was"
                f" {self.settings.lr:g}) or choose float32; nothing was written"
            )

    def record(self, evaluation: dict[str, float], losses: dict[str, float], *, write: bool = True) -> None:
        """Add a point to the curve (`write`: and to the log), and keep parameters that were never better."""
        self.curve.points.append({"step": self.step, "evaluation": evaluation, "loss": losses})
        for name in evaluation:
            if self.curve.best(name)[0] == self.step:
                self.best[name] = [p.detach().clone() for p in self.parameters[name]]
        self.losses.zero_()
        if write and self.work is not None:
            line = {**self.curve.points[-1], "seconds": round(self.seconds, 1)}
            checkpoint.append_log(self.work / LOG, line)

    def take_best(self) -> None:
        """Set every parameter to its best value."""
        with torch.no_grad():
            for name, group in self.parameters.items():
                for parameter, best in zip(group, self.best[name], strict=True):
                    parameter.copy_(best)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by name."""
        found = {"losses": self.losses}
        for name, group in self.parameters.items():
            for i, (now, best) in enumerate(zip(group, self.best[name], strict=True)):
                found |= {f"now.{name}.{i}": now, f"best.{name}.{i}": best}
        moments = checkpoint.optimizer_tensors(self.optimizer)
        return found | {f"optimizer.{key}": value for key, value in moments.items()}

    def save(self) -> None:
        """Write the checkpoint, unless the run has diverged (FloatingPointError)."""
        self.check()
        facts = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve.points,
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.save(self.work / CHECKPOINT, self.tensors(), facts)

    def load(self) -> bool:
        """Take up the checkpoint, if there is one. InputError if it is another run's."""
        if self.work is None:
            return False
        path = self.work / CHECKPOINT
        if not path.is_file():
            (self.work / LOG).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
            return False
        tensors, facts = checkpoint.load(path)
        if facts.get("identity") != self.identity:
            raise InputError(
                f"{path}: is a run with other pictures, settings or another model; remove it, or write"
                " elsewhere"
            )
        with torch.no_grad():
            for name, group in self.parameters.items():
                for i, parameter in enumerate(group):
                    parameter.copy_(tensors[f"now.{name}.{i}"])
                    self.best[name][i].copy_(tensors[f"best.{name}.{i}"])
            self.losses.copy_(tensors["losses"])
        checkpoint.load_optimizer(self.optimizer, checkpoint.part(tensors, "optimizer"))
        self.scaler.load_state_dict(facts["scaler"])
        self.curve, self.step, self.seconds = Curve(facts["curve"]), facts["step"], facts["seconds"]
        checkpoint.trim_log(self.work / LOG, self.step)
        return True
