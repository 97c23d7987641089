"""What makes a run resumable: checkpoints written whole or not at all, an optimiser's state, a log.

Everything random in a step should derive from (seed, step); then tensors and a few numbers are all there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emolib.runtime import InputError, atomic_write


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as one safetensors file, atomically: a kill leaves the previous one."""
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(kept, temporary, metadata={key: json.dumps(value) for key, value in facts.items()})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts. InputError if the file cannot be read."""
    try:
        with safe_open(path, "pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}); remove it to start again") from None


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors called "name.something", as "something"."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and step counts, as "index.name"."""
    states = optimizer.state_dict()["state"].items()
    return {f"{i}.{key}": value for i, state in states for key, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up what `optimizer_tensors` gave, for the same parameters in the same order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, name = key.split(".")
        like = parameters[int(i)]
        # The moments must lie in memory as their parameter does, or the fused kernels are slow or wrong.
        state.setdefault(int(i), {})[name] = torch.empty_like(like).copy_(value) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def append_log(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a JSONL log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def trim_log(path: Path, step: int) -> None:
    """Drop the lines written after `step`, the last checkpoint's: they will be written again."""
    if path.is_file():
        kept = [line for line in read_log(path) if line["step"] <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
