"""The `Editor` contract, prompts, and what editors in a Stable Diffusion's latents share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from emolib.diffusion.backbone import Backbone, Embedding, Guided
from emolib.emotions import words
from emolib.runtime import InputError

PERSON = "person"
TEMPLATE = "photo of {article} {word} {description}"


class Editor(Protocol):
    """`editor(images, emotion, *, generator) -> images`: the same people, feeling `emotion`.

    images       float32 (B, 3, H, W) in [-1, 1], on any device; the result has the same shape, dtype, range
                 and device, wherever the method computes
    emotion      a label, or one for each picture; several for a single picture give one edit each, made as
                 one batch from one encoding and the same noise
    generator    the only source of randomness. Noise is drawn on its device and moved: with the CPU
                 generators of `runtime.generator` one seed gives one picture, whatever computes it
    description  who is in the picture, e.g. "woman with red hair", one or one each; for methods with prompts
    source_emotion  what is felt in the picture as it is, if known, one or one each; for methods that use it

    Raises InputError for an unknown emotion or a size that the model cannot take.
    """

    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor: ...


def prompt(emotion: str | None, description: str = PERSON, template: str = TEMPLATE) -> str:
    """`template` filled in: "photo of a sad woman with red hair"; without an emotion "photo of a woman ...".

    InputError: an unknown emotion or field.
    """
    word = "" if emotion is None else words.adjective(emotion)
    try:
        text = template.format(article=words.article(word or description), word=word, description=description)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise InputError(
            f"prompt {template!r}: only {{article}}, {{word}} and {{description}} may stand in braces"
        ) from None
    return text if word else " ".join(text.split()).strip(" ,")


def steps_taken(num_inference_steps: int, strength: float) -> int:
    """How many of the steps a `strength` in [0, 1] takes: all at 1, none at 0, at least one in between.

    diffusers rounds down, so that a small strength silently does nothing; where N * strength is whole, the
    two agree. InputError outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength must lie in [0, 1], not {strength}")
    return math.ceil(round(num_inference_steps * strength, 6))


def each(
    value: str | Sequence[str | None] | None, n: int, what: str, of: str = "pictures"
) -> list[str | None]:
    """One value for each of n pictures. InputError if there are neither one nor n."""
    values = [value] if value is None or isinstance(value, str) else list(value)
    if len(values) not in (1, n):
        raise InputError(f"{len(values)} {what}s for {n} {of}; give one, or one for each")
    return values * (n if len(values) == 1 else 1)


def number_of_edits(images: Tensor, emotion: str | Sequence[str]) -> int:
    """How many pictures an editor returns: one for each picture, or for each emotion of a single one."""
    return len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)


class Prompts(NamedTuple):
    """What one call says: of its n edits, and of the B pictures as they are."""

    targets: list[str]
    sources: list[str]


class LatentEditor(Protocol):
    """Fields and the one method.

    strength             share of the steps that are taken, in [0, 1]: 0 returns the source bit for bit
    guidance_scale       how much the target prompt rules; 1 is no guidance
    num_inference_steps  steps at strength 1
    template             of all prompts; may use {article}, {word} and {description}
    """

    backbone: Backbone
    strength: float
    guidance_scale: float
    num_inference_steps: int
    template: str

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: torch.Generator) -> Tensor:
        """Edit latents: (B, C, h, w) in, (n, C, h, w) out. `levels` are those of the steps that are taken,
        strictly descending; z lies at the last."""
        ...


def check_fields(editor: LatentEditor) -> None:
    """InputError for fields that cannot be."""
    steps_taken(editor.num_inference_steps, editor.strength)
    if not math.isfinite(editor.guidance_scale):
        raise InputError(f"guidance_scale must be a finite number, not {editor.guidance_scale}")
    editor.backbone.timesteps(editor.num_inference_steps)


@torch.no_grad()
def edit(
    editor: LatentEditor,
    images: Tensor,
    emotion: str | Sequence[str],
    *,
    generator: torch.Generator,
    description: str | Sequence[str] = PERSON,
    source_emotion: str | Sequence[str | None] | None = None,
) -> Tensor:
    """`Editor`'s contract around `change`: encode each picture once, change, decode."""
    texts = build_prompts(images, emotion, description, source_emotion, editor.template)
    steps = steps_taken(editor.num_inference_steps, editor.strength)
    if steps == 0:
        return images.expand(len(texts.targets), -1, -1, -1).clone()
    # Some grids name the clean level twice; the step between the two goes nowhere.
    grid = list(dict.fromkeys(editor.backbone.timesteps(editor.num_inference_steps)))
    z = editor.change(editor.backbone.encode(images), grid[-steps - 1 :], texts, generator)
    return editor.backbone.decode(z).to(images.device)


def build_prompts(
    images: Tensor,
    emotion: str | Sequence[str],
    description: str | Sequence[str],
    source_emotion: str | Sequence[str | None] | None,
    template: str,
) -> Prompts:
    """The prompts of a call; a source whose emotion is not known is described without one.

    InputError: an unknown emotion, lists of the wrong length, several descriptions of one picture.
    """
    b, n = len(images), number_of_edits(images, emotion)
    felt, known = each(emotion, n, "emotion"), each(description, n, "description")
    if b < n and len(set(known)) > 1:
        raise InputError(f"{len(known)} descriptions of one picture; give one")
    before = each(source_emotion, b, "source emotion")
    return Prompts(
        [prompt(label, who, template) for label, who in zip(felt, known, strict=True)],
        [prompt(label, who, template) for label, who in zip(before, known, strict=False)],
    )


def unguided(editor: LatentEditor, texts: Prompts) -> Guided:
    """The predictor of the pictures as they are: their prompts, which are its `cond`, without guidance."""
    return editor.backbone.guided(editor.backbone.embed(texts.sources), 1.0)


def towards(editor: LatentEditor, texts: Prompts, uncond: Embedding | None = None) -> Guided:
    """The predictor of the edits: the target prompts, guided away from `uncond` (default: the empty one)."""
    return editor.backbone.guided(editor.backbone.embed(texts.targets), editor.guidance_scale, uncond)


def draw(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of `like`, drawn where the generator lives."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
