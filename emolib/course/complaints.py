"""The seven old complaints about emotion editing, each with the number that says whether it is solved here.

A bar is fixed before the number is looked at. "solved": the whole 95 % interval clears it; "not solved": the
value does not; "open": the value does, its interval does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emolib.evaluation import boards
from emolib.evaluation.tables import Board
from emolib.metrics.estimates import Estimate

FAR = ("180", "135")  # degrees on Mikels' wheel: the opposite emotion, or its neighbour


@dataclass(frozen=True)
class Complaint:
    """What is said, the `measure` that would settle it with its bar, whose number it is, and the number."""

    text: str
    measure: str
    least: float
    whose: str
    found: Estimate | None
    most: float = float("inf")

    @property
    def verdict(self) -> str:
        """ "solved", "open", "not solved" or "not measured"."""
        if self.found is None:
            return "not measured"
        if not self.least <= self.found.value <= self.most:
            return "not solved"
        return "solved" if self.least <= self.found.low and self.found.high <= self.most else "open"

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.most == float("inf"):
            return f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"

    def row(self) -> dict[str, str]:
        """As a row of a table to read."""
        return {
            "complaint": self.text,
            "number": self.measure,
            "bar": self.bar,
            "whose": self.whose,
            "measured": "-" if self.found is None else str(self.found),
            "verdict": self.verdict,
        }


def complaints(
    board: Board, scenes: Board | None = None, tokens: Mapping[str, Estimate] | None = None
) -> list[Complaint]:
    """All seven. `board` is of portraits, `scenes` of several people, `tokens` those of `boards.tokens`.

    Most are asked of the diffusion editor with the most joint successes.
    """
    contestants = [name for name in boards.editors(board) if name != "colour"]
    best = boards.best(board, among=contestants)

    def of(metric: str, **part: str) -> Estimate | None:
        return boards.number(board, best, metric, **part)

    far = next((d for d in FAR if of("joint", distance=d) is not None), FAR[0])
    several, whose = None, "-"
    if scenes is not None:
        whose = boards.best(scenes)  # by joint success: somebody else's face may feel anything
        several = boards.number(scenes, whose, "all_faces")
    asyrp = boards.number(board, "asyrp", "emo_s") if "asyrp" in board["methods"] else None
    new = (tokens or {}).get(boards.SURPRISE)
    same = "edits in which identity says the same person"
    kept = "share of Emo-S left when the source's colours are put back"
    asked = "scenes in which every person asked shows the target"
    opposite = f"joint success at {far} degrees on the emotion wheel"
    learned = "a feeling the model never met, learned from 16 people: recognised"
    fitted = "Emo-S of directions fitted with one command"
    return [
        Complaint("starts from noise, not from the picture", same, 0.9, best, of("same_person")),
        Complaint("only the colour changes", kept, 0.7, best, of("emo_s_kept")),
        Complaint("blurs", "sharpness, edit over source", 0.9, best, of("sharpness"), 1.1),
        Complaint("fails with several people", asked, 0.6, whose, several),
        Complaint("strong changes distort", opposite, 0.5, best, of("joint", distance=far)),
        Complaint("custom data is an effort", learned, 0.6, "<surprise>", new),
        Complaint("Asyrp cannot be reproduced", fitted, 0.3, "asyrp", asyrp),
    ]
