"""Facial action units (FACS) and the 52 ARKit face units that the renderer of EmoFaces speaks.

The correspondence is a convention, not a measurement: no ARKit unit is a validated FACS coder. Every
row therefore says where it comes from, and `REACHABLE` says which action units a
face driven by ARKit units can show at all. Prototypes are in `emolib.emotions.prototypes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from emolib.runtime import InputError, one_of

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

_DESCRIPTIONS = """
AU1 inner brow raiser, AU2 outer brow raiser, AU4 brow lowerer, AU5 upper lid raiser, AU6 cheek raiser,
AU7 lid tightener, AU9 nose wrinkler, AU10 upper lip raiser, AU11 nasolabial deepener,
AU12 lip corner puller, AU14 dimpler, AU15 lip corner depressor, AU16 lower lip depressor,
AU17 chin raiser, AU18 lip pucker, AU20 lip stretcher, AU22 lip funneler, AU23 lip tightener,
AU24 lip pressor, AU25 lips part, AU26 jaw drop, AU27 mouth stretch, AU28 lip suck, AU43 eyes closed,
AU61 eyes turn left, AU62 eyes turn right, AU63 eyes up, AU64 eyes down, AD19 tongue show,
AD29 jaw thrust, AD30 jaw sideways, AD34 cheek puff
"""
DESCRIPTIONS = dict(entry.strip().split(" ", 1) for entry in _DESCRIPTIONS.split(","))
AUS = tuple(DESCRIPTIONS)
"""Action units and descriptors, the order of every `aus` vector (EmoFaces' column `aus`)."""


class Row(NamedTuple):
    """`au` is read as the largest of its units; `drive` is unit per AU on the way back, 0 = read only.

    `source`: "agreed" (two public code mappings say so), "disputed" (they differ) or "memory".
    """

    unit: str
    au: str
    drive: float
    source: str


# Unit, action unit and, where it is not 1, the drive. A star stands for Left and Right.
_TABLE = {
    "agreed": """
browInnerUp AU1, browOuterUp* AU2, browDown* AU4, eyeWide* AU5, cheekSquint* AU6, eyeSquint* AU7,
noseSneer* AU9, mouthUpperUp* AU10, mouthSmile* AU12, mouthDimple* AU14, mouthFrown* AU15,
mouthShrugLower AU17, mouthPucker AU18, mouthStretch* AU20, mouthFunnel AU22, jawOpen AU26,
mouthRollUpper AU28, mouthRollLower AU28, eyeBlink* AU43
""",
    "memory": """
mouthLowerDown* AU16, mouthShrugUpper AU17 0.5, eyeLookOutLeft AU61, eyeLookInRight AU61,
eyeLookInLeft AU62, eyeLookOutRight AU62, eyeLookUp* AU63, eyeLookDown* AU64, tongueOut AD19,
jawForward AD29, jawLeft AD30, jawRight AD30 0.0, cheekPuff AD34
""",
    "disputed": """
mouthPress* AU24
""",
}


def _read_table() -> Iterator[Row]:
    for source, text in _TABLE.items():
        for entry in text.split(","):
            unit, au, *drive = entry.split()
            for side in ("Left", "Right") if unit.endswith("*") else ("",):
                yield Row(unit.removesuffix("*") + side, au, float(*drive or (1,)), source)


TABLE = tuple(_read_table())
"""The direct rows. AU23, AU25 and AU27 follow the rules in `arkit_to_aus` and `aus_to_arkit`."""

OPENING_MM = {"jawOpen": 34.0, "mouthFunnel": 13.0, "mouthUpperUpLeft": 2.5, "mouthUpperUpRight": 2.5}
OPENING_MM |= {"mouthLowerDownLeft": 2.0, "mouthLowerDownRight": 2.0, "mouthClose": -34.0}
"""Gap between the lips per unit at full strength, measured at the midline of the MakeHuman base mesh."""

LIPS_PART_MM = 10.0
"""The gap that counts as AU25 at its maximum (ours)."""

UNREACHABLE = ("AU11", "AU23")
"""Without a face unit of their own: AU11 is dropped, AU23 is drawn as AU24 (lips pressed)."""

REACHABLE = tuple(au for au in AUS if au not in UNREACHABLE)

JAW_STRETCH = 0.7
"""jawOpen above this is read as AU27 as well as AU26 (ours)."""

_U = {name: i for i, name in enumerate(ARKIT)}
_A = {name: i for i, name in enumerate(AUS)}


def _vector(values, names: tuple[str, ...], what: str) -> np.ndarray:
    """Make float64 (..., len(names)) of a mapping or an array. InputError names the offending entry."""
    if isinstance(values, Mapping):
        values = {one_of(name, names, what): value for name, value in values.items()}
        values = [values.get(name, 0.0) for name in names]
    out = np.asarray(values, dtype=np.float64)
    if out.shape[-1:] != (len(names),):
        raise InputError(f"{what} vectors have {len(names)} entries, got shape {out.shape}")
    bad = np.argwhere(~((out >= 0) & (out <= 1 + 1e-6)))
    for place in bad[:1]:
        raise InputError(f"{names[place[-1]]} is {out[tuple(place)]:g}; {what} values lie in [0, 1]")
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
    x = _vector(coeffs, ARKIT, "ARKit unit")
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
    a = _vector(aus, AUS, "action unit")
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
    left, right = (aus_to_arkit(_vector(halves[s], AUS, "action unit")) for s in "LR")
    out = np.maximum(left, right)
    for u, unit in enumerate(ARKIT):
        if unit.endswith("Left") and unit[:-4] + "Right" in _U and not unit.startswith(("jaw", "eyeLook")):
            out[u], out[_U[unit[:-4] + "Right"]] = left[u], right[_U[unit[:-4] + "Right"]]
    return {name: float(v) for name, v in zip(ARKIT, out, strict=True) if v > 0}
