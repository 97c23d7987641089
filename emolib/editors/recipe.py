"""Recipes: all that a picture's edit depends on, as JSON. `emolib edit --from FILE.json` makes it again.

A recipe changes each person by themselves, from the same picture and the same seed: what one of them feels
never alters another. The result is what the single edits add up to.
"""

from __future__ import annotations

import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from emolib import __version__
from emolib.emotions import words
from emolib.runtime import SEEDS, InputError, in_range, one_of, write_json

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emolib.diffusion.backbone import Backbone
    from emolib.editors.base import Editor

METHODS = ("img2img", "ddim", "negative-prompt", "edit-friendly", "direct", "exact", "prompt-to-prompt")
"""Those of `emolib edit` that need neither a file of their own nor gradients."""

KIND = "emolib recipe 1"
MARGINS = (0, 4)
"""What the square around a face may add on each side, as a share of the face."""
_TYPES = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text or null"),
    "tuple[int, int, int, int]": ((list,), "a list of four whole numbers"),
    "tuple[Person, ...]": ((tuple,), "people"),
}
"""Of a field's annotation: what JSON may give for it, and how that is called."""


@dataclass(frozen=True)
class Person:
    """One face: its `box` (x0, y0, x1, y1) px, and the `emotion` to feel at `strength`; None: left alone.

    `source_emotion` is what is felt now, if known; `description` is for the prompt.
    """

    box: tuple[int, int, int, int]
    emotion: str | None = None
    strength: float = 0.6
    description: str = "person"
    source_emotion: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What is done to the `people` of a picture, in the words of `emolib edit`.

    via     an emotion to stage the change through (`editors.compose.Staged`), or None
    margin  what the square around a face adds on each side, as a share of the face
    """

    people: tuple[Person, ...]
    method: str = "img2img"
    model: str = "minisd"
    guidance_scale: float = 5.0
    num_inference_steps: int = 30
    seed: int = 0
    via: str | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method")
        in_range(self.margin, *MARGINS, "margin")
        in_range(self.seed, *SEEDS, "seed")
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps must be 1 or more, not {self.num_inference_steps}")
        if not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, not {self.guidance_scale}")
        for person in self.people:
            in_range(person.strength, 0, 1, "strength")

    @property
    def changed(self) -> tuple[int, ...]:
        """Positions of the people who are to feel something, at a strength that does something."""
        return tuple(i for i, p in enumerate(self.people) if p.emotion is not None and p.strength > 0)

    def alone(self, k: int) -> Recipe:
        """The same for person `k` only."""
        people = [p if i == k else Person(p.box) for i, p in enumerate(self.people)]
        return replace(self, people=tuple(people))


def editor(recipe: Recipe, model: Backbone, strength: float) -> Editor:
    """The recipe's method on `model` at one strength, its detail kept, as `emolib edit` does."""
    from emolib.editors import METHODS as places
    from emolib.editors.compose import KeepDetail, Staged

    given: dict[str, Any] = {
        "strength": strength,
        "guidance_scale": recipe.guidance_scale,
        "num_inference_steps": recipe.num_inference_steps,
    }
    if recipe.method == "edit-friendly":
        given["batch_size"] = 1  # one latent a call: every strength then asks the same of each level
    made = KeepDetail(resolve_name(places[recipe.method])(model, **given))
    return made if recipe.via is None else Staged(made, recipe.via)


def change(recipe: Recipe, model: Backbone, picture: Tensor, k: int, edit: Editor | None = None) -> Tensor:
    """`picture` (1, 3, H, W) in [-1, 1] with person `k` changed and everybody else as they were.

    `edit` stands in for the recipe's own editor. InputError: a box outside the picture.
    """
    from emolib import runtime
    from emolib.editors.person import PerPerson, Target

    person = recipe.people[k]
    targets = [Target(p.box, description=p.description) for p in recipe.people]
    chosen = replace(targets[k], emotion=person.emotion, source_emotion=person.source_emotion)
    made = edit or editor(recipe, model, person.strength)
    return PerPerson(made, model.size, margin=recipe.margin)(
        picture,
        generator=runtime.generator(recipe.seed),
        people=[chosen],
        bystanders=[other for i, other in enumerate(targets) if i != k],
    )


def apply(
    recipe: Recipe,
    model: Backbone,
    picture: Tensor,
    one: Callable[[Recipe, Backbone, Tensor, int], Tensor] = change,
) -> Tensor:
    """`picture` (1, 3, H, W) in [-1, 1] with everybody changed; `one` makes each person's edit.

    Where nobody changed it is `picture` bit for bit."""
    result = picture.clone()
    for k in recipe.changed:
        result += one(recipe, model, picture, k) - picture
    return result.clamp(-1, 1)


