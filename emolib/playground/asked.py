"""What the controls say, as plain values, and the recipe it means. No widget, no torch.

`ask` is a dictionary, as it comes from the page:

picture   a name (`pictures.open_named`, or an upload's)
person    which person the controls speak of
wishes    one {"emotion": label or None, "strength": [0, 1], "description"?} for each person
method, model, seed, wheel   as their controls say; `via`: stage the change through neutral
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from emolib import images
from emolib.editors.recipe import METHODS, Person, Recipe
from emolib.runtime import InputError, one_of

GUIDANCE = {"img2img": 5.0}
"""Guidance scale by method; inversions remember the picture and take `INVERTED`."""
INVERTED = 1.75
MODELS = ("minisd", "sd15", "sd21", "sdxl")
STRENGTHS = tuple(round(0.05 * i, 2) for i in range(21))


def first(
    picture: str, method: str = "edit-friendly", model: str = "minisd", seed: int = 0
) -> dict[str, Any]:
    """The controls as they are at the start: nobody has a wish yet."""
    common = {"via": False, "wheel": "mikels", "person": 0, "wishes": []}
    return {"picture": picture, "method": method, "model": model, "seed": seed, **common}


def people_of(people: tuple[Person, ...]) -> list[dict[str, Any]]:
    """The people of a picture as the page needs them; descriptions without the background."""
    return [
        {
            "box": list(p.box),
            "description": p.description.split(", in front of")[0],
            "feels": p.source_emotion,
        }
        for p in people
    ]


def recipe_of(ask: dict[str, Any], people: tuple[Person, ...], steps: int) -> Recipe:
    """The recipe that `ask` means for a picture of these people. InputError: an impossible control."""
    wishes = ask["wishes"]
    if len(wishes) != len(people):
        raise InputError(f"{len(wishes)} wishes for {len(people)} people; choose the picture again")
    method = one_of(ask["method"], METHODS, "method")
    if int(ask["seed"]) < 0:
        raise InputError(f"seed must be 0 or more, not {ask['seed']}")
    return Recipe(
        tuple(_person(person, wish) for person, wish in zip(people, wishes, strict=True)),
        method=method,
        model=str(ask["model"]).strip(),
        guidance_scale=GUIDANCE.get(method, INVERTED),
        num_inference_steps=steps,
        seed=int(ask["seed"]),
        via="neutral" if ask["via"] else None,
        margin=images.FACE_MARGIN,
    )


def _person(person: Person, wish: dict[str, Any]) -> Person:
    who = (wish.get("description") or "").strip() or person.description
    return replace(person, emotion=wish["emotion"] or None, strength=float(wish["strength"]), description=who)
