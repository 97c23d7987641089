"""The seven old complaints about emotion editing, each with the number that says whether it is solved here.

A bar is fixed before the number is looked at. "solved": the whole 95 % interval clears it; "not solved": the
value does not; "open": the value does, its interval does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emolib.evaluation.board import Board, find_best, get_number, list_editors
from emolib.metrics.estimates import Estimate
from emolib.runtime import read_json

FAR = ("180", "135")  # degrees on Mikels' wheel: the opposite emotion, or its neighbour


@dataclass(frozen=True)
class Complaint:
    """A complaint, the `measure` that would settle it, the bar from `least` to `most`, and the `estimate` of
    `method`, an editor or token."""

    text: str
    measure: str
    least: float
    method: str
    estimate: Estimate | None
    most: float = float("inf")

    @property
    def verdict(self) -> str:
        """ "solved", "open", "not solved" or "not measured"."""
        if self.estimate is None:
            return "not measured"
        if not self.least <= self.estimate.value <= self.most:
            return "not solved"
        return "solved" if self.least <= self.estimate.low and self.estimate.high <= self.most else "open"

    @property
    def bar(self) -> str:
        """The bar in words."""
        return f"at least {self.least:g}" if self.most == float("inf") else f"{self.least:g} to {self.most:g}"

    def row(self) -> dict[str, str]:
        """The complaint as a row of a table to read."""
        return {
            "complaint": self.text,
            "number": self.measure,
            "bar": self.bar,
            "whose": self.method,
            "measured": "-" if self.estimate is None else str(self.estimate),
            "verdict": self.verdict,
        }


def complaints(board: Board, scenes: Board | None = None, learned: Estimate | None = None) -> list[Complaint]:
    """Answer all seven from a `board` of portraits, one of `scenes`, and `learned` (see `read_learned`).

    Most are asked of the diffusion editor with the most joint successes.
    """
    best = find_best(board, among=[name for name in list_editors(board) if name != "colour"])

    def measured(metric: str, **part: str) -> Estimate | None:
        return get_number(board, best, metric, **part)

    far = next((d for d in FAR if measured("joint", distance=d) is not None), FAR[0])
    opposite = f"joint success at {far} degrees on the emotion wheel"
    group, everyone = "-", None
    if scenes is not None:
        group = find_best(scenes)  # by joint success: somebody else's face may feel anything
        everyone = get_number(scenes, group, "all_faces")
    fitted = get_number(board, "asyrp", "emo_s") if "asyrp" in board["methods"] else None
    kept = "share of Emo-S left when the source's colours are put back"
    asked = "scenes in which every person asked shows the target"
    command = "Emo-S of directions fitted with one command"
    new = "a feeling the model never met, learned from 16 people: recognised"
    same = "edits in which identity says the same person"
    return [
        Complaint("starts from noise, not from the picture", same, 0.9, best, measured("same_person")),
        Complaint("only the colour changes", kept, 0.7, best, measured("emo_s_kept")),
        Complaint("blurs", "sharpness, edit over source", 0.9, best, measured("sharpness"), 1.1),
        Complaint("fails with several people", asked, 0.6, group, everyone),
        Complaint("strong changes distort", opposite, 0.5, best, measured("joint", distance=far)),
        Complaint("custom data is an effort", new, 0.6, "<surprise>", learned),
        Complaint("Asyrp cannot be reproduced", command, 0.3, "asyrp", fitted),
    ]


def read_headline(file: Path) -> tuple[str, Estimate] | None:
    """Read the number that a lesson's file NN.json calls its headline: (name, number).

    None without a file or without a headline. An end that is null, of one person's pictures alone, is NaN.
    InputError: no JSON."""
    if not file.is_file():
        return None
    report = read_json(file)
    rows = {row["name"]: row for row in report["measured"]}
    if "headline" not in report:
        return None
    row = rows[report["headline"]]
    low, high = (float("nan") if row[end] is None else row[end] for end in ("low", "high"))
    return row["name"], Estimate(row["value"], low, high, row["n"])


def read_learned(data: Path) -> Estimate | None:
    """Read how often a learned feeling is recognised, from the folder of measured numbers (reports/data).

    From the many pictures of `benchmarks/tokens.py` if that has run, else it is the headline of lesson 02."""
    if (data / "tokens.json").is_file():
        return Estimate(**read_json(data / "tokens.json")["new"]["surprise"]["recognised"]["token"])
    headline = read_headline(data / "02.json")
    return headline[1] if headline else None