def fingerprint(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, however it is stored."""
    rgb = image.convert("RGB")
    return hashlib.sha256(b"%dx%d:" % rgb.size + rgb.tobytes()).hexdigest()


def save(path: Path, recipe: Recipe, picture: Path, image: Image.Image) -> None:
    """Write the recipe; the picture is named relative to it, and by the fingerprint of `image`."""
    known = {"kind": KIND, "emolib": __version__, "picture": picture.name, "sha256": fingerprint(image)}
    write_json(path, known | asdict(recipe))


@dataclass(frozen=True)
class Saved:
    """A recipe read from `path`, with the picture it was made for."""

    path: Path
    recipe: Recipe
    picture: Path
    sha256: str = field(repr=False)

    def check(self, image: Image.Image) -> None:
        """InputError if `image` is not the picture of the recipe."""
        if fingerprint(image) != self.sha256:
            raise InputError(f"{self.picture}: not the picture that {self.path} was made for; give that one")


def load(path: Path) -> Saved:
    """Read a recipe. InputError: no such file, no recipe, an entry that is unknown, missing or impossible."""
    try:
        given = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError):
        raise InputError(f"{path}: not a recipe; give a JSON file that the playground saved") from None
    if given.pop("kind", None) != KIND:
        raise InputError(f"{path}: not a recipe of this version ({KIND!r}); save it again")
    given.pop("emolib", None)
    try:
        picture, sha256 = str(given.pop("picture")), str(given.pop("sha256"))
        listed = given.pop("people")
        if not isinstance(listed, list) or not listed:
            raise ValueError("people is no list of one person or more")
        people = tuple(_filled(Person, person) for person in listed)
        recipe = _filled(Recipe, given | {"people": people})
        for word in (recipe.via, *(p.emotion for p in people), *(p.source_emotion for p in people)):
            if word is not None:
                words.adjective(word)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from None
        raise InputError(f"{path}: a broken recipe ({error}); save it again") from None
    return Saved(path, recipe, path.parent / Path(picture).name, sha256)


def _filled(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass with these values, each of its field's type. ValueError, TypeError, InputError."""
    if not isinstance(values, dict):
        raise ValueError(f"{values!r} is no {kind.__name__.lower()} with named entries")
    known = {f.name: f.type for f in fields(kind)}
    for name, value in values.items():
        types, called = _TYPES[known[one_of(name, known, "entry")]]
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(f"{name} is {value!r}, not {called}")
    if "box" in values:
        if [type(x) for x in values["box"]] != [int] * 4:
            raise ValueError(f"box is {values['box']!r}, not {_TYPES[known['box']][1]}")
        values = values | {"box": tuple(values["box"])}
    return kind(**values)


def provenance(recipe: Recipe) -> dict[str, object]:
    """What the edited file says of itself."""
    people = [asdict(person) for i, person in enumerate(recipe.people) if i in recipe.changed]
    return {"edited": "by emolib: this picture is not a photograph"} | asdict(recipe) | {"people": people}


STILL_SAID = ("source", "picture", "output", "device", "memory")
"""What may be typed beside `--from FILE.json`; the recipe says the rest."""


def follow(args: Namespace, defaults: Namespace) -> Path:
    """`emolib edit --from FILE.json` as typed; `defaults` are those of its other options. InputError: it also
    says what the edit should be."""
    if Path(args.source).is_dir():
        raise InputError(f"--from {args.source}: is a folder; give a recipe in it, FILE.json")
    if not Path(args.source).is_file():
        raise InputError(f"--from {args.source}: no such file; the playground's Save writes one")
    for name, value in vars(defaults).items():
        if name not in STILL_SAID and getattr(args, name) != value:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"--from FILE.json says all of the edit; leave out {option}")
    return edit_from(Path(args.source), args.picture, args.output, device=args.device, memory=args.memory)


def edit_from(path: Path, picture: str | None, output: str | None, *, device: str, memory: str) -> Path:
    """`emolib edit --from FILE.json`: the same picture again. Returns where it was written.

    picture  where its source lies now (default: beside the recipe); output: default NAME-again.png there
    """
    from emolib import images, runtime

    saved = load(path)
    where = Path(picture) if picture else saved.picture
    target = Path(output) if output else path.with_name(f"{path.stem}-again.png")
    images.check_edit(target, where)
    image = images.open_image(where)
    replace(saved, picture=where).check(image)
    from emolib.diffusion import backbone

    runtime.pick_device(device)  # whose fault would not be the recipe's
    try:
        for person in saved.recipe.people:
            images.square_box(person.box, image.height, image.width)
        model = backbone.load(saved.recipe.model, device=device, memory=memory)
        edited = apply(saved.recipe, model, images.to_tensor(image))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    images.save_image(edited, target, provenance=provenance(saved.recipe))
    return target
