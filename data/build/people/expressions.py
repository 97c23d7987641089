"""Emotions as settings of face units: prototypes with variants and intensity.

After FACS (Ekman & Friesen); `emolib.emotions.facs` relates the units to action units.

Two or three units at 0.8 read weakly in a small picture, so each variant engages six to ten, most of them
near full strength. They follow the manuals, adjusted by eye and by judges of real faces, on train people.
A trailing "*" sets the left and the right unit. Values are the setting at intensity 1.
"""

from __future__ import annotations

import numpy as np

PROTOTYPES: dict[str, list[dict[str, float]]] = {
    "neutral": [{}],
    "amusement": [
        {"mouthSmile*": 1, "cheekSquint*": 0.9, "eyeSquint*": 0.8, "mouthUpperUp*": 0.6, "mouthStretch*": 0.5,
         "jawOpen": 0.3, "mouthDimple*": 0.4, "mouthLowerDown*": 0.3},
        {"mouthSmile*": 1, "cheekSquint*": 0.85, "eyeSquint*": 0.8, "mouthUpperUp*": 0.6,
         "mouthStretch*": 0.45, "jawOpen": 0.2, "mouthDimple*": 0.45, "mouthLowerDown*": 0.3},
        {"mouthSmile*": 1, "cheekSquint*": 0.8, "eyeSquint*": 0.8, "mouthUpperUp*": 0.6, "mouthStretch*": 0.4,
         "jawOpen": 0.12, "mouthDimple*": 0.5, "mouthLowerDown*": 0.3},
    ],
    "awe": [
        {"browInnerUp": 1, "browOuterUp*": 1, "eyeWide*": 0.9, "eyeLookUp*": 0.25, "jawOpen": 0.6,
         "mouthFunnel": 0.3},
        {"browInnerUp": 1, "browOuterUp*": 1, "eyeWide*": 0.9, "eyeLookUp*": 0.35, "jawOpen": 0.55,
         "mouthFunnel": 0.1, "mouthSmile*": 0.1},
    ],
    "contentment": [
        {"mouthSmile*": 1, "cheekSquint*": 0.75, "eyeSquint*": 0.6, "mouthDimple*": 0.5, "mouthStretch*": 0.4,
         "mouthUpperUp*": 0.5, "eyeBlink*": 0.05},
        {"mouthSmile*": 1, "cheekSquint*": 0.7, "eyeSquint*": 0.6, "mouthDimple*": 0.4, "mouthStretch*": 0.4,
         "mouthUpperUp*": 0.5, "eyeBlink*": 0.1},
    ],
    "excitement": [
        {"mouthSmile*": 1, "eyeWide*": 0.35, "browOuterUp*": 0.45, "browInnerUp": 0.25, "jawOpen": 0.35,
         "mouthUpperUp*": 0.6, "mouthLowerDown*": 0.4, "cheekSquint*": 0.8, "mouthStretch*": 0.5},
        {"mouthSmile*": 1, "eyeWide*": 0.35, "browOuterUp*": 0.55, "browInnerUp": 0.3, "jawOpen": 0.15,
         "mouthUpperUp*": 0.8, "mouthLowerDown*": 0.5, "cheekSquint*": 0.7, "mouthStretch*": 0.5,
         "mouthDimple*": 0.3},
    ],
    "anger": [
        {"browDown*": 1, "eyeWide*": 0.25, "eyeSquint*": 0.7, "noseSneer*": 0.55, "cheekSquint*": 0.1,
         "mouthPress*": 1, "mouthRollUpper": 0.4, "mouthRollLower": 0.4, "mouthFrown*": 0.4,
         "mouthShrugLower": 0.7},
        {"browDown*": 1, "eyeWide*": 0.25, "eyeSquint*": 0.6, "noseSneer*": 0.55, "cheekSquint*": 0.1,
         "mouthPress*": 1, "mouthRollUpper": 0.4, "mouthRollLower": 0.4, "mouthFrown*": 0.35,
         "mouthShrugLower": 0.6},
    ],
    "disgust": [
        {"noseSneer*": 1, "mouthUpperUp*": 1, "cheekSquint*": 0.6, "eyeSquint*": 0.7, "mouthFrown*": 0.5,
         "mouthShrugLower": 0.5, "mouthLowerDown*": 0.3, "browInnerUp": 0.2, "eyeBlink*": 0.15},
        {"noseSneer*": 1, "mouthUpperUp*": 1, "cheekSquint*": 0.6, "eyeSquint*": 0.9, "mouthFrown*": 0.5,
         "browDown*": 0.3, "jawOpen": 0.15, "mouthLowerDown*": 0.5, "mouthStretch*": 0.3, "eyeBlink*": 0.2},
        {"noseSneer*": 1, "mouthUpperUp*": 1, "cheekSquint*": 0.6, "eyeSquint*": 0.6, "mouthFrown*": 0.5,
         "browDown*": 0.1, "jawOpen": 0.25, "tongueOut": 1, "mouthLowerDown*": 0.5, "eyeBlink*": 0.15},
    ],
    "fear": [
        {"browInnerUp": 1, "browOuterUp*": 0.2, "browDown*": 0.4, "eyeWide*": 1, "mouthStretch*": 1,
         "mouthLowerDown*": 0.8, "mouthFrown*": 0.3, "jawOpen": 0.1},
        {"browInnerUp": 1, "browOuterUp*": 0.2, "browDown*": 0.4, "eyeWide*": 1, "mouthStretch*": 1,
         "mouthLowerDown*": 1, "mouthUpperUp*": 0.5, "jawOpen": 0.25, "mouthFrown*": 0.3},
    ],
    "sadness": [
        {"browInnerUp": 1, "mouthFrown*": 1, "mouthShrugLower": 0.5, "browDown*": 0.25, "eyeLookDown*": 0.7,
         "eyeBlink*": 0.15, "mouthLowerDown*": 0.3},
        {"browInnerUp": 1, "mouthFrown*": 1, "mouthShrugLower": 0.6, "browDown*": 0.2, "eyeLookDown*": 0.4,
         "eyeBlink*": 0.2, "mouthLowerDown*": 0.2},
    ],
    "surprise": [
        {"browInnerUp": 1, "browOuterUp*": 1, "eyeWide*": 1, "jawOpen": 0.8, "mouthFunnel": 0.25},
        {"browInnerUp": 0.9, "browOuterUp*": 1, "eyeWide*": 0.9, "jawOpen": 0.6, "mouthFunnel": 0.6},
    ],
    "contempt": [
        {"mouthSmileLeft": 0.9, "mouthDimpleLeft": 1, "cheekSquintLeft": 0.5, "mouthPress*": 0.5,
         "eyeBlink*": 0.25, "browOuterUpLeft": 0.5, "mouthLeft": 0.3},
        {"mouthSmileRight": 0.9, "mouthDimpleRight": 1, "cheekSquintRight": 0.5, "mouthPress*": 0.5,
         "eyeBlink*": 0.3, "browOuterUpRight": 0.5, "mouthRight": 0.3, "mouthUpperUpRight": 0.3},
    ],
}  # fmt: skip

