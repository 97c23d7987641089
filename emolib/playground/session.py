"""The playground's edits: made from recipes, kept, so that nothing is computed twice. Knows no judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from emolib import images
from emolib.diffusion import backbone
from emolib.editors import recipe as recipes
from emolib.editors.recipe import Recipe
from emolib.playground.memory import Recent, Remembered
from emolib.playground.pictures import Picture

CALLS = {"img2img": 1, "prompt-to-prompt": 2}  # questions to the UNet for each step; inversions ask twice


@dataclass(frozen=True)
class Steps:
    """Steps at strength 1 while the hand moves, and when it rests."""

    preview: int = 6
    full: int = 20


class Cost(NamedTuple):
    """What an edit took: seconds, questions to the UNet, and how many of them memory answered."""

    seconds: float
    asked: int
    remembered: int


class Session:
    """Models, and every edit made with them.

    load  how a model is found by name (`backbone.load`)
    """

    def __init__(self, load: Callable[[str], backbone.Backbone] = backbone.load, keep: int = 256) -> None:
        self._load = load
        self._models: dict[tuple[str, bool], Remembered] = {}
        self._edits = Recent(keep)

    @property
    def loaded(self) -> set[str]:
        """Names of the models that are there already."""
        return {name for name, _ in self._models}

    def made(self, picture: Picture, recipe: Recipe) -> bool:
        """Whether everything in `recipe` has been made before."""
        return all(self._key(picture, recipe, k) in self._edits for k in recipe.changed)

    def model(self, name: str, method: str = "img2img") -> Remembered:
        """The model called `name`, loaded once. Attention control gets it without memory. InputError."""
        remembers = method != "prompt-to-prompt"
        if (name, remembers) not in self._models:
            twin = self._models.get((name, not remembers))
            loaded = self._load(name) if twin is None else twin
            self._models[name, remembers] = Remembered(loaded, size=2000 if remembers else 0)
        return self._models[name, remembers]

    def edit(
        self,
        picture: Picture,
        recipe: Recipe,
        *,
        watch: Callable[[], None] = lambda: None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> tuple[Tensor, Cost]:
        """The picture after `recipe`, (1, 3, H, W), and what it cost now.

        watch     called before every question to the UNet; what it raises ends the edit, and what the
                  network has answered so far is kept
        progress  called likewise, with the share of the work that is done
        """
        model, start = self.model(recipe.model, recipe.method), time.perf_counter()
        before = model.asked, model.remembered
        new = [k for k in recipe.changed if self._key(picture, recipe, k) not in self._edits]
        planned = sum(questions(recipe, k) for k in new)

        def step() -> None:
            watch()
            progress(min((model.asked - before[0]) / max(planned, 1), 1.0))

        model.watch = step
        try:
            edited = recipes.apply(recipe, model, picture.pixels, partial(self._one, picture))
        finally:
            model.watch = lambda: None
        seconds = time.perf_counter() - start
        return edited, Cost(seconds, model.asked - before[0], model.remembered - before[1])

    def _key(self, picture: Picture, recipe: Recipe, k: int) -> tuple:
        return picture, recipe.alone(k)

    def _one(self, picture: Picture, recipe: Recipe, model: Remembered, pixels: Tensor, k: int) -> Tensor:
        return self._edits.get(
            self._key(picture, recipe, k), lambda: recipes.change(recipe, model, pixels, k)
        )


def questions(recipe: Recipe, k: int) -> int:
    """How many questions to the UNet the edit of person `k` takes, about."""
    steps = max(1, round(recipe.people[k].strength * recipe.num_inference_steps))
    return steps * CALLS.get(recipe.method, 2) * (1 if recipe.via is None else 2)


def with_wish(recipe: Recipe, k: int, emotion: str | None, strength: float) -> Recipe:
    """The recipe with what person `k` is to feel."""
    people = list(recipe.people)
    people[k] = replace(people[k], emotion=emotion, strength=strength)
    return replace(recipe, people=tuple(people))


def save(folder: Path, picture: Picture, recipe: Recipe, edited: Tensor) -> Path:
    """Write NAME.png, NAME-source.png and NAME.json into `folder`; returns the path of the recipe.

    `emolib edit --from NAME.json` makes NAME.png again."""
    folder.mkdir(parents=True, exist_ok=True)
    felt = "-".join(f"{k + 1}{recipe.people[k].emotion}" for k in recipe.changed) or "unchanged"
    stem = "".join(c if c.isalnum() else "-" for c in Path(picture.name).stem) + f"-{felt}"
    numbers = ("", *(f"-{i}" for i in range(2, 1000)))
    name = next(stem + n for n in numbers if not (folder / f"{stem}{n}.json").exists())
    source = folder / f"{name}-source.png"
    images.save_image(picture.image, source)
    images.save_image(edited, folder / f"{name}.png", provenance=recipes.provenance(recipe))
    recipes.save(folder / f"{name}.json", recipe, source, picture.image)
    return folder / f"{name}.json"


def one_line(error: Exception) -> str:
    """What went wrong as one line that says how to mend it."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text:
        return "out of memory: take fewer steps, a smaller picture or a smaller model, then move a slider"
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
