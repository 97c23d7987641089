"""The course's front page: lessons with figure, cost and headline number, the leaderboard, edits to compare.

Like every page it loads nothing when it is opened: pictures and script are inside. `front.html` lays it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from emolib import runtime
from emolib.course import pages
from emolib.course.complaints import complaints, read_headline, read_learned
from emolib.evaluation.board import (
    FILE,
    UNEDITED,
    Board,
    find_best,
    get_number,
    list_editors,
    read_board,
    read_examples,
)
from emolib.evaluation.columns import get_column
from emolib.images import data_uri, encode_webp
from emolib.metrics.estimates import Estimate

COLUMNS = {
    "emo_a": "target seen",
    "same_person": "same person",
    "truth_psnr": "PSNR to the truth, dB",
    "beats_nothing": "nearer than doing nothing",
    "sharpness": "sharpness",
    "joint": "emotion, person, background",
}
"""Columns of the leaderboard that the front page shows, and their headings there."""


def render_front(lessons: Sequence[tuple[str, nbformat.NotebookNode]], data: Path) -> str:
    """Write the page of `lessons`, (page file name, executed notebook) in order.

    `data` is the folder of measured numbers: NN.json of the lessons, leaderboard/ of `emolib evaluate`.
    Without a leaderboard there, or one of editors, the page has no such part.
    """
    board, answers, comparisons = _read_board(data / "leaderboard"), [], []
    diffusion = [name for name in list_editors(board) if name != "colour"] if board else []
    if any(get_number(board, name, "joint") for name in diffusion):
        scenes = _read_board(data / "leaderboard" / "scenes")
        answers = complaints(board, scenes, read_learned(data))
        best = find_best(board, among=diffusion)
        comparisons = [_comparison(*example, best) for example in read_examples(data / "leaderboard")]
    return pages.TEMPLATES.get_template("front.html").render(
        title="emolib",
        style=pages.build_style(),
        lessons=[_card(name, notebook, data) for name, notebook in lessons],
        board=board,
        columns=_columns(board) if board else [],
        bounds=UNEDITED,
        answers=answers,
        comparisons=comparisons,
        made=f"Run on {datetime.now():%Y-%m-%d}: {runtime.versions_report()}",
    )


def _read_board(folder: Path) -> Board | None:
    return read_board(folder) if (folder / FILE).is_file() else None


def _card(name: str, notebook: nbformat.NotebookNode, data: Path) -> dict[str, Any]:
    """What the page says of one lesson."""
    return {
        "page": name,
        "title": pages.find_title(notebook, name),
        "picture": pages.find_cover(notebook),
        "failed": bool(notebook.metadata.get("papermill", {}).get("exception")),
        "minutes": pages.describe_cost(notebook),
        "number": describe_headline(data / f"{name[:2]}.json"),
    }


def describe_headline(file: Path) -> str | None:
    """Write a lesson's headline number as "name: 0.92 [0.83, 0.97], n = 64"; None if it names none.

    An unknown end of the interval is a question mark."""
    named = read_headline(file)
    if named is None:
        return None
    name, estimate = named
    value, low, high = ("?" if math.isnan(number) else f"{number:.3g}" for number in estimate[:3])
    return f"{name}: {value} [{low}, {high}], n = {estimate.n}"


def _columns(board: Board) -> list[dict[str, Any]]:
    """The leaderboard's columns: heading, name, meaning, and a cell for every method that was measured."""
    columns = []
    for name, heading in COLUMNS.items():
        estimates = {method: get_number(board, method, name) for method in board["methods"]}
        ends = [end for row in estimates.values() if row for end in row[:3] if math.isfinite(end)]
        share = get_column(name).kind == "rate" or name in ("same_person", "joint")
        span = (0.0, 1.0) if share or not ends else (min(ends), max(ends))
        cells = {method: _cell(row, *span) for method, row in estimates.items() if row}
        if cells:
            columns.append(
                {"name": name, "heading": heading, "about": get_column(name).about, "cells": cells}
            )
    return columns


def _cell(estimate: Estimate, least: float, most: float) -> dict[str, Any]:
    """An estimate as text, and as a bar on a scale from `least` to `most`, in percent of its width."""
    if not math.isfinite(estimate.value):
        return {"n": estimate.n, "value": "∞"}
    low, high = (end if math.isfinite(end) else estimate.value for end in (estimate.low, estimate.high))
    scale = 100 / (most - least or 1.0)
    left, right, at = (min(max((x - least) * scale, 0), 100) for x in (low, high, estimate.value))
    digits = 1 if abs(estimate.value) >= 10 else 2
    return {
        "n": estimate.n,
        "value": f"{estimate.value:.{digits}f}",
        "interval": f"[{low:.{digits}f}, {high:.{digits}f}]",
        "left": f"{left:.1f}%",
        "width": f"{right - left:.1f}%",
        "at": f"{at:.1f}%",
    }


def _comparison(row: dict[str, Any], strip: dict[str, Image.Image], first: str) -> dict[str, Any]:
    """A source with all its edits, `first` chosen to begin with; ticks are the held-out judge's verdict."""
    pictures = {name: data_uri(encode_webp(picture, 90)) for name, picture in strip.items()}
    source = pictures.pop("source")
    verdicts = {name: row["scores"].get(name.replace("true answer", "truth"), {}) for name in pictures}
    ticks = {None: "", 1: " ✓", 0: " ✗"}
    return {
        "change": f"{row['from'] or 'as it is'} to {row['to']}",
        "source": source,
        "chosen": first if first in pictures else next(iter(pictures)),
        "edits": {name: (uri, ticks[verdicts[name].get("emo_a")]) for name, uri in pictures.items()},
    }