# How far a unit at 1 moves the mesh. MakeHuman's brow and frown targets stop short of what faces do, so they
# are pushed further; the recorded unit stays in [0, 1].
GAIN = {
    "browDownLeft": 2.0, "browDownRight": 2.0, "browInnerUp": 1.8,
    "mouthFrownLeft": 1.5, "mouthFrownRight": 1.5, "noseSneerLeft": 1.5, "noseSneerRight": 1.5,
    "mouthStretchLeft": 1.4, "mouthStretchRight": 1.4, "mouthSmileLeft": 1.15, "mouthSmileRight": 1.15,
    "mouthUpperUpLeft": 1.2, "mouthUpperUpRight": 1.2, "mouthLowerDownLeft": 1.3, "mouthLowerDownRight": 1.3,
    "eyeSquintLeft": 1.2, "eyeSquintRight": 1.2,
    "browOuterUpLeft": 1.3, "browOuterUpRight": 1.3, "eyeWideLeft": 1.5, "eyeWideRight": 1.5,
}  # fmt: skip

# How the head is held beyond the person's own way, degrees at intensity 1: pitch (up), and how much yaw,
# pitch and roll vary. Sadness sinks, awe looks up, anger lowers its brow, disgust turns away.
POSES: dict[str, tuple[float, tuple[float, float, float]]] = {
    "neutral": (0.0, (0.7, 0.7, 0.5)), "amusement": (3.0, (1.5, 2.0, 2.5)), "awe": (5.0, (1.0, 2.0, 1.0)),
    "contentment": (1.0, (1.5, 1.5, 2.0)), "excitement": (2.0, (1.5, 2.0, 1.5)),
    "anger": (-1.5, (1.5, 1.5, 1.0)), "disgust": (1.5, (3.5, 2.0, 2.5)), "fear": (1.5, (2.0, 2.0, 1.0)),
    "sadness": (-6.0, (2.0, 2.0, 2.5)), "surprise": (2.0, (1.0, 1.5, 1.0)),
    "contempt": (3.0, (2.0, 1.5, 2.5)),
}  # fmt: skip


def sample_pose(rng: np.random.Generator, emotion: str, intensity: float) -> tuple[float, float, float]:
    """How the head is turned for an expression of this intensity: yaw, pitch, roll in degrees, at most 12."""
    pitch, spread = POSES[emotion]
    strength = intensity if emotion != "neutral" else 1.0
    turn = np.array([0.0, pitch, 0.0]) * strength + rng.normal(0, 1, 3) * spread
    return tuple(float(angle) for angle in np.clip(turn, -12, 12))


def geometry(units: dict[str, float]) -> dict[str, float]:
    """Recorded units -> weights of the mesh's targets."""
    return {name: value * GAIN.get(name, 1.0) for name, value in units.items()}


def expand(units: dict[str, float]) -> dict[str, float]:
    """{"browDown*": 1} -> {"browDownLeft": 1, "browDownRight": 1}."""
    full: dict[str, float] = {}
    for name, value in units.items():
        names = (name[:-1] + "Left", name[:-1] + "Right") if name.endswith("*") else (name,)
        full.update(dict.fromkeys(names, float(value)))
    return full


def sample(rng: np.random.Generator, emotion: str) -> tuple[dict[str, float], float, str]:
    """One expression -> (face units in [0, 1], intensity in [0, 1], variant name).

    Intensity is 0.7-1.0 with a median of about 0.89; every unit varies by about 10 % and sides by about 6 %.
    Neutral faces have brows a little lower and lids a little closer than the body model's at rest, which look
    surprised.
    """
    if emotion == "neutral":
        rest = {"browDown*": rng.uniform(0.08, 0.2), "eyeSquint*": rng.uniform(0.05, 0.15)}
        return expand(rest), 0.0, "neutral-0"
    variant = int(rng.integers(len(PROTOTYPES[emotion])))
    intensity = float(0.7 + 0.3 * rng.beta(2.2, 1.4))
    units = {}
    for name, value in PROTOTYPES[emotion][variant].items():
        common = rng.normal(1, 0.10)
        for side, full in expand({name: value}).items():
            units[side] = float(np.clip(full * intensity * common * rng.normal(1, 0.06), 0, 1))
    return units, intensity, f"{emotion}-{variant}"
