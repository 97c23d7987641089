"""What the editors in a Stable Diffusion's latents share: checks, prompts, and the way in and out.

Such an editor says in `change` what it does with latents, and takes `__post_init__ = check` and
`__call__ = edit` from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from emolib.backbone import Backbone, Embedding, Guided
from emolib.editors.contract import PERSON, each, number_of_edits, prompt, steps_taken
from emolib.runtime import InputError


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


def check(editor: LatentEditor) -> None:
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
    texts = prompts(images, emotion, description, source_emotion, editor.template)
    steps = steps_taken(editor.num_inference_steps, editor.strength)
    if steps == 0:
        return images.expand(len(texts.targets), -1, -1, -1).clone()
    # Some grids name the clean level twice; the step between the two goes nowhere.
    grid = list(dict.fromkeys(editor.backbone.timesteps(editor.num_inference_steps)))
    z = editor.change(editor.backbone.encode(images), grid[-steps - 1 :], texts, generator)
    return editor.backbone.decode(z).to(images.device)


def prompts(
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
