"""A method's edits of one task: made once, kept as PNG with their checksums and cost, read back as they were.

Scores are of the 8-bit pictures, whoever made them: a fresh edit is rounded before it is measured.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from emolib import images as pictures
from emolib.evaluation import submission
from emolib.evaluation.methods import Method
from emolib.evaluation.tasks import Task, TaskSet
from emolib.metrics.protocols import check_sizes
from emolib.runtime import InputError, generator, write_json

RECORD = "record.json"


@dataclass(frozen=True)
class Stored:
    """Encoded edits of a task, in the order of its changes, and one digest of them all."""

    files: tuple[Path, ...]
    encoded: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in self.encoded)).hexdigest()

    def decode(self, source: Tensor) -> Tensor:
        """(T, 3, H, W) in [-1, 1]; InputError, naming the file, for a broken picture or another size."""
        edits = []
        for file, encoded in zip(self.files, self.encoded, strict=True):
            try:
                edits.append(pictures.to_tensor(pictures.open_image(encoded)))
            except InputError as error:
                raise InputError(f"{file}: {str(error).removeprefix('the picture: ')}") from None
            check_sizes(edits[-1], source, str(file))
        return torch.cat(edits)


def slug(name: str) -> str:
    """`name` as the name of a file."""
    return re.sub(r"[^\w.@=+-]+", "_", name)


def stored(method: Method, task: Task, folder: Path) -> Stored | None:
    """The edits that are there already, or None where one is missing or its checksum does not hold."""
    if method.submitted is not None:
        files = method.submitted.pictures(task)
        return Stored(tuple(files), tuple(file.read_bytes() for file in files))
    try:
        sums = json.loads((folder / task.id / RECORD).read_text(encoding="utf-8"))["sha256"]
        files = tuple(folder / task.id / f"{slug(change.name)}.png" for change in task.changes)
        encoded = tuple(file.read_bytes() for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    right = [hashlib.sha256(one).hexdigest() == sums.get(file.name) for one, file in zip(encoded, files)]  # noqa: B905
    return Stored(files, encoded) if all(right) else None


def make(
    method: Method, task: Task, start: Tensor, folder: Path, seed: int, *, back: bool = False
) -> tuple[Stored, Tensor]:
    """Edit the source, or (`back`) the edits back; round to 8 bits; write.

    The record of checksums and cost comes last, so that it vouches for all. The noise depends on the seed and
    the task alone: the same for every method, in any order and number of processes.
    """
    cost = Cost()
    with cost.measured(method.networks):
        draws = generator(seed, "back" if back else "evaluate", task.id)
        edited = (method.back if back else method.edit)(task, start, draws)
    _check(edited, start, method, task)
    target, encoded = folder / task.id, []
    target.mkdir(parents=True, exist_ok=True)
    (target / RECORD).unlink(missing_ok=True)
    rounded = pictures.to_pil(edited)
    files = tuple(target / f"{slug(change.name)}.png" for change in task.changes)
    for file, picture in zip(files, rounded, strict=True):
        pictures.save_image(picture, file)
        encoded.append(file.read_bytes())
    sums = {file.name: hashlib.sha256(one).hexdigest() for file, one in zip(files, encoded, strict=True)}
    write_json(target / RECORD, {"sha256": sums, **cost.each(len(files))})
    return Stored(files, tuple(encoded)), pictures.to_tensor(rounded)


def _check(edited: Tensor, start: Tensor, method: Method, task: Task) -> None:
    wanted = (len(task.changes), *start.shape[1:])
    shape = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
    if shape != wanted:
        raise InputError(f"method {method.name!r} on {task.id}: returned {shape} where {wanted} is due")
    if not torch.isfinite(edited).all():
        raise InputError(f"method {method.name!r} on {task.id}: returned NaN or infinite pixels")


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
        """As JSON, per edit; memory is that of the whole call."""
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


def costs(method: Method, tasks: TaskSet, folder: Path) -> dict[str, float | int | None]:
    """Medians over the tasks of what the records say; they differ from run to run, unlike the tables."""
    records = []
    for task in tasks.tasks:
        with suppress(OSError, ValueError):
            records.append(json.loads((folder / task.id / RECORD).read_text(encoding="utf-8")))
    found: dict[str, float | int | None] = {"n": len(records)}
    for name in ("seconds", "evaluations", "peak_mb"):
        values = [record[name] for record in records if record.get(name) is not None]
        found[name] = statistics.median(values) if values else None
    return found


def write_manifest(method: Method, tasks: TaskSet, folder: Path) -> None:
    """Make the method's folder of edits a submission that anybody can score again."""
    rows = [
        {"source": task.id, "target": change.name, "path": f"{task.id}/{slug(change.name)}.png"}
        for task in tasks.tasks
        for change in task.changes
    ]
    about = {"method": method.name, "caption": method.caption, "judges_used": list(method.judges_used)}
    write_json(folder / submission.MANIFEST, {**about, "data": tasks.name, "edits": rows})
