"""The run's rows as one board: the numbers of every method, what they rest on, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emolib.evaluation import curves, edits, examples, tables
from emolib.evaluation.columns import PARTS
from emolib.evaluation.methods import Method
from emolib.evaluation.observe import Arrays
from emolib.evaluation.results import Measured, Rows
from emolib.metrics import protocols
from emolib.runtime import write_json

if TYPE_CHECKING:
    from emolib.evaluation.run import Run


def write(run: Run, measured: Sequence[tuple[Arrays, dict[str, Arrays]]]) -> Path:
    """The tables, the costs and a manifest beside every method's edits; the Markdown file's path."""
    known = _joined([task for task, _ in measured])
    rows = Rows(run.tasks, known, run.threshold)
    if np.isnan(run.threshold) and run.instruments.identity is not None:
        rows = replace(rows, threshold=rows.strangers())
    found = {}
    for method in run.methods:
        arrays = _joined([rows_of[method.name] for _, rows_of in measured])
        features, probs = arrays.pop("features"), arrays.pop("probs")
        found[method.name] = Measured(rows, arrays, features, probs, run.instruments.judge.labels)
    tables.write(_board(run, rows, found), run.settings.out)
    examples.write(run, found)
    costs = {}
    for method in run.methods:
        if method.edit is not None:
            edits.write_manifest(method, run.tasks, run.folder(method))
            costs[method.name] = edits.costs(method, run.tasks, run.folder(method))
    write_json(run.settings.out / "costs.json", {"threads": torch.get_num_threads(), "methods": costs})
    return run.settings.out / "leaderboard.md"


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _board(run: Run, rows: Rows, found: Mapping[str, Measured]) -> tables.Board:
    baseline = run.settings.baseline
    members = {
        base: {name: found[name] for name in names} for base, names in curves.families(list(found)).items()
    }
    shown = tables.shown(run.settings.protocol, run.settings.metrics)
    judge = run.instruments.judge
    return {
        "data": run.tasks.name,
        "data_digest": run.tasks.digest,
        "size": run.tasks.size,
        "notes": [run.tasks.note] if run.tasks.note else [],
        "protocol": run.settings.protocol,
        "metrics": shown,
        "judge": judge.name,
        "features": f"{judge.name} judge, {rows.known['source_features'].shape[1]} of its last layer",
        "identity": _identity_text(run, rows),
        "sources": len(run.tasks.tasks),
        "edits": run.tasks.edits,
        "groups": len(set(rows.table["group"].tolist())),
        "seed": run.settings.seed,
        "steps": run.settings.options.steps,
        "weights": sorted({digest for method in run.methods for digest in method.weights}),
        "baseline": baseline,
        "matched_at": curves.AT,
        "not_available": dict(run.notes),
        "faults": {name: list(protocols.FAULTS[name]) for name in run.instruments.protocols[1:]},
        "labels": list(judge.labels),
        "methods": {method.name: _method(method, found, rows, baseline) for method in run.methods},
        "curves": {
            base: {name: tables.estimate(value) for name, value in curves.curve(some).items()}
            for base, some in members.items()
        },
    }


def _identity_text(run: Run, rows: Rows) -> str:
    if run.instruments.identity is None:
        return run.identity_about
    return f"{run.identity_about}; same person from cosine {rows.threshold:.3f}"


def _short(caption: str, limit: int = 300) -> str:
    """A caption that can be read; learned tables and directions print at any length."""
    return caption if len(caption) <= limit else f"{caption[:limit]} ..."


def _method(method: Method, found: Mapping[str, Measured], rows: Rows, baseline: str) -> dict:
    own = found[method.name]
    against = own.against(found[baseline]) if baseline in found and baseline != method.name else {}
    return {
        "caption": _short(method.caption),
        "judges_used": list(method.judges_used),
        "all": {name: tables.estimate(value) for name, value in own.numbers().items()},
        "minus_baseline": {name: tables.estimate(value, p=p) for name, (value, p) in against.items()},
        "by": {
            kind: {
                value: {
                    name: tables.estimate(row)
                    for name, row in own.numbers(keep, sets=False).items()
                    if name in PARTS
                }
                for value, keep in values.items()
            }
            for kind, values in rows.parts().items()
        },
        "confusion": own.confusion().tolist(),
    }
