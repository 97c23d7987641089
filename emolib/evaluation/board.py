"""Write the leaderboard and read it back: JSON (all), CSV (a line a number), Markdown (to read), examples.

The same numbers give the same bytes. An example is a strip of square pictures: the source, the true answer if
there is one, then every method's edit; `examples.json` says who is in which cell and what the judge saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from emolib.evaluation import numbers, store
from emolib.evaluation.columns import COLUMNS, HEADLINE, PARTS, get_column
from emolib.evaluation.methods import Method
from emolib.evaluation.numbers import Scores
from emolib.evaluation.tasks import Task
from emolib.images import open_image
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError, atomic_write, one_of, read_json, write_json

FILE, EXAMPLES = "leaderboard.json", "examples.json"
UNEDITED = ("nothing", "truth")
DIGITS = 6  # significant ones that are kept: a sum in another order does not show
ARROWS = {"up": " ↑", "down": " ↓", "one": " →1", "": ""}
KEYS = ("value", "low", "high", "n", "p")
SHOWN = ("emo_a", "p_target", "identity", "truth_psnr", "beats_nothing")
"""What `examples.json` says of every edit."""

Board = dict[str, Any]
"""`leaderboard.json`: what was measured on what, and under "methods" every number."""


class Example(NamedTuple):
    """A task, the number of the change that is shown, its edits and its columns by method."""

    task: Task
    chosen: int
    edits: Mapping[str, Image.Image]
    scores: Mapping[str, Mapping[str, float]]


# Build: scores to the nested numbers of leaderboard.json.


def build_method(method: Method, scores: Mapping[str, Scores], baseline: str) -> dict[str, Any]:
    """Build the board's entry of a method: who it is, its numbers, whole and by part."""
    own = scores[method.name]
    compared = baseline in scores and baseline != method.name
    differences = own.compare(scores[baseline]) if compared else {}
    by: dict[str, dict[str, Any]] = {}
    for kind, values in own.rows.list_parts().items():
        parts = {value: own.average(keep, sets=False) for value, keep in values.items()}
        by[kind] = {
            value: {name: as_json(x) for name, x in part.items() if name in PARTS}
            for value, part in parts.items()
        }
    return {
        # Learned tables and directions print at any length.
        "caption": method.caption if len(method.caption) <= 300 else f"{method.caption[:300]} ...",
        "judges_used": list(method.judges_used),
        "all": {name: as_json(number) for name, number in own.average().items()},
        "minus_baseline": {name: as_json(number, p=p) for name, (number, p) in differences.items()},
        "by": by,
        "confusion": own.confusion().tolist(),
    }


def build_curves(scores: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Build the board's strength curves: base name -> number."""
    curves = {}
    for base, names in numbers.group_by_strength(list(scores)).items():
        curve = numbers.fit_curve({name: scores[name] for name in names})
        curves[base] = {name: as_json(number) for name, number in curve.items()}
    return curves


def as_json(estimate: Estimate, **more: float) -> dict[str, Any]:
    """Turn an estimate, and `more` known of it, into JSON: "inf" for infinity, None for what is undefined."""
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    rounded = {name: round_number(value) for name, value in (ends | more).items()}
    return {**{name: rounded.pop(name) for name in ends}, "n": estimate.n, **rounded}


def round_number(value: float) -> float | str | None:
    """Round a number for JSON."""
    if math.isnan(value):
        return None
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)


def choose_columns(protocol: str, metrics: Sequence[str]) -> list[str]:
    """Choose the columns of the Markdown table: `metrics`, else the protocol's, in the order of all."""
    order = list(COLUMNS)
    return sorted(metrics or HEADLINE[protocol], key=lambda name: order.index(name.partition("@")[0]))


# Write.


