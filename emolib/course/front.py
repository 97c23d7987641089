"""The course's front page: lessons with figure, cost and headline number, the leaderboard, edits to compare.

Like every page it loads nothing when it is opened: pictures and script are inside.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from emolib import runtime
from emolib.course import pages
from emolib.course.complaints import complaints
from emolib.evaluation import boards
from emolib.evaluation.columns import column
from emolib.evaluation.tables import Board
from emolib.metrics.estimates import Estimate

TITLE = "Emotion-driven image editing with diffusion"
INTRO = (
    "Take a picture of people, name an emotion, get the same people in the same place feeling it, and"
    " measure how well that worked. Every page is a notebook as it was run."
)
SHOWN = {
    "emo_a": "target seen",
    "same_person": "same person",
    "truth_psnr": "PSNR to the truth, dB",
    "beats_nothing": "nearer than doing nothing",
    "sharpness": "sharpness",
    "joint": "emotion, person, background",
}
SCRIPT = """
for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector("input"), pick = box.querySelector("select");
  range.oninput = () => box.style.setProperty("--cut", range.value + "%");
  pick.onchange = () => { box.querySelector(".after").src = pick.value; };
}
"""


def index(lessons: Sequence[tuple[str, nbformat.NotebookNode]], data: Path) -> str:
    """The page of `lessons`, (page file name, executed notebook) in order.

    `data` is the folder of measured numbers: NN.json of the lessons, leaderboard/ of `emolib evaluate`. What
    is not there is left out.
    """
    made = f"Run on {datetime.now():%Y-%m-%d}: {html.escape(runtime.versions_report())}"
    cards = "\n".join(_card(name, notebook, data) for name, notebook in lessons)
    parts = [f"<h1>{TITLE}</h1>\n<p>{INTRO}</p>\n<ul class='cards'>\n{cards}\n</ul>"]
    folder = data / "leaderboard"
    if (folder / boards.FILE).is_file():
        board = boards.read(folder)
        parts.append(_leaderboard(board))
        if any(boards.number(board, name, "joint") for name in _diffusion(board)):
            parts += [_answers(board, folder, data), _comparisons(board, folder)]
    body = "\n".join(part for part in parts if part)
    script = f"<script>{SCRIPT}</script>" if "class='compare'" in body else ""
    content = f"<main>\n{body}\n<footer>{made}</footer>\n</main>\n{script}"
    return pages.FRAME.format(title="emolib", style=pages.stylesheet(), body=content)


def _card(name: str, notebook: nbformat.NotebookNode, data: Path) -> str:
    failed = notebook.metadata.get("papermill", {}).get("exception")
    picture = pages.first_figure(notebook)
    state = '<span class="failed">failed</span> after ' if failed else ""
    number = headline(data / f"{name[:2]}.json")
    return (
        f'<li class="card"><a href="{html.escape(name)}">'
        + (f'<img src="{picture}" alt="">' if picture else "")
        + f"<h2>{html.escape(pages.title_of(notebook, name))}</h2><p>{state}{pages.minutes(notebook)}</p>"
        + (f"<p class='number'>{html.escape(number)}</p>" if number else "")
        + "</a></li>"
    )


def headline(file: Path) -> str | None:
    """The one number of a lesson, "name: 0.92 [0.83, 0.97], n = 64"; None if it names none.

    An end that is null, of one person's pictures alone, is a question mark."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        row = next(row for row in about["measured"] if row["name"] == about["headline"])
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    value, low, high = ("?" if row[key] is None else f"{row[key]:.3g}" for key in ("value", "low", "high"))
    return f"{row['name']}: {value} [{low}, {high}], n = {row['n']}"


def _leaderboard(board: Board) -> str:
    metrics = [name for name in SHOWN if any(boards.number(board, m, name) for m in board["methods"])]
    head = "".join(
        f"<th title='{html.escape(column(m).about, quote=True)}'>{SHOWN[m]}<small>{m}</small></th>"
        for m in metrics
    )
    spans = {metric: _span(board, metric) for metric in metrics}
    rows = []
    for method in board["methods"]:
        cells = "".join(_cell(boards.number(board, method, m), *spans[m]) for m in metrics)
        kind = " class='bound'" if method in boards.BOUNDS else ""
        rows.append(f"<tr{kind}><th scope='row'>{html.escape(method)}</th>{cells}</tr>")
    meaning = "".join(f"<li><code>{name}</code>: {html.escape(column(name).about)}</li>" for name in metrics)
    judge = html.escape(board["judge"].replace("heldout", "held-out"))
    notes = " ".join(f"{html.escape(note)}." for note in board["notes"])
    return (
        "<h2 id='leaderboard'>Leaderboard</h2>\n"
        f"<p>{board['edits']} edits of {board['groups']} people ({html.escape(board['data'])}), judged by the"
        f" {judge} judge, whom no editor consults. Bars and brackets are 95 % intervals"
        f" over people; grey rows are the bounds. {notes}</p>\n"
        f"<div class='wide'><table class='board'><thead><tr><th>method</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
        f"<details><summary>What the columns mean</summary><ul>{meaning}</ul></details>"
    )


