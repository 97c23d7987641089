"""Measure what an edit costs: seconds, network evaluations, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor


class Cost:
    """Seconds, network evaluations and peak memory of one call; `each(n)` is per edit."""

    def __init__(self) -> None:
        self.seconds, self.evaluations, self.peak_mb = 0.0, 0, None

    @contextmanager
    def measured(self, networks: Sequence[torch.nn.Module]) -> Iterator[None]:
        """Count what runs inside. An evaluation is one picture through one network once."""

        def count(_module, inputs) -> None:
            self.evaluations += len(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else 1

        hooks = [network.register_forward_pre_hook(count) for network in networks]
        _reset_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.seconds, self.peak_mb = time.perf_counter() - start, _peak_mb()

    def each(self, n: int) -> dict[str, float | None]:
        """Give the numbers per edit, as JSON takes them; memory is that of the whole call."""
        return {"seconds": self.seconds / n, "evaluations": self.evaluations / n, "peak_mb": self.peak_mb}


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the process's high-water mark


def _peak_mb() -> float | None:
    """Peak memory since the reset, MiB: the GPU's, or the whole process's on Linux; None elsewhere."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return None
