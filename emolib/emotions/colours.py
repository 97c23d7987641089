"""One colour per emotion, the same in every plot of the course."""

from __future__ import annotations

from emolib.emotions import sets
from emolib.runtime import one_of

COLOURS = {
    "neutral": "#8c8c8c",
    "amusement": "#e9b12f",
    "awe": "#3ba7a0",
    "contentment": "#7fb24a",
    "excitement": "#f07f2e",
    "anger": "#c9302c",
    "disgust": "#8a56ac",
    "fear": "#2f6b4f",
    "sadness": "#3f72b8",
    "happiness": "#e9b12f",
    "surprise": "#49b3dc",
    "contempt": "#9a5a6b",
    "joy": "#f2c530",
    "trust": "#9ac44a",
    "anticipation": "#f0933a",
}
"""Labels of Mikels', Ekman's and Plutchik's basic sets; Plutchik's wheel keeps its customary hues."""

TINT = {"mild": 0.45, "basic": 0.0, "intense": -0.28}
"""How far Plutchik's shades go towards white (positive) or black (negative)."""


def rgb(colour: str) -> tuple[float, float, float]:
    """`"#rrggbb"` as three floats in [0, 1]."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def tint(colour: str, amount: float) -> str:
    """`colour` mixed with white (`amount` > 0) or black (< 0); +-1 is pure white or black."""
    mixed = [c + (1 - c) * amount if amount >= 0 else c * (1 + amount) for c in rgb(colour)]
    return "#" + "".join(f"{round(255 * c):02x}" for c in mixed)


def colour(label: str) -> str:
    """Hex colour of any label; Plutchik's shades are tints of their petal. InputError if there is none."""
    if label in COLOURS:
        return COLOURS[label]
    if label in sets.PLUTCHIK24:
        return tint(COLOURS[sets.petal(label)], TINT[sets.intensity(label)])
    if label in sets.DYADS:
        a, b = (rgb(COLOURS[x]) for x in sets.DYADS[label][:2])
        return "#" + "".join(f"{round(127.5 * (x + y)):02x}" for x, y in zip(a, b, strict=True))
    return one_of(label, [*COLOURS, *sets.PLUTCHIK24, *sets.DYADS], "emotion")


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1] (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_on(colour: str) -> str:
    """Black or white, whichever has the higher contrast on `colour`."""
    return "#000000" if luminance(colour) > 0.179 else "#ffffff"
