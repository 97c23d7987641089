"""The leaderboard as JSON (all), CSV (a line a number) and Markdown (to read). Same numbers, same bytes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emolib.evaluation.columns import COLUMNS, HEADLINE, column
from emolib.metrics.estimates import Estimate
from emolib.runtime import atomic_write, write_json

DIGITS = 6  # significant ones that are kept: a sum in another order does not show
EXAMPLES = "examples.json"  # beside the tables: what the example strips show
ARROWS = {"up": " ↑", "down": " ↓", "one": " →1", "": ""}
KEYS = ("value", "low", "high", "n", "p")
Board = dict[str, Any]


def number(value: float) -> float | str | None:
    """A number for JSON: rounded, "inf" for infinity, None for what is undefined."""
    if math.isnan(value):
        return None
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def estimate(found: Estimate, **more: float) -> dict[str, Any]:
    """{"value", "low", "high", "n"} and whatever else is known of it."""
    ends = {name: number(value) for name, value in zip(("value", "low", "high"), found[:3], strict=True)}
    return {**ends, "n": found.n, **{name: number(value) for name, value in more.items()}}


def write(board: Board, folder: Path) -> None:
    """leaderboard.json, .csv and .md in `folder`, each whole or not at all."""
    write_json(folder / "leaderboard.json", board)
    for name, text in (("leaderboard.csv", as_csv(board)), ("leaderboard.md", as_markdown(board))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def as_csv(board: Board) -> str:
    """A line for each number: method, part, metric, value, low, high, n, p (of differences)."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["method", "part", "metric", *KEYS])
    for name, method in board["methods"].items():
        parts = {"all": method["all"], f"minus {board['baseline']}": method["minus_baseline"]}
        for kind, values in method["by"].items():
            parts |= {f"{kind}={value}": numbers for value, numbers in values.items()}
        for part, numbers in parts.items():
            for metric, found in numbers.items():
                table.writerow([name, part, metric, *(found.get(key, "") for key in KEYS)])
    for base, numbers in board["curves"].items():
        for metric, found in numbers.items():
            table.writerow([base, "strengths", metric, *(found.get(key, "") for key in KEYS)])
    return out.getvalue()


def as_markdown(board: Board) -> str:
    """The headline columns, the first of them by part, the strength curves, and what it all means."""
    shown = board["metrics"]
    lines = [f"# Leaderboard: {board['data']}, protocol {board['protocol']}", "", *_about(board), ""]
    rows = {name: method["all"] for name, method in board["methods"].items()}
    lines += _table("method", rows, shown)
    parts = board["methods"][next(iter(board["methods"]))]["by"]
    leading = shown[0]
    for kind, values in parts.items():
        some = {
            name: {value: method["by"][kind][value].get(leading, {}) for value in values}
            for name, method in board["methods"].items()
        }
        lines += ["", f"## {leading} by {kind}", "", *_table("method", some, list(values), arrows=False)]
    if board["curves"]:
        names = list(dict.fromkeys(name for found in board["curves"].values() for name in found))
        about = f"Strength curves; at_matched is at Emo-S {board['matched_at']}."
        lines += ["", f"## {about}", "", *_table("method", board["curves"], names, arrows=False)]
    lines += ["", "## Columns", ""]
    lines += [f"- `{name}`: {column(name).about}" for name in shown if name not in board["not_available"]]
    lines += [f"- `{name}`: {why}" for name, why in board["not_available"].items()]
    for name, faults in board["faults"].items():
        lines += ["", f"## Known faults of protocol {name}", "", *(f"- {fault}" for fault in faults)]
    return "\n".join(lines) + "\n"


def _about(board: Board) -> list[str]:
    people = f"{board['edits']} edits of {board['sources']} pictures, {board['groups']} independent units"
    steps = f" Denoising steps: {board['steps']}." if board.get("steps") else ""
    brackets = (
        "Brackets are 95 % intervals: bootstrap over units (of fewer than ten no narrower than Student's t),"
        " jackknife for distances of sets."
    )
    made = f"Features: {board['features']}. Identity: {board['identity']}."
    notes = "".join(f" {note}." for note in board["notes"])
    return [f"{people}.{steps} Judge: {board['judge']}. {brackets} {made}{notes}"]


def _table(first: str, rows: Mapping[str, Mapping], columns: list[str], *, arrows: bool = True) -> list[str]:
    names = [f"{name}{ARROWS[column(name).better]}" if arrows else name for name in columns]
    lines = [f"| {first} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name, found in rows.items():
        cells = [cell(found.get(key) or {}) for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cell(found: Mapping[str, Any]) -> str:
    """ "0.913 [0.89, 0.93] n=800", or a dash where there is no number."""
    if found.get("value") is None:
        return "–"
    value, low, high = (_short(found[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}] n={found['n']}"


def _short(value: float | str | None) -> str:
    if value is None:
        return "?"
    if isinstance(value, str):
        return value.replace("inf", "∞")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def shown(protocol: str, wanted: tuple[str, ...]) -> list[str]:
    """The columns of the Markdown table: those asked for, else the protocol's, in the order of all."""
    names = wanted or HEADLINE[protocol]
    order = list(COLUMNS)
    return sorted(names, key=lambda name: order.index(name.partition("@")[0]))
