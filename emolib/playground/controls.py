"""What the controls say, as plain values, and the recipe it means; the wheel of emotions. No widget.

`ask` is a dictionary, as it comes from the page:

picture   a name (`pictures.open_named`, or an upload's)
person    which person the controls speak of
wishes    one {"emotion": label or None, "strength": [0, 1], "description"?} for each person
method, model, seed, wheel   as their controls say; `via`: stage the change through neutral
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from emolib.diffusion.presets import DEFAULT_METHOD, DEFAULT_MODEL, find_preset, is_known
from emolib.editors import METHODS as EDITORS
from emolib.editors.person import Person
from emolib.editors.recipe import Recipe
from emolib.emotions import colours, sets, spaces
from emolib.playground.pictures import Picture
from emolib.runtime import InputError, in_range, one_of

METHODS = tuple(name for name in EDITORS if name not in ("null-text", "ledits++", "asyrp"))
"""Those that need neither gradients nor a file of their own, and ask the network through the backbone."""
STRENGTHS = tuple(round(0.05 * i, 2) for i in range(21))
WHEELS = {"mikels": sets.MIKELS, "plutchik": sets.PLUTCHIK8}


def first_ask(
    picture: str, method: str = DEFAULT_METHOD, model: str = DEFAULT_MODEL, seed: int = 0
) -> dict[str, Any]:
    """Make the controls as they are at the start: nobody has a wish yet."""
    common = {"via": False, "wheel": "mikels", "person": 0, "wishes": []}
    return {"picture": picture, "method": method, "model": model, "seed": seed, **common}


def scene_of(picture: Picture, before: str | bytes) -> dict[str, Any]:
    """Describe a picture and its people to the page, people without the background; `before` is a WebP."""
    people = [
        {"box": p.box, "description": p.description.split(", in front of")[0], "feels": p.source_emotion}
        for p in picture.people
    ]
    width, height = picture.image.size
    return {"name": picture.name, "width": width, "height": height, "before": before, "people": people}


def recipe_of(ask: dict[str, Any], people: tuple[Person, ...], steps: int) -> Recipe:
    """Make the recipe that `ask` means for a picture of these people. InputError: an impossible control."""
    wishes = ask["wishes"]
    if len(wishes) != len(people):
        raise InputError(f"{len(wishes)} wishes for {len(people)} people; choose the picture again")
    wished = []
    for person, wish in zip(people, wishes, strict=True):
        description = (wish.get("description") or "").strip() or person.description
        felt = {"emotion": wish["emotion"] or None, "strength": float(wish["strength"])}
        wished.append(replace(person, description=description, **felt))
    return Recipe(
        tuple(wished),
        method=one_of(ask["method"], METHODS, "method"),
        model=str(ask["model"]).strip(),
        num_inference_steps=steps,
        seed=in_range(int(ask["seed"]), 0, 2**63, "seed"),
        via="neutral" if ask["via"] else None,
    )


def petals_of(wheel: str, model: str) -> list[dict[str, object]]:
    """List the petals of a wheel: label, angle (degrees clockwise from the top), colour, ink for text on it,
    and `means`: the emotion `model` is asked for, None where it has no single one."""
    return [
        {
            "label": label,
            "angle": spaces.angle(label, wheel),
            "colour": colours.colour(label),
            "ink": colours.text_on(colours.colour(label)),
            "means": find_preset(model).resolve_emotion(label) if is_known(model, label) else None,
        }
        for label in WHEELS[wheel]
    ]


def coloured(emotions: Any = sets.EMOFACES) -> list[dict[str, str]]:
    """List emotions with their colours."""
    return [{"label": name, "colour": colours.colour(name)} for name in emotions]


def is_live() -> bool:
    """Tell whether this cell was run by a front end with a person, such as JupyterLab, VS Code or Colab.

    papermill, nbconvert and nbclient say with every request that nobody can answer a question; a widget
    would be dead in what they write. False outside a notebook, and where anywidget is not installed."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or find_spec("anywidget") is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin"))