def write_board(board: Board, folder: Path) -> None:
    """Write leaderboard.json, .csv and .md into `folder`, each whole or not at all."""
    write_json(folder / FILE, board, indent=None)  # it is large
    csv = tabulate(board).to_csv(index=False, lineterminator="\n")
    for name, text in (("leaderboard.csv", csv), ("leaderboard.md", as_markdown(board))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def tabulate(board: Board) -> pd.DataFrame:
    """List every number of a board as a tidy table: method, part, metric, value, low, high, n, p.

    A part is "all", "minus BASELINE", "KIND=VALUE" of a breakdown, or "strengths" of a curve."""
    rows = []
    for name, method in board["methods"].items():
        parts = {"all": method["all"], f"minus {board['baseline']}": method["minus_baseline"]}
        for kind, values in method["by"].items():
            parts |= {f"{kind}={value}": numbers for value, numbers in values.items()}
        rows += [(name, part, metric, x) for part, row in parts.items() for metric, x in row.items()]
    for base, curve in board["curves"].items():
        rows += [(base, "strengths", metric, x) for metric, x in curve.items()]
    cells = [(*names, *(number.get(key) for key in KEYS)) for *names, number in rows]
    return pd.DataFrame(cells, columns=["method", "part", "metric", *KEYS], dtype=object)


def as_markdown(board: Board) -> str:
    """Show the headline columns, the first of them by part, the strength curves, and what it all means."""
    shown, methods, missing = board["metrics"], board["methods"], board["not_available"]
    lines = [f"# Leaderboard: {board['data']}, protocol {board['protocol']}", "", _describe(board), ""]
    headings = [f"{name}{ARROWS[get_column(name).better]}" for name in shown]
    lines += _markdown_table({name: method["all"] for name, method in methods.items()}, shown, headings)
    for kind, values in methods[next(iter(methods))]["by"].items():
        parts = {name: method["by"][kind] for name, method in methods.items()}
        rows = {name: {value: part[value].get(shown[0]) for value in values} for name, part in parts.items()}
        lines += ["", f"## {shown[0]} by {kind}", "", *_markdown_table(rows, list(values))]
    if board["curves"]:
        names = list(dict.fromkeys(name for curve in board["curves"].values() for name in curve))
        lines += ["", f"## Strength curves; at_matched is at Emo-S {board['matched_at']}.", ""]
        lines += _markdown_table(board["curves"], names)
    lines += ["", "## Columns", ""]
    lines += [f"- `{name}`: {get_column(name).about}" for name in shown if name not in missing]
    lines += [f"- `{name}`: {why}" for name, why in missing.items()]
    for name, faults in board["faults"].items():
        lines += ["", f"## Known faults of protocol {name}", "", *(f"- {fault}" for fault in faults)]
    return "\n".join(lines) + "\n"


def _describe(board: Board) -> str:
    sentences = [
        f"{board['edits']} edits of {board['sources']} pictures, {board['groups']} independent units",
        *([f"Denoising steps: {board['steps']}"] if board.get("steps") else []),
        f"Judge: {board['judge']}",
        "Brackets are 95 % intervals: bootstrap over units (of fewer than ten no narrower than Student's t),"
        " jackknife for distances of sets",
        f"Features: {board['features']}",
        f"Identity: {board['identity']}",
        *board["notes"],
    ]
    return " ".join(f"{sentence}." for sentence in sentences)


def _markdown_table(
    rows: Mapping[str, Mapping], columns: Sequence[str], headings: Sequence[str] | None = None
) -> list[str]:
    lines = [f"| method | {' | '.join(headings or columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(_cell(row.get(key)) for key in columns)} |")
    return lines


def _cell(number: Mapping[str, Any] | None) -> str:
    """ "0.913 [0.89, 0.93] n=800", or a dash where there is no number."""
    if number is None or number["value"] is None:
        return "–"
    texts = []
    for end in (number["value"], number["low"], number["high"]):
        if isinstance(end, float | int):
            texts.append(f"{end:.3f}" if abs(end) < 10 else f"{end:.1f}")
        else:
            texts.append("?" if end is None else end.replace("inf", "∞"))
    return f"{texts[0]} [{texts[1]}, {texts[2]}] n={number['n']}"


def write_examples(folder: Path, data: str, examples: Sequence[Example]) -> None:
    """Write the strips of the examples and `examples.json`; old strips go."""
    rows = []
    for task, chosen, edits, scores in examples:
        change = task.changes[chosen]
        truth = {} if change.truth is None else {"true answer": change.truth()}
        cells = {"source": task.picture(), **truth, **edits}
        width, height = cells["source"].size
        sheet = Image.new("RGB", (width * len(cells), height))
        for i, cell in enumerate(cells.values()):
            sheet.paste(cell, (i * width, 0))
        file = f"example-{store.file_name(task.id)}.webp"
        with atomic_write(folder / file) as temporary:
            sheet.save(temporary, "WEBP", quality=92, method=6)
        about = {"id": task.id, "file": file, "from": change.edited[0].source_emotion, "to": change.name}
        shown = {
            method: {name: round_number(float(values[name])) for name in SHOWN if name in values}
            for method, values in scores.items()
        }
        rows.append({**about, "cells": list(cells), "size": [width, height], "scores": shown})
    for old in folder.glob("example-*.webp"):
        if old.name not in {row["file"] for row in rows}:
            old.unlink()
    if rows:
        write_json(folder / EXAMPLES, {"data": data, "examples": rows})


# Read back.


def read_board(folder: Path) -> Board:
    """Read the board in `folder`, as `emolib evaluate` wrote it. InputError: none there, or broken."""
    file = Path(folder) / FILE
    if not file.is_file():
        make = "`make leaderboard` or `emolib evaluate`"
        raise InputError(f"{folder}: no leaderboard there; make one with {make}")
    return dict(read_json(file))


def read_examples(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Image.Image]]]:
    """Read every example: (row of `examples.json`, {"source": picture, "true answer": ..., METHOD: ...})."""
    file = Path(folder) / EXAMPLES
    for row in read_json(file)["examples"] if file.is_file() else ():
        width, height = row["size"]
        sheet = open_image(file.parent / row["file"])
        boxes = [(i * width, 0, (i + 1) * width, height) for i in range(len(row["cells"]))]
        yield row, {name: sheet.crop(box) for name, box in zip(row["cells"], boxes, strict=True)}