def _diffusion(board: Board) -> list[str]:
    return [name for name in boards.editors(board) if name != "colour"]


def _span(board: Board, metric: str) -> tuple[float, float]:
    """The ends of a column's bars: 0 to 1 for shares, else what occurs."""
    if column(metric).kind == "rate" or metric in ("same_person", "joint"):
        return 0.0, 1.0
    found = [boards.number(board, method, metric) for method in board["methods"]]
    ends = [end for row in found if row for end in row[:3] if math.isfinite(end)]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _cell(found: Estimate | None, least: float, most: float) -> str:
    if found is None:
        return "<td>–</td>"
    if not math.isfinite(found.value):
        return f"<td><b>∞</b><small>n = {found.n}</small></td>"
    low, high = (end if math.isfinite(end) else found.value for end in (found.low, found.high))
    scale = 100 / (most - least or 1.0)
    left, right, at = (min(max((end - least) * scale, 0.0), 100.0) for end in (low, high, found.value))
    bar = f"<i style='left:{left:.1f}%;width:{right - left:.1f}%'></i><u style='left:{at:.1f}%'></u>"
    digits = 1 if abs(found.value) >= 10 else 2
    text = f"[{low:.{digits}f}, {high:.{digits}f}]"
    title = f"n = {found.n}"
    return f"<td title='{title}'><b>{found.value:.{digits}f}</b><small>{text}</small><span>{bar}</span></td>"


def _answers(board: Board, folder: Path, data: Path) -> str:
    several = folder / "scenes"
    scenes = boards.read(several) if (several / boards.FILE).is_file() else None
    rows = []
    for one in complaints(board, scenes, boards.tokens(data)):
        row = {key: html.escape(value) for key, value in one.row().items()}
        kind = one.verdict.replace(" ", "-")
        rows.append(
            f"<tr><th scope='row'>{row['complaint']}</th><td class='{kind}'>{row['verdict']}</td>"
            f"<td>{row['number']} ({row['whose']})</td><td>{row['bar']}</td><td>{row['measured']}</td></tr>"
        )
    return (
        "<h2>Seven old complaints</h2>\n<p>Solved: the whole interval clears the bar. Open: the value does,"
        " its interval does not.</p>\n<div class='wide'><table class='answers'><thead><tr><th>complaint</th>"
        "<th>verdict</th><th>number</th><th>bar</th><th>measured</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _comparisons(board: Board, folder: Path) -> str:
    best = boards.best(board, among=_diffusion(board))
    shown = [_compare(row, strip, best) for row, strip in boards.strips(folder)]
    if not shown:
        return ""
    return (
        "<h2>Before and after</h2>\n<p>The first edits of the run, chosen by no score. Left of the line is"
        " the source, right of it the edit; ✓ and ✗ are the held-out judge's verdict. Any editor, and the"
        f" true answer, can be chosen.</p>\n<div class='compares'>{''.join(shown)}</div>"
    )


def _compare(row: dict[str, Any], strip: dict[str, Image.Image], first: str) -> str:
    """A slider between the source and any other cell of the strip, `first` to begin with."""
    source = strip["source"]
    others = {name: picture for name, picture in strip.items() if name != "source"}
    first = first if first in others else next(iter(others))
    options = []
    for name, picture in others.items():
        hit = row["scores"].get("truth" if name == "true answer" else name, {}).get("emo_a")
        mark = "" if hit is None else (" ✓" if hit else " ✗")
        chosen = " selected" if name == first else ""
        options.append(f"<option value='{_uri(picture)}'{chosen}>{html.escape(name)}{mark}</option>")
    what = f"{row['from'] or 'as it is'} to {row['to']}"
    return (
        f"<figure class='compare'><div><img src='{_uri(source)}' alt='source, {html.escape(what)}'>"
        f"<img class='after' src='{_uri(others[first])}' alt='edit, {html.escape(what)}'></div>"
        f"<input type='range' min='0' max='100' value='50' aria-label='how much of the source is shown'>"
        f"<figcaption>{html.escape(what)} <select aria-label='editor'>{''.join(options)}</select>"
        "</figcaption></figure>"
    )


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
