"""A written leaderboard read back: its numbers as estimates, its example strips as pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from emolib.evaluation import tables
from emolib.evaluation.tables import Board
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError, one_of

FILE = "leaderboard.json"
BOUNDS = ("nothing", "truth")


def read(folder: Path) -> Board:
    """The board in `folder`, as `emolib evaluate` wrote it. InputError: none there, or broken."""
    file = Path(folder) / FILE
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no leaderboard there; make one with `make leaderboard` or `emolib evaluate`"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: not readable ({error}); make it again with `emolib evaluate`") from None


def number(board: Board, method: str, metric: str, **part: str) -> Estimate | None:
    """A method's number with n and interval; `distance="180"` and the like name a part. None: not measured.

    InputError for a method that is not on the board.
    """
    found = board["methods"][one_of(method, board["methods"], "method")]
    numbers = found["all"]
    for kind, value in part.items():
        numbers = found["by"].get(kind, {}).get(value, {})
    row = numbers.get(metric)
    if row is None or row["value"] is None:
        return None
    return Estimate(
        *(float("nan" if row[key] is None else row[key]) for key in ("value", "low", "high")), row["n"]
    )


def numbers(board: Board, metrics: Sequence[str]) -> dict[str, dict[str, Estimate | None]]:
    """{metric: {method: number}}, as `figures.leaderboard.panels` takes it."""
    return {name: {method: number(board, method, name) for method in board["methods"]} for name in metrics}


def by(board: Board, method: str, metric: str, kind: str) -> dict[str, Estimate | None]:
    """The number in every part of a breakdown ("target", "distance"), in order; without it {"all": ...}."""
    parts = board["methods"][method]["by"].get(kind, {})
    if not parts:
        return {"all": number(board, method, metric)}
    return {part: number(board, method, metric, **{kind: part}) for part in parts}


def editors(board: Board) -> list[str]:
    """The methods that edit: all but doing nothing and the true answer, in the board's order."""
    return [name for name in board["methods"] if name not in BOUNDS]


def best(board: Board, metric: str = "joint", among: Sequence[str] = ()) -> str:
    """The editor with the highest `metric`, the first of equals. InputError if nobody was measured.

    Chosen on the people it is then shown for, so that its numbers flatter a little.
    """
    known = {name: number(board, name, metric) for name in among or editors(board)}
    known = {name: found.value for name, found in known.items() if found is not None}
    if not known:
        raise InputError(f"no editor of this board has a number for {metric!r}")
    return max(known, key=known.__getitem__)


def frame(board: Board, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Methods down, metrics (default the board's own) across, "value [low, high]" in the cells; n apart."""
    names = list(metrics or board["metrics"])
    rows = {
        method: {name: tables.cell(found["all"].get(name) or {}).partition(" n=")[0] for name in names}
        for method, found in board["methods"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def strips(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Image.Image]]]:
    """(what is known of it, {"source": picture, "true answer": ..., METHOD: ...}) of every example."""
    file = Path(folder) / tables.EXAMPLES
    if not file.is_file():
        return
    for row in json.loads(file.read_text(encoding="utf-8"))["examples"]:
        width, height = row["size"]
        with Image.open(Path(folder) / row["file"]) as opened:
            sheet = opened.convert("RGB")
        places = [(i * width, 0, (i + 1) * width, height) for i in range(len(row["cells"]))]
        yield row, {name: sheet.crop(box) for name, box in zip(row["cells"], places, strict=True)}