def get_number(board: Board, method: str, metric: str, **part: str) -> Estimate | None:
    """Get a method's number; `distance="180"` and the like name a part. None: not measured.

    InputError for a method that is not on the board.
    """
    entry = board["methods"][one_of(method, board["methods"], "method")]
    row = entry["all"]
    for kind, value in part.items():
        row = entry["by"].get(kind, {}).get(value, {})
    number = row.get(metric)
    if number is None or number["value"] is None:
        return None
    ends = (math.nan if number[key] is None else float(number[key]) for key in ("value", "low", "high"))
    return Estimate(*ends, number["n"])


def get_numbers(board: Board, metrics: Sequence[str]) -> dict[str, dict[str, Estimate | None]]:
    """Get {metric: {method: number}}, as `figures.style.leaderboard` takes it."""
    return {name: {m: get_number(board, m, name) for m in board["methods"]} for name in metrics}


def get_parts(board: Board, method: str, metric: str, kind: str) -> dict[str, Estimate | None]:
    """Get the number in every part of a breakdown ("target", "distance"), in order; else {"all": ...}."""
    parts = board["methods"][method]["by"].get(kind, {})
    if not parts:
        return {"all": get_number(board, method, metric)}
    return {part: get_number(board, method, metric, **{kind: part}) for part in parts}


def list_editors(board: Board) -> list[str]:
    """List the methods that edit: all but doing nothing and the true answer, in the board's order."""
    return [name for name in board["methods"] if name not in UNEDITED]


def find_best(board: Board, metric: str = "joint", among: Sequence[str] = ()) -> str:
    """Find the editor with the highest `metric`, the first of equals. InputError if none was measured.

    Chosen on the people it is then shown for, so that its numbers flatter a little.
    """
    measured = {name: get_number(board, name, metric) for name in among or list_editors(board)}
    values = {name: number.value for name, number in measured.items() if number is not None}
    if not values:
        raise InputError(f"no editor of this board has a number for {metric!r}")
    return max(values, key=values.__getitem__)
