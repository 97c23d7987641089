"""Recipes: all that a picture's edit depends on, also as JSON. `emolib edit` and the playground apply them.

A recipe changes each person by themselves, from the same picture and with their own noise: what one of them
feels never alters another. The result is what the single edits add up to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from emolib import __version__
from emolib.diffusion.presets import DEFAULT_METHOD, DEFAULT_MODEL, Preset, find_preset, list_options
from emolib.editors import METHODS, OTHERS
from emolib.editors.compose import KeepDetail, Staged
from emolib.editors.person import PerPerson, Person, find_windows, move_person
from emolib.emotions import words
from emolib.runtime import SEEDS, InputError, in_range, one_of, read_json, write_json

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emolib.diffusion.backbone import Backbone
    from emolib.editors.base import Editor
    from emolib.interventions.directions import Directions

KIND = "emolib recipe 2"
MARGINS = (0, 4)
"""What the square around a face may add on each side, as a share of the face."""
GUIDANCE = (-1000, 1000)
_TYPES = {
    "int": (int, "a whole number"),
    "float": (int | float, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
    "Box": (tuple, "a list of four whole numbers"),
    "Eyes": (tuple, "two points [x, y]"),
    "tuple[Person, ...]": (tuple, "people"),
    "tuple[tuple[str, float], ...]": (tuple, "an object of numbers"),
}
"""Of a field's annotation: what a recipe's file may give for it, and how that is called."""
_OPEN = ("guidance_scale", "num_inference_steps", "margin")
"""Fields of a recipe that its model's preset fills in."""
_PERSON = ("box", "emotion", "source_emotion", "description", "strength", "eyes")
"""Fields of a person that a recipe's file holds."""


