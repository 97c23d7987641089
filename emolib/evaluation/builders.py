"""Build the editors that go by a name: the package's own, instruction editors, hosted services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from emolib import images
from emolib.data import emofaces
from emolib.diffusion.presets import DEFAULT_MODEL, find_preset, load_preset
from emolib.editors import METHODS

if TYPE_CHECKING:  # they load diffusers, which scoring finished pictures does not need
    from emolib.diffusion.backbone import Backbone
    from emolib.editors.base import Editor
    from emolib.editors.instruct import InstructModel

PALETTE_PEOPLE = 50


@dataclass(frozen=True)
class Options:
    """What named methods are made with: the model's name, device and memory of `load_backbone`, `steps`, if
    given the `num_inference_steps` of all of them, and a `preset` file in place of the model's settings;
    hosted ones with a `budget` (USD), and a folder for their `answers`."""

    model: str = DEFAULT_MODEL
    device: str = "auto"
    memory: str = "auto"
    steps: int | None = None
    preset: str = ""
    budget: float | None = None
    answers: Path | None = None


def build_editor(method: str, options: Options, **fields: Any) -> Editor:
    """Build the editor of a method with its preset's settings, and `fields` in place of some. InputError."""
    model = load_model(options)
    preset = load_preset(options.preset, model.preset) if options.preset else model.preset
    fields = preset.get_settings(method).fields | fields
    fields |= {} if options.steps is None else {"num_inference_steps": options.steps}
    return resolve_name(METHODS[method])(model, **fields)


def load_model(options: Options) -> Backbone:
    """Load the model of the named methods, once for all of them."""
    return _load_backbone(options.model, options.device, options.memory)


@lru_cache(maxsize=1)
def _load_backbone(model: str, device: str, memory: str) -> Backbone:
    from emolib.diffusion import backbone

    return backbone.load_backbone(model, device=device, memory=memory)


def build_hosted(model: str, options: Options) -> Editor:
    """Build the editor of a service, "openai" or "openai/gpt-image-2"."""
    from emolib.editors import hosted

    return hosted.Hosted(hosted.open_service(model, budget=options.budget, folder=options.answers))


def build_instruct(model: str, options: Options) -> Editor:
    """Build the instruction editor "MODEL" or "MODEL+LORA.safetensors", with its preset's settings."""
    from emolib.editors import instruct

    name, _, lora = model.partition("+")
    fields = find_preset(name).get_settings("instruct").fields
    fields |= {} if options.steps is None else {"num_inference_steps": options.steps}
    return instruct.Instruct(_load_instruct(name, lora, options.device, options.memory), **fields)


@lru_cache(maxsize=1)  # once for all strengths, with and without PerPerson
def _load_instruct(name: str, lora: str, device: str, memory: str) -> InstructModel:
    from emolib.editors import instruct

    options = {"device": device, "memory": memory}
    return instruct.load_model(name, **options, lora=Path(lora) if lora else None)


def _build_colour(options: Options) -> Editor:
    """Colour transfer to the palettes that the emotions have among EmoFaces' first train people."""
    from emolib.editors import colour

    people = emofaces.portraits("train")
    rows = people.frame.index[people.frame["identity"].isin(people.identities[:PALETTE_PEOPLE])]
    pictures = images.to_tensor([people.image_at(i) for i in rows])
    return colour.fit_colours(pictures, people.frame["emotion"][rows].tolist())


EDITORS: dict[str, Callable[[Options], Editor]] = {
    "colour": _build_colour,
    **{name: partial(build_editor, name) for name in METHODS},
}
"""Name -> maker: colour transfer, and the methods of `emolib edit`. None of these asks a judge."""
