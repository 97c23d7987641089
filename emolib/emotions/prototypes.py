"""What a face does under each emotion: FACS prototypes, with their variants and where each comes from.

People vary around prototypes (even actors do, Le Mau et al. 2021), so an emotion has several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from emolib.emotions import sets
from emolib.emotions.facs import AUS, arkit_to_aus, aus_to_arkit
from emolib.runtime import InputError, one_of

LETTERS = {"A": 0.2, "B": 0.4, "C": 0.6, "D": 0.8, "E": 1.0, "x": 0.3, "y": 0.6, "z": 1.0}
"""FACS intensity letters (A trace ... E maximum; x, y, z in the 1978 manual) as numbers (ours)."""

UNLETTERED = 0.6
"""An action unit printed without a letter counts as C, marked (ours)."""

INTENSITY = {"mild": 0.45, "basic": 1.0, "intense": 1.25}
"""Factor on a prototype for Plutchik's three intensities, clipped at 1 (ours)."""


class Prototype(NamedTuple):
    """One variant: `aus` maps AU names (a final L or R = that side only) to [0, 1]."""

    emotion: str
    aus: dict[str, float]
    source: str
    """`published`, `memory` (read once, not checked) or `ours`."""
    reference: str


_REFERENCES = {
    "EF": "Ekman & Friesen 1978, table 11-1",
    "EMFACS": "EMFACS",
    "GUIDE": "FACS Investigator's Guide, in Cohn et al. 2005",
    "OpenDBM": "OpenDBM",
    "DTM": "Du, Tao & Martinez 2014, 'awed'",
}
# Emotion -> its codes, each with the key of its reference (none: GUIDE).
_PUBLISHED = {
    "happiness": "6+12y+25 EF, 6+12 EMFACS, 12C",
    "sadness": "1+4+15 EF",
    "surprise": "1+2+5+26 EF, 1+2+5B+26 EMFACS, 1+2+5B+27, 1+2+5B, 1+2+26, 5B+26",
    "fear": "1+2+4+5+20+25 EF, 1+2+4+5+20+26 EMFACS, 1+2+4+5+7+20+26 OpenDBM, 1+2+4+5, 1+2+5z, 5+20",
    "anger": "4+5+7+24 EF, 4+5+7+23 EMFACS, 4+5+7+10+22+23+25, 4+5+7+10+23+25, 4+5+7+17+23, 4+5+7+17+24",
    "disgust": "4+10+17 EF, 9+15+16 EMFACS, 9, 9+15+16+26, 9+17, 10+17",
    "contempt": "12AR+14AR EMFACS, 12+14 OpenDBM, 14R",
}
_MEMORY = {"sadness": "1+4+11+15B, 6+15", "disgust": "10+16+25", "awe": "1+2+5+25 DTM"}
_OURS = {
    "neutral": "",
    "happiness": "6:.6 12:.8 25:.4",
    "trust": "1:.1 6:.3 12:.4",
    "fear": "1:.7 2:.5 4:.5 5:.8 7:.4 20:.6 25:.4 26:.3",
    "surprise": "1:.8 2:.8 5:.6 25:.4 26:.7",
    "sadness": "1:.7 4:.4 11:.2 15:.7 17:.4",
    "disgust": "4:.3 9:.8 10:.5 15:.3 17:.5",
    "anger": "4:.8 5:.5 7:.7 10:.3 17:.3 23:.6 24:.3",
    "anticipation": "1:.3 2:.3 5:.3 12:.2",
    "contempt": "12R:.3 14R:.6",
    "amusement": "6:.7 12:.9 25:.6 26:.3",
    "awe": "1:.6 2:.5 5:.6 25:.4 26:.4",
    "contentment": "6:.3 12:.4 43:.2",
    "excitement": "1:.3 2:.3 5:.4 6:.6 12:.9 25:.6 26:.5",
}


def _parse(code: str) -> dict[str, float]:
    """Read `"1+2+5B+14AR"`: AUs with intensities; an unlettered unit gets `UNLETTERED`."""
    parts = (re.fullmatch(r"(\d+)([A-Exyz]?)([LR]?)", part).groups() for part in code.split("+"))
    return {f"AU{unit}{side}": LETTERS.get(letter, UNLETTERED) for unit, letter, side in parts}


def _ours(code: str) -> dict[str, float]:
    return {f"AU{name}": float(value) for name, value in (part.split(":") for part in code.split())}


def _list_prototypes() -> Iterator[Prototype]:
    for emotion, code in _OURS.items():
        yield Prototype(emotion, _ours(code), "ours", "emolib")
    for source, table in (("published", _PUBLISHED), ("memory", _MEMORY)):
        for emotion, codes in table.items():
            for code, *reference in (entry.split() for entry in codes.split(",")):
                yield Prototype(emotion, _parse(code), source, _REFERENCES[(*reference, "GUIDE")[0]])


PROTOTYPES = tuple(_list_prototypes())
"""Every variant; the first of an emotion is ours, the recipe with an intensity for each unit."""

EMOTIONS = tuple(_OURS)


def variants(emotion: str) -> tuple[Prototype, ...]:
    """All prototypes of `emotion`, ours first. "joy" is "happiness" here. InputError if there is none."""
    emotion = one_of("happiness" if emotion == "joy" else emotion, EMOTIONS, "emotion with a prototype")
    return tuple(p for p in PROTOTYPES if p.emotion == emotion)


def prototype(emotion: str, strength: float | str | None = None, *, variant: int = 0) -> dict[str, float]:
    """AUs in [0, 1] for `emotion` at `strength`, a factor >= 0 or "mild" / "basic" / "intense".

    One of Plutchik's 24 labels brings its own strength ("ecstasy" is joy, intense) unless one is given.
    InputError: an unknown emotion or word, a negative strength. IndexError: no such variant.
    """
    if emotion in sets.PLUTCHIK24:
        strength = sets.intensity(emotion) if strength is None else strength
        emotion = sets.petal(emotion)
    factor = INTENSITY[one_of(strength, INTENSITY, "strength")] if isinstance(strength, str) else strength
    factor = 1.0 if factor is None else float(factor)
    if not factor >= 0:
        raise InputError(f"strength is a factor of 0 or more, got {strength}")
    return {au: min(1.0, factor * value) for au, value in variants(emotion)[variant].aus.items()}


def nearest(aus, emotions: Sequence[str] = sets.MIKELS) -> list[str]:
    """The emotion whose prototype, any variant, each action-unit vector is most similar to (cosine).

    `aus`: (N, len(AUS)), as read off a face driven by ARKit units; prototypes are passed through those
    units too, so that what they cannot show counts on neither side. A face at rest gets the first emotion.
    """
    faces = [(e, p.aus) for e in emotions for p in variants(e)]
    ideal = np.zeros((len(faces), len(AUS)))
    for row, (_, units) in zip(ideal, faces, strict=True):
        for au, value in arkit_to_aus(aus_to_arkit(units)).items():
            row[AUS.index(au)] = value
    x = np.asarray(aus, dtype=np.float64)
    ideal /= np.maximum(np.linalg.norm(ideal, axis=1, keepdims=True), 1e-12)
    return [faces[i][0] for i in (x @ ideal.T).argmax(axis=1)]