@dataclass(frozen=True)
class Recipe:
    """What is done to the `people` of a picture, in the words of `emolib edit`.

    guidance_scale, num_inference_steps, margin, and a person's strength: None is what the model's preset says
    for the method
    options      the same for other fields of the method's editor, each (name, value)
    via          an emotion to stage the change through (`editors.compose.Staged`), or None
    template     of the prompts
    keep_detail  give back what the autoencoder took where the edit did nothing (`editors.compose.KeepDetail`)

    InputError: a setting that no edit can follow.
    """

    people: tuple[Person, ...] = ()
    method: str = DEFAULT_METHOD
    model: str = DEFAULT_MODEL
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    seed: int = 0
    via: str | None = None
    margin: float | None = None
    options: tuple[tuple[str, float], ...] | None = None
    template: str = words.TEMPLATE
    keep_detail: bool = True

    def __post_init__(self) -> None:
        one_of(self.method, METHODS | OTHERS, "method")
        in_range(self.seed, *SEEDS, "seed")
        settings = self.settings
        in_range(settings["margin"], *MARGINS, "margin")
        steps = settings["num_inference_steps"]
        in_range(1 if steps is None else steps, 1, 1000, "steps (num_inference_steps)")
        in_range(settings["guidance_scale"] or 0, *GUIDANCE, "guidance_scale")
        for name, value in self.options or ():
            in_range(value, *GUIDANCE, one_of(name, list_options(self.method), f"setting of {self.method}"))
        for person in self.people:
            in_range(person.strength or 0, 0, 1, "strength")
        try:
            words.prompt(None, template=self.template)
        except (KeyError, IndexError, ValueError, AttributeError):
            raise InputError(
                f"prompt {self.template!r}: only {{article}}, {{word}}, {{description}} can stand in braces"
            ) from None

    @property
    def preset(self) -> Preset:
        """What is known of the model."""
        return find_preset(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        """The editor's fields, and the margin: the preset's where none was given."""
        given = {name: value for name in _OPEN if (value := getattr(self, name)) is not None}
        fields = {"guidance_scale": None} | self.preset.get_settings(self.method).fields
        return fields | {"margin": self.preset.margin} | given | dict(self.options or ())

    @property
    def changed(self) -> tuple[int, ...]:
        """Positions of the people who are to feel something, at a strength that does something."""
        return tuple(i for i, p in enumerate(self.people) if p.emotion is not None and p.strength != 0)

    def alone(self, k: int) -> Recipe:
        """Return the same for person `k` only."""
        return replace(self, people=tuple(p if i == k else Person(p.box) for i, p in enumerate(self.people)))

    def with_wish(self, k: int, emotion: str | None, strength: float | None) -> Recipe:
        """Return the recipe with what person `k` is to feel."""
        people = list(self.people)
        people[k] = replace(people[k], emotion=emotion, strength=strength)
        return replace(self, people=tuple(people))


def build_editor(recipe: Recipe, model: Backbone, directions: Directions | None = None) -> Editor:
    """Make the recipe's editor on `model`; `directions` are another bank than MiniSD's for Asyrp.

    InputError: a method that cannot work with this model."""
    settings = {k: value for k, value in recipe.settings.items() if value is not None and k != "margin"}
    if recipe.method == "hosted":
        settings = {}  # it takes words alone
    if recipe.method != "asyrp":
        settings["template"] = recipe.template
    elif directions is not None:
        settings["directions"] = directions
    if recipe.method == "edit-friendly":
        settings["batch_size"] = 1  # one latent a call: every strength then asks the same of each level
    editor = resolve_name((METHODS | OTHERS)[recipe.method])(model, **settings)
    editor = KeepDetail(editor) if recipe.keep_detail and recipe.method in METHODS else editor
    return editor if recipe.via is None else Staged(editor, recipe.via)


def change_person(
    recipe: Recipe, model: Backbone, picture: Tensor, k: int, editor: Editor | None = None
) -> Tensor:
    """Change person `k` of `picture` (1, 3, H, W) in [-1, 1], and nobody else.

    `editor` stands in for the recipe's own. InputError: a box outside the picture.
    """
    scene = PerPerson(editor or build_editor(recipe, model), model.size, margin=recipe.settings["margin"])
    people = [p if i == k else replace(p, emotion=None) for i, p in enumerate(recipe.people)]
    return scene(picture, people, seed=recipe.seed)


def apply_recipe(
    recipe: Recipe,
    model: Backbone,
    picture: Tensor,
    change: Callable[[Recipe, Backbone, Tensor, int], Tensor] = change_person,
) -> Tensor:
    """Change everybody in `picture` (1, 3, H, W) in [-1, 1]; `change` makes each person's edit.

    Where nobody changed it is `picture` bit for bit."""
    result = None  # cloned late: of a large picture every copy counts
    for k in recipe.changed:
        edited = change(recipe, model, picture, k)
        result = picture.clone() if result is None else result
        result += edited - picture
    return (picture if result is None else result).clamp(-1, 1)


def edit_image(
    recipe: Recipe,
    model: Backbone,
    image: Image.Image,
    change: Callable[[Recipe, Backbone, Tensor, int], Tensor] = change_person,
) -> Image.Image:
    """Apply the recipe to an RGB picture of any size, as `apply_recipe` does: only what is around the people
    becomes tensors. InputError: a box outside the picture."""
    from emolib import images

    result, margin = image.copy(), recipe.settings["margin"]
    for window, members in find_windows(recipe.people, recipe.changed, image.height, image.width, margin):
        people = [move_person(person, window) for person in recipe.people]
        people = [p if k in members else replace(p, emotion=None) for k, p in enumerate(people)]
        part = replace(recipe, people=tuple(people))
        edited = apply_recipe(part, model, images.to_tensor(image.crop(window)), change)
        result.paste(images.to_pil(edited)[0], window[:2])
    return result


def describe_edit(recipe: Recipe) -> dict[str, object]:
    """Say what an edited file says of itself. Nothing in it identifies the source or the machine."""
    record = _filled_in(recipe)
    people = [record["people"][k] for k in recipe.changed]
    for person in people if recipe.method != "asyrp" else ():
        person["prompt"] = words.prompt(person["emotion"], person["description"], recipe.template)
    known = [{name: value for name, value in person.items() if value is not None} for person in people]
    return {"edited": "by emolib: this picture is not a photograph"} | record | {"people": known}


def _filled_in(recipe: Recipe) -> dict[str, Any]:
    """Turn a recipe into plain values; what it leaves open is what the preset says."""
    settings = recipe.settings
    people = [{name: getattr(person, name) for name in _PERSON} for person in recipe.people]
    for person in people:
        person["strength"] = settings["strength"] if person["strength"] is None else person["strength"]
    values = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    options = {name: settings[name] for name in list_options(recipe.method) if name in settings}
    values = values | {name: settings[name] for name in _OPEN} | {"people": people, "options": options}
    return values if options else {name: value for name, value in values.items() if name != "options"}


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, however it is stored."""
    rgb = image.convert("RGB")
    return hashlib.sha256(b"%dx%d:" % rgb.size + rgb.tobytes()).hexdigest()


def save_recipe(path: Path, recipe: Recipe, picture: Path, image: Image.Image) -> None:
    """Write the recipe; the picture is named relative to it, and by the fingerprint of `image`."""
    head = {"kind": KIND, "emolib": __version__, "picture": picture.name, "sha256": fingerprint(image)}
    write_json(path, head | _filled_in(recipe))


@dataclass(frozen=True)
class Saved:
    """A recipe read from `path`, with the picture it was made for."""

    path: Path
    recipe: Recipe
    picture: Path
    sha256: str = field(repr=False)

    def check_picture(self, image: Image.Image) -> None:
        """InputError if `image` is not the picture of the recipe."""
        if fingerprint(image) != self.sha256:
            raise InputError(f"{self.picture}: not the picture that {self.path} was made for; give that one")


def load_recipe(path: Path) -> Saved:
    """Read a recipe. InputError: no such file, no recipe, an entry that is unknown, missing or impossible."""
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("kind", None) != KIND:
        raise InputError(f"{path}: not a recipe of this version ({KIND!r}); save it again in the playground")
    values.pop("emolib", None)
    try:
        picture, sha256 = str(values.pop("picture")), str(values.pop("sha256"))
        people = values["people"]
        if not isinstance(people, list) or not people or not all(isinstance(p, dict) for p in people):
            raise ValueError("people is no list of one person or more")
        people = tuple(_read_fields(Person, person, _PERSON) for person in people)
        recipe = _read_fields(Recipe, values | {"people": people})
        for word in (recipe.via, *(p.emotion for p in people), *(p.source_emotion for p in people)):
            if word is not None and recipe.method != "asyrp":
                words.adjective(word)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: a broken recipe ({reason}); save it again") from None
    return Saved(path, recipe, path.parent / Path(picture).name, sha256)


def _read_fields(kind: type, values: dict[str, Any], allowed: tuple[str, ...] = ()) -> Any:
    """Make the dataclass of these values, each of its field's type. ValueError, TypeError."""
    annotations = {f.name: f.type for f in fields(kind) if not allowed or f.name in allowed}
    box = values.get("box")
    if isinstance(box, list) and [type(x) for x in box] == [int] * 4:
        values = values | {"box": tuple(box)}
    if isinstance(values.get("options"), dict):
        values = values | {"options": tuple(values["options"].items())}
    if isinstance(values.get("eyes"), list):  # float() of what is no number: TypeError
        (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in values["eyes"])
        values = values | {"eyes": ((x0, y0), (x1, y1))}
    for name, value in values.items():
        annotation, _, optional = annotations[one_of(name, annotations, "entry")].partition(" | ")
        accepted, meaning = _TYPES[annotation]
        missing = value is None and bool(optional)
        if not missing and (
            not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool)
        ):
            raise ValueError(f"{name} is {value!r}, not {meaning}{' or null' if optional else ''}")
    return kind(**values)
