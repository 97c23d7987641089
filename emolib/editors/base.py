"""The `Editor` contract, and what editors in a Stable Diffusion's latents share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from emolib.emotions import words
from emolib.emotions.words import PERSON, TEMPLATE
from emolib.interventions.lora import only_rows
from emolib.runtime import in_range

if TYPE_CHECKING:
    from emolib.diffusion.backbone import Backbone, Embedding, Guided

Labels = str | Sequence[str]
Sources = str | Sequence[str | None] | None
Draws = torch.Generator | Sequence[torch.Generator]


class Request(NamedTuple):
    """What one call asks of its B pictures: lists of n emotions, n descriptions, B source emotions.

    Edit i of n is one of picture i, or, where there is one picture for all, of that one."""

    emotions: list[str]
    descriptions: list[str]
    source_emotions: list[str | None]

    @classmethod
    def build(cls, images: Tensor, emotion: Labels, description: Labels, source_emotion: Sources) -> Request:
        """Spread the arguments of an `Editor` over its edits. ValueError: lists of the wrong length."""
        b = len(images)
        n = len(emotion) if b == 1 and not isinstance(emotion, str) else b
        return cls(
            spread(emotion, n, "emotion"),
            spread(description, b, "description") * (n // b),
            spread(source_emotion, b, "source emotion"),
        )


def spread(value: Sources, n: int, what: str) -> list[str | None]:
    """Repeat one value for each of n pictures. ValueError if there are neither one nor n."""
    values = [value] if value is None or isinstance(value, str) else list(value)
    if len(values) not in (1, n):
        raise ValueError(f"{len(values)} {what}s for {n} pictures; give one, or one for each")
    return values * (n if len(values) == 1 else 1)


class Editor(ABC):
    """`editor(images, emotion, *, generator) -> images`: the same people, feeling `emotion`.

    images       float32 (B, 3, H, W) in [-1, 1], on any device; the result has the same shape, dtype, range
                 and device, wherever the method computes
    emotion      a label, or one for each picture; several for a single picture give one edit each, made as
                 one batch from one encoding and the same noise
    generator    the only source of randomness, one for all or, as in diffusers, one for each picture; None
                 for a method that draws nothing. Noise is drawn on its device and moved: with the CPU
                 generators of `runtime.generator` one seed gives one picture, whatever computes it
    description  who is in the picture, e.g. "woman with red hair", or one each; for methods with prompts
    source_emotion  what is felt in the picture as it is, if known, or one each; for methods that use it

    Raises InputError for an unknown emotion or a size that the model cannot take. Subclasses are frozen
    dataclasses with an `edit`; one with a `strength` returns the source bit for bit at 0. Whatever else is
    called alike is an editor as well.
    """

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: Labels,
        *,
        generator: Draws | None = None,
        description: Labels = PERSON,
        source_emotion: Sources = None,
    ) -> Tensor:
        request = Request.build(images, emotion, description, source_emotion)
        if getattr(self, "strength", None) == 0:
            return images.expand(len(request.emotions), -1, -1, -1).clone()
        return self._edit_in_parts(images, request, generator)

    def _edit_in_parts(self, images: Tensor, request: Request, generator: Draws | None) -> Tensor:
        """Edit with as many edits of one picture at a time as memory holds, each part from the same noise."""
        model, n = find_backbone(self), len(request.emotions)
        part = n
        if len(images) == 1 and model is not None:
            from emolib.diffusion.memory import count_fitting

            part = count_fitting(model, n, *images.shape[-2:])
        if part == n:
            return self.edit(images, request, generator)
        draws = [generator] if isinstance(generator, torch.Generator) else list(generator or ())
        states, edited = [draw.get_state() for draw in draws], []
        for first in range(0, n, part):
            for own, state in zip(draws, states, strict=True):
                own.set_state(state)
            rows = slice(first, first + part)
            some = Request(request.emotions[rows], request.descriptions[rows], request.source_emotions)
            edited.append(self.edit(images, some, generator))
        return torch.cat(edited)

    @abstractmethod
    def edit(self, images: Tensor, request: Request, generator: Draws | None) -> Tensor:
        """Edit pictures (B, 3, H, W) as the request says: (n, 3, H, W)."""


class SinglePictureEditor(Editor):
    """An `Editor` whose model is asked for one picture at a time; edits of one picture share its noise."""

    def edit(self, images: Tensor, request: Request, generator: Draws | None) -> Tensor:
        n = len(request.emotions)
        draws = list(generator) if isinstance(generator, Sequence) else [generator] * n
        if len(images) == 1:
            draws = [draw and draw.clone_state() for draw in draws]
        sources = images.expand(n, -1, -1, -1).split(1)
        rows = zip(sources, request.emotions, request.descriptions, draws, strict=True)
        return torch.cat([self.edit_one(*row) for row in rows])

    @abstractmethod
    def edit_one(
        self, source: Tensor, emotion: str, description: str, generator: torch.Generator | None
    ) -> Tensor:
        """Edit one picture (1, 3, H, W)."""


def find_backbone(editor: object) -> Backbone | None:
    """Find the model that an editor, or one it wraps, works with; None for one that has none."""
    while editor is not None and not hasattr(editor, "backbone"):
        editor = getattr(editor, "editor", None)
    return getattr(editor, "backbone", None)


def steps_taken(num_inference_steps: int, strength: float) -> int:
    """Count the steps that a `strength` in [0, 1] takes: all at 1, none at 0, at least one in between.

    diffusers rounds down, so that a small strength silently does nothing; where N * strength is whole, the
    two agree. InputError outside [0, 1].
    """
    return math.ceil(round(num_inference_steps * in_range(strength, 0, 1, "strength"), 6))


def draw(like: Tensor, generator: Draws) -> Tensor:
    """Draw standard normal noise shaped like `like` (B, ...); row b from generator b where there are B."""
    if isinstance(generator, torch.Generator):
        return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
    return torch.cat([draw(row, own) for row, own in zip(like.split(1), generator, strict=True)])


class LatentEditor(Editor):
    """An `Editor` that encodes each picture once, edits its latents, and decodes."""

    backbone: Backbone
    strength: float

    def edit(self, images: Tensor, request: Request, generator: Draws) -> Tensor:
        z = self.backbone.encode(images)
        return self.backbone.decode(self.edit_latents(z, request, generator)).to(images.device)

    @abstractmethod
    def edit_latents(self, z: Tensor, request: Request, generator: Draws) -> Tensor:
        """Edit latents: (B, C, h, w) in, (n, C, h, w) out."""


class Prompts(NamedTuple):
    """What the network is told of the n edits, and of the B pictures as they are."""

    targets: list[str]
    sources: list[str]


@dataclass(frozen=True)
class DiffusionEditor(LatentEditor):
    """A `LatentEditor` that is told in prompts what to do; subclasses have defaults (`diffusion.presets`).

    strength             share of the steps that are taken, in [0, 1]: 0 returns the source bit for bit
    guidance_scale       how much the target prompt rules; 1 is no guidance
    num_inference_steps  steps at strength 1
    template             of all prompts; may use {article}, {word} and {description}
    along                how far to go from the source's prompt to the target's, in [0, 1.5], on the straight
                         line between their embeddings (PixelSmile, arXiv 2603.25728)

    Inside `interventions.lora.lora` the edits are made with the LoRA, pictures as they are without it.
    """

    backbone: Backbone
    strength: float
    guidance_scale: float
    num_inference_steps: int = 30
    template: str = TEMPLATE
    along: float = 1.0

    def __post_init__(self) -> None:
        in_range(self.along, 0, 1.5, "along")
        steps_taken(self.num_inference_steps, self.strength)
        self.backbone.timesteps(self.num_inference_steps)

    def edit_latents(self, z: Tensor, request: Request, generator: Draws) -> Tensor:
        # Where it is not known what a source's person feels, its prompt names no emotion.
        targets, sources = (
            [words.prompt(label, who, self.template) for label, who in zip(labels, whose, strict=True)]
            for labels, whose in (
                (request.emotions, request.descriptions),
                (request.source_emotions, request.descriptions[: len(z)]),
            )
        )
        # Some grids name the clean level twice; the step between the two goes nowhere.
        levels = list(dict.fromkeys(self.backbone.timesteps(self.num_inference_steps)))
        taken = steps_taken(self.num_inference_steps, self.strength)
        return self.change(z, levels[-taken - 1 :], Prompts(targets, sources), generator)

    @abstractmethod
    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        """Edit latents (B, C, h, w) into (n, C, h, w). `levels` are those of the steps that are taken,
        strictly descending; z lies at the last."""

    def unguided(self, texts: Prompts) -> Guided:
        """Build the predictor of the pictures as they are: their prompts, its `cond`, without guidance."""
        return without_lora(self.backbone.guided(self.backbone.embed(texts.sources), 1.0))

    def embed_targets(self, texts: Prompts) -> Embedding:
        """Embed the target prompts, or the places `along` the way to them from their sources' prompts."""
        targets = self.backbone.embed(texts.targets)
        if self.along == 1:
            return targets
        return self.backbone.embed(texts.sources).expand(len(targets)).lerp(targets, self.along)

    def towards(self, texts: Prompts, uncond: Embedding | None = None) -> Guided:
        """Build the predictor of the edits: the target prompts, away from `uncond` (default: the empty)."""
        return self.backbone.guided(self.embed_targets(texts), self.guidance_scale, uncond)


def without_lora(predictor: Guided, rows: float | Sequence[float] = 0.0) -> Guided:
    """Let `predictor` ask the network without its LoRA, or with it in the rows that are 1."""
    return replace(predictor, within=partial(only_rows, predictor.backbone.unet, rows))
