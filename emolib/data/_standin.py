"""What a stand-in for EmoSet-118K is made of: label lists of the real sizes, pictures, annotations."""

from __future__ import annotations

import numpy as np

from emolib.emotions.sets import MIKELS

FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise")
TENTHS = tuple(f"{i / 10:.1f}" for i in range(11))
# The real scene, object and action names stay with their authors: numbered ones take their place.
LABELS = {
    "emotion": MIKELS,
    "brightness": TENTHS,
    "colorfulness": TENTHS,
    "scene": tuple(f"scene_{i:03d}" for i in range(254)),
    "object": tuple(f"Object {i:03d}" for i in range(409)),
    "facial_expression": FACES,
    "human_action": tuple(f"action {i:03d}" for i in range(264)),
}
# How often an attribute is annotated at all: brightness and colourfulness are measured, the rest are seen
# or not.
SHARE = {"scene": 0.7, "object": 0.6, "facial_expression": 0.3, "human_action": 0.3}


def info() -> dict:
    """info.json: as in the real one, `idx2label` has string keys, and numbers for the two numeric
    attributes."""
    out = {}
    for name, labels in LABELS.items():
        numeric = labels is TENTHS
        out[name] = {
            "label2idx": {label: i for i, label in enumerate(labels)},
            "idx2label": {str(i): float(label) if numeric else label for i, label in enumerate(labels)},
        }
    return out


def pixels(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: a few soft blobs of colour over a flat ground."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    saturation = rng.uniform()
    picture = np.ones((size, size, 3)) * _colour(rng, saturation)
    for _ in range(4):
        cx, cy, width = *rng.uniform(size=2), rng.uniform(0.1, 0.3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))[..., None]
        picture = (1 - blob) * picture + blob * _colour(rng, saturation)
    return (255 * picture).round().astype(np.uint8)


def _colour(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """A random colour between grey (0) and full (1) saturation."""
    colour = rng.uniform(size=3)
    return colour.mean() + saturation * (colour - colour.mean())


def attributes(rng: np.random.Generator, picture: np.ndarray) -> dict:
    """An annotation: the two measured attributes, and those of the others that happen to be annotated."""
    values = picture / 255.0
    out = {
        "brightness": round(float(values.mean()), 1),
        "colorfulness": round(float((values.max(-1) - values.min(-1)).mean()), 1),
    }
    for name, share in SHARE.items():
        given, labels = rng.uniform() < share, LABELS[name]
        chosen = rng.choice(len(labels), size=int(rng.integers(1, 4)), replace=False)
        if given:
            out[name] = [labels[i] for i in chosen] if name == "object" else labels[chosen[0]]
    return out
