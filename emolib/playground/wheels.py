"""The wheel of emotions as data: which emotion lies in which direction. No torch.

The angle says which emotion, the distance from the middle how strong.
"""

from __future__ import annotations

from emolib.emotions import colours, sets, spaces, words
from emolib.runtime import InputError

WHEELS = {"mikels": sets.MIKELS, "plutchik": sets.PLUTCHIK8}


def petals(name: str, model: str) -> list[dict[str, object]]:
    """The petals of the wheel called `name`: label, angle (degrees clockwise from the top), colour, ink for
    text on it, and `means`: the emotion `model` is asked for, None where it has no single one."""
    return [
        {
            "label": label,
            "angle": spaces.angle(label, name),
            "colour": colours.colour(label),
            "ink": colours.text_on(colours.colour(label)),
            "means": meaning(label, model),
        }
        for label in WHEELS[name]
    ]


def meaning(label: str, model: str) -> str | None:
    """What `model` is asked for: MiniSD knows EmoFaces' nine emotions, other models read any word."""
    if model != "minisd" and label in words.ADJECTIVES:
        return label
    try:
        return words.resolve(label, "emofaces")
    except InputError:
        return None
