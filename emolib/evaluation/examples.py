"""A few edits to look at: the first tasks of the run, chosen by no score, one strip of pictures each.

A strip is a WebP of square cells: the source, the true answer if there is one, then every method's edit.
`examples.json` beside them says who is in which cell, and what the judge made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from emolib.evaluation import edits, tables
from emolib.evaluation.results import Measured
from emolib.evaluation.tasks import Task
from emolib.runtime import atomic_write, write_json

if TYPE_CHECKING:
    from emolib.evaluation.run import Run

SCORES = ("emo_a", "p_target", "identity", "truth_psnr", "beats_nothing")
STRIDE = 5  # the k-th example shows change 5 k: neighbours ask for different emotions


def write(run: Run, found: Mapping[str, Measured]) -> None:
    """Strips and `examples.json` of the run's first `examples` tasks, in its output folder."""
    rows, start = [], 0
    for k, task in enumerate(run.tasks.tasks):
        if k < run.settings.examples:
            chosen = STRIDE * k % len(task.changes)
            row = start + sum(len(change.faces) for change in task.changes[:chosen])
            rows.append(_strip(run, task, chosen, {name: m.columns for name, m in found.items()}, row))
        start += sum(len(change.faces) for change in task.changes)
    for old in run.settings.out.glob("example-*.webp"):
        if old.name not in {row["file"] for row in rows}:
            old.unlink()
    if rows:
        write_json(run.settings.out / tables.EXAMPLES, {"data": run.tasks.name, "examples": rows})


def _strip(run: Run, task: Task, chosen: int, columns: Mapping[str, Mapping], row: int) -> dict:
    change = task.changes[chosen]
    cells = {"source": task.picture()}
    if change.truth is not None:
        cells["true answer"] = change.truth()
    for method in run.methods:
        if method.name not in ("nothing", "truth"):  # they are there already
            stored = edits.stored(method, task, run.folder(method))
            cells[method.name] = Image.open(stored.files[chosen]).convert("RGB")
    width, height = task.picture().size
    sheet = Image.new("RGB", (width * len(cells), height))
    for i, cell in enumerate(cells.values()):
        sheet.paste(cell, (i * width, 0))
    name = f"example-{edits.slug(task.id)}.webp"
    with atomic_write(run.settings.out / name) as temporary:
        sheet.save(temporary, "WEBP", quality=92, method=6)
    scores = {
        method: {key: _plain(values[key][row]) for key in SCORES if key in values}
        for method, values in columns.items()
    }
    return {
        "id": task.id,
        "file": name,
        "from": change.asked[0].emotion,
        "to": change.name,
        "cells": list(cells),
        "size": [width, height],
        "scores": scores,
    }


def _plain(value: np.floating) -> float | str | None:
    return tables.number(float(value))
