"""Facial action units (FACS) and the 52 ARKit face units that the renderer of EmoFaces speaks.

The correspondence is a convention, not a measurement: no ARKit unit is a validated FACS coder. Every
row therefore carries a confidence and where it comes from, and `REACHABLE` says which action units a
face driven by ARKit units can show at all. Prototypes are in `emolib.emotions.prototypes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from emolib.runtime import InputError

_UNITS = """
browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft
eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft
mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight
mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft
mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft
noseSneerRight tongueOut
"""
ARKIT = tuple(_UNITS.split())
"""The 52 face units, named and ordered as the body model `anny` orders its facial actions."""

DESCRIPTIONS = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU11": "nasolabial deepener",
    "AU12": "lip corner puller",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU18": "lip pucker",
    "AU20": "lip stretcher",
    "AU22": "lip funneler",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU27": "mouth stretch",
    "AU28": "lip suck",
    "AU43": "eyes closed",
    "AU61": "eyes turn left",
    "AU62": "eyes turn right",
    "AU63": "eyes up",
    "AU64": "eyes down",
    "AD19": "tongue show",
    "AD29": "jaw thrust",
    "AD30": "jaw sideways",
    "AD34": "cheek puff",
}
AUS = tuple(DESCRIPTIONS)
"""Action units and descriptors, the order of every `aus` vector (EmoFaces' column `aus`)."""

CONFIDENCE = {"agreed": 0.9, "disputed": 0.5, "memory": 0.4, "ours": 0.3}
"""How far a row can be trusted (ours): two public code mappings agree; they differ; from memory; ours."""


class Row(NamedTuple):
    """`au` is read as the largest of its units; `drive` is unit per AU on the way back, 0 = read only."""

    unit: str
    au: str
    drive: float
    source: str

    @property
    def confidence(self) -> float:
        return CONFIDENCE[self.source]


# Names without a side stand for Left and Right.
_TABLE = (
    ("browInnerUp", "AU1", 1.0, "agreed"),
    ("browOuterUp*", "AU2", 1.0, "agreed"),
    ("browDown*", "AU4", 1.0, "agreed"),
    ("eyeWide*", "AU5", 1.0, "agreed"),
    ("cheekSquint*", "AU6", 1.0, "agreed"),
    ("eyeSquint*", "AU7", 1.0, "agreed"),
    ("noseSneer*", "AU9", 1.0, "agreed"),
    ("mouthUpperUp*", "AU10", 1.0, "agreed"),
    ("mouthSmile*", "AU12", 1.0, "agreed"),
    ("mouthDimple*", "AU14", 1.0, "agreed"),
    ("mouthFrown*", "AU15", 1.0, "agreed"),
    ("mouthLowerDown*", "AU16", 1.0, "memory"),
    ("mouthShrugLower", "AU17", 1.0, "agreed"),
    ("mouthShrugUpper", "AU17", 0.5, "memory"),
    ("mouthPucker", "AU18", 1.0, "agreed"),
    ("mouthStretch*", "AU20", 1.0, "agreed"),
    ("mouthFunnel", "AU22", 1.0, "agreed"),
    ("mouthPress*", "AU24", 1.0, "disputed"),
    ("jawOpen", "AU26", 1.0, "agreed"),
    ("mouthRollUpper", "AU28", 1.0, "agreed"),
    ("mouthRollLower", "AU28", 1.0, "agreed"),
    ("eyeBlink*", "AU43", 1.0, "agreed"),
    ("eyeLookOutLeft", "AU61", 1.0, "memory"),
    ("eyeLookInRight", "AU61", 1.0, "memory"),
    ("eyeLookInLeft", "AU62", 1.0, "memory"),
    ("eyeLookOutRight", "AU62", 1.0, "memory"),
    ("eyeLookUp*", "AU63", 1.0, "memory"),
    ("eyeLookDown*", "AU64", 1.0, "memory"),
    ("tongueOut", "AD19", 1.0, "memory"),
    ("jawForward", "AD29", 1.0, "memory"),
    ("jawLeft", "AD30", 1.0, "memory"),
    ("jawRight", "AD30", 0.0, "memory"),
    ("cheekPuff", "AD34", 1.0, "memory"),
)
TABLE = tuple(
    Row(unit.replace("*", side), au, drive, source)
    for unit, au, drive, source in _TABLE
    for side in (("Left", "Right") if unit.endswith("*") else ("",))
)
"""The direct rows. AU23, AU25 and AU27 follow the rules in `arkit_to_aus` and `aus_to_arkit`."""

OPENING_MM = {
    "jawOpen": 34.0,
    "mouthFunnel": 13.0,
    "mouthUpperUpLeft": 2.5,
    "mouthUpperUpRight": 2.5,
    "mouthLowerDownLeft": 2.0,
    "mouthLowerDownRight": 2.0,
    "mouthClose": -34.0,
}
"""Gap between the lips per unit at full strength, measured at the midline of the MakeHuman base mesh."""

LIPS_PART_MM = 10.0
"""The gap that counts as AU25 at its maximum (ours)."""

UNMAPPED = ("mouthLeft", "mouthRight", "mouthClose")
"""Units no action unit is read from directly (mouthClose takes AU25 away again)."""

UNREACHABLE = ("AU11", "AU23")
"""Without a face unit of their own: AU11 is dropped, AU23 is drawn as AU24 (lips pressed)."""

REACHABLE = tuple(au for au in AUS if au not in UNREACHABLE)

JAW_STRETCH = 0.7
"""jawOpen above this is read as AU27 as well as AU26 (ours)."""

_U = {name: i for i, name in enumerate(ARKIT)}
_A = {name: i for i, name in enumerate(AUS)}


def _vector(values, names: tuple[str, ...], what: str) -> np.ndarray:
    """float64 (..., len(names)) from a mapping or an array; InputError names the offending entry."""
    if isinstance(values, Mapping):
        unknown = [k for k in values if k not in names]
        if unknown:
            raise InputError(f"{unknown[0]!r} is not {what}; known are {', '.join(names)}")
        out = np.zeros(len(names))
        for key, value in values.items():
            out[names.index(key)] = value
    else:
        out = np.asarray(values, dtype=np.float64)
        if out.ndim == 0 or out.shape[-1] != len(names):
            raise InputError(f"{what} vectors have {len(names)} entries, got shape {out.shape}")
    bad = ~((out >= 0) & (out <= 1 + 1e-6))
    if bad.any():
        where = np.argwhere(bad)[0]
        raise InputError(f"{names[where[-1]]} is {out[tuple(where)]:g}; {what} values lie in [0, 1]")
    return out


def _gap_mm(x: np.ndarray) -> np.ndarray:
    return sum(mm * x[..., _U[unit]] for unit, mm in OPENING_MM.items())


def arkit_to_aus(coeffs):
    """Read action units off ARKit face units.

    `coeffs`: mapping unit -> [0,1] (missing = 0), or array (..., 52) in `ARKIT` order. Returns the same
    kind: a dict of the non-zero AUs, or float64 (..., len(AUS)). A unit with two sides counts with its
    stronger side. AU25 (lips part) has no unit of its own: it is the gap that all units together open,
    `OPENING_MM`, over `LIPS_PART_MM`. AU27 is jawOpen above `JAW_STRETCH`. AU11 and AU23 are never
    read. InputError on unknown names, shapes or ranges.
    """
    x = _vector(coeffs, ARKIT, "an ARKit unit")
    out = np.zeros(x.shape[:-1] + (len(AUS),))
    for row in TABLE:
        i = _A[row.au]
        out[..., i] = np.maximum(out[..., i], x[..., _U[row.unit]])
    out[..., _A["AU25"]] = np.clip(_gap_mm(x) / LIPS_PART_MM, 0, 1)
    out[..., _A["AU27"]] = np.clip((x[..., _U["jawOpen"]] - JAW_STRETCH) / (1 - JAW_STRETCH), 0, 1)
    if isinstance(coeffs, Mapping):
        return {name: float(v) for name, v in zip(AUS, out, strict=True) if v > 0}
    return out


def aus_to_arkit(aus):
    """Drive ARKit face units from action units: the inverse of `arkit_to_aus` where one exists.

    `aus`: mapping AU -> [0,1]; a name may carry a side, `"AU14R"` = the person's right only; or array
    (..., len(AUS)) in `AUS` order. Returns a dict of the non-zero units, or float64 (..., 52).
    AU11 is dropped, AU23 presses the lips like AU24, AU27 opens the jaw beyond `JAW_STRETCH`, and the
    jaw opens a little further where AU25 asks for more gap than the other units leave. InputError on
    unknown names, shapes or ranges.
    """
    if isinstance(aus, Mapping):
        return _drive_mapping(aus)
    a = _vector(aus, AUS, "an action unit")
    x = np.zeros(a.shape[:-1] + (len(ARKIT),))
    for row in TABLE:
        u = _U[row.unit]
        x[..., u] = np.maximum(x[..., u], row.drive * a[..., _A[row.au]])
    for side in ("Left", "Right"):
        u = _U["mouthPress" + side]
        x[..., u] = np.maximum(x[..., u], a[..., _A["AU23"]])
    stretch = a[..., _A["AU27"]]
    wide = np.where(stretch > 0, JAW_STRETCH + (1 - JAW_STRETCH) * stretch, 0)
    x[..., _U["jawOpen"]] = np.maximum(x[..., _U["jawOpen"]], wide)
    missing = np.maximum(LIPS_PART_MM * a[..., _A["AU25"]] - _gap_mm(x), 0)
    x[..., _U["jawOpen"]] += missing / OPENING_MM["jawOpen"]
    return x


def _drive_mapping(aus: Mapping[str, float]) -> dict[str, float]:
    """`aus_to_arkit` for names: the two halves of the face are driven separately and joined."""
    halves = {"L": {}, "R": {}}
    for name, value in aus.items():
        base, sides = (name[:-1], name[-1]) if name[:-1] in _A and name[-1] in "LR" else (name, "LR")
        for side in sides:
            halves[side][base] = max(value, halves[side].get(base, 0.0))
    left, right = (aus_to_arkit(_vector(halves[s], AUS, "an action unit")) for s in "LR")
    out = np.maximum(left, right)
    for u, unit in enumerate(ARKIT):
        if unit.endswith("Left") and unit[:-4] + "Right" in _U and not unit.startswith(("jaw", "eyeLook")):
            out[u], out[_U[unit[:-4] + "Right"]] = left[u], right[_U[unit[:-4] + "Right"]]
    return {name: float(v) for name, v in zip(ARKIT, out, strict=True) if v > 0}
