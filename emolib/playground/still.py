"""The playground without a kernel: every edit of one picture made beforehand, in a page that loads nothing.

The page is the widget's own view.js, which gets its answers from frames instead of a kernel. It works from a
file, with the keyboard, and where scripts are not run it is the source picture with a line of text.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emolib import images, runtime
from emolib.editors.person import with_strength
from emolib.editors.recipe import Recipe, build_editor, change_person
from emolib.emotions import sets
from emolib.playground import controls, pictures
from emolib.playground.pictures import Picture
from emolib.playground.session import Session

HERE = Path(__file__).parent
LIMIT = 1_500_000  # bytes of a page's playground


@dataclass(frozen=True, eq=False)
class Frame:
    """One edit of one person. `patch` (1, 3, side, side) in [-1, 1] is the square of the picture in which it
    differs, `seen` the held-out judge's probabilities in the order of `EMOFACES`, `truth` as
    `pictures.to_the_truth`."""

    person: int
    emotion: str
    strength: float
    patch: Tensor
    seen: list[float]
    truth: tuple[float, float] | None


def frames(
    session: Session,
    picture: Picture,
    recipe: Recipe,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    emotions: Sequence[str] = sets.EMOFACES,
) -> list[Frame]:
    """Every person of `picture` under every emotion at every strength above 0, by the recipe's method.

    The emotions of one person are made as one batch, which is faster than one by one; up to rounding it is
    what the live playground makes."""
    made = []
    wanted = [(k, strength) for k in range(len(picture.people)) for strength in strengths]
    for k, strength in runtime.progress(wanted, "frames"):
        edits = _edits(session, picture, recipe, k, strength, emotions)
        for emotion, edit in zip(emotions, edits.split(1), strict=True):
            one = recipe.alone(k).with_wish(k, emotion, strength)
            model = session.model(recipe.model, recipe.method)
            edited = change_person(one, model, picture.pixels, k, Ready(edit))
            seen = pictures.probabilities(picture, edited, k)
            patch = images.crop(edited, _square(picture, recipe, k))
            truth = pictures.to_the_truth(picture, edited, k, emotion)
            made.append(Frame(k, emotion, strength, patch, seen, truth))
    return made


def _square(picture: Picture, recipe: Recipe, k: int) -> images.Box:
    width, height = picture.image.size
    return images.square_box(picture.people[k].box, height, width, margin=recipe.settings["margin"])


def _edits(
    session: Session, picture: Picture, recipe: Recipe, k: int, strength: float, emotions: Sequence[str]
) -> Tensor:
    """Person k's face at the model's size under each emotion, (n, 3, size, size)."""
    model, person = session.model(recipe.model, recipe.method), picture.people[k]
    face = images.resize(images.crop(picture.pixels, _square(picture, recipe, k)), model.size)
    return with_strength(build_editor(recipe, model), strength)(
        face,
        list(emotions),
        generator=runtime.generator(recipe.seed, "person", k),
        description=person.description,
        source_emotion=person.source_emotion,
    )


@dataclass(frozen=True)
class Ready:
    """An `Editor` that has done its work; its strength plays no part any more."""

    edited: Tensor = field(repr=False)
    strength: float = 1.0

    def __call__(self, crops: Tensor, emotion: object, **_: object) -> Tensor:
        return self.edited


def page(
    picture: Picture, recipe: Recipe, made: Sequence[Frame], words: str, first: str = "amusement"
) -> str:
    """The playground of these frames as HTML to be shown in a notebook or page; `words` say how it was made.

    InputError: more than `LIMIT` bytes."""
    setup, scene = _setup(recipe, made, first), controls.scene_of(picture, _uri(picture.pixels, quality=85))
    width, height = picture.image.size
    squares = [_square(picture, recipe, k) for k in range(len(picture.people))]
    found: dict[int, dict] = {}
    for frame in made:
        source = images.crop(picture.pixels, squares[frame.person])
        told = {"src": _uri(cut_out(frame.patch, differs(frame.patch, source)))}
        told["seen"] = [round(p, 3) for p in frame.seen]
        told["words"] = pictures.describe_distance(frame.truth)
        found.setdefault(frame.person, {}).setdefault(frame.emotion, {})[f"{frame.strength:g}"] = told
    data = {
        "setup": setup,
        "scene": scene,
        "ask": controls.first_ask(picture.name, recipe.method, recipe.model, recipe.seed),
        "words": words,
        "frames": found,
        "places": [
            {
                "x": 100 * a / width,
                "y": 100 * b / height,
                "w": 100 * (c - a) / width,
                "h": 100 * (d - b) / height,
            }
            for a, b, c, d in squares
        ],
        "before": [pictures.probabilities(picture, picture.pixels, k) for k in range(len(squares))],
        "faces": [_uri(images.crop(picture.pixels, square)) for square in squares],
    }
    text = _html(data, scene["before"], words)
    if len(text) > LIMIT:
        raise runtime.InputError(
            f"the page has {len(text) / 1e6:.1f} MB of {LIMIT / 1e6} MB: fewer emotions or strengths"
        )
    return text


def _html(data: dict[str, Any], source: str, words: str) -> str:
    view = (HERE / "view.js").read_text(encoding="utf-8").replace("export default { render };", "")
    script = (HERE / "still.js").read_text(encoding="utf-8")
    values = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return (
        f"<style>{(HERE / 'view.css').read_text(encoding='utf-8')}</style>"
        f'<div class="emolib-still"><p><img src="{source}" alt="before the edits" width="480"><br>'
        f"{html.escape(words)}. Where scripts run, this is a playground.</p></div>\n"
        f"<script>(() => {{\n{view}\n{script}\n"
        "for (const place of document.querySelectorAll('.emolib-still:not([data-alive])')) {\n"
        "place.dataset.alive = '';\nplace.replaceChildren();\n"
        f"render({{ model: still({values}), el: place }});\n}}\n}})();</script>"
    )


def _setup(recipe: Recipe, made: Sequence[Frame], first: str) -> dict[str, Any]:
    known = list(dict.fromkeys(frame.emotion for frame in made))
    strengths = sorted({0.0} | {frame.strength for frame in made})
    petals = {name: controls.petals_of(name, recipe.model) for name in controls.WHEELS}
    for petal in (petal for wheel in petals.values() for petal in wheel):
        petal["means"] = petal["means"] if petal["means"] in known else None
    return {
        "live": False,
        "labels": controls.coloured(),
        "emotions": controls.coloured(known),
        "wheels": petals,
        "strengths": strengths,
        "first": {"emotion": first, "strength": strengths[-2] if len(strengths) > 2 else strengths[-1]},
    }


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Where two pictures (1, 3, H, W) differ at all once they have 8 bits: bool (H, W)."""
    bits = [np.asarray(images.to_pil(x)[0]) for x in (a, b)]
    return torch.from_numpy((bits[0] != bits[1]).any(-1))


def cut_out(pixels: Tensor, where: Tensor) -> Image.Image:
    """One picture (1, 3, H, W) in [-1, 1], transparent outside `where` (H, W)."""
    (image,) = images.to_pil(pixels)
    image.putalpha(Image.fromarray(where.numpy().astype(np.uint8) * 255))
    return image


def _uri(picture: Image.Image | Tensor, quality: int = 82) -> str:
    return images.data_uri(images.encode_webp(picture, quality, method=6))
