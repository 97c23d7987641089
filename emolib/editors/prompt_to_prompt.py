"""Prompt-to-prompt: the target prompt is drawn with the attention of the source prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emolib.attention import alignment
from emolib.attention.control import Injection, controlled
from emolib.attention.maps import AttentionMaps, LocalBlend
from emolib.backbone import Backbone, Embedding
from emolib.editors.contract import PERSON, TEMPLATE, each, prompt, steps_taken
from emolib.emotions import words
from emolib.runtime import InputError
from emolib.sampling import Prediction, Trajectory, denoise


@dataclass(frozen=True)
class PromptToPrompt:
    """Hertz et al. 2022 on DDIM inversion, the source branch pinned to the recorded latents (Ju et al. 2023).

    The picture is inverted under its own prompt, then denoised together with one copy for each target prompt;
    the copies take over its attention. Strength 0 returns the source bit for bit; below 1 the first steps are
    left out.

    source_emotion       what the picture shows: its word is swapped for the target's ("replace"). None: not
                         known; the source prompt has no such word and the target's is added ("refine")
    cross_replace_steps  share of the steps, from the first, in which cross-attention is taken over ...
    self_replace_steps   ... and self-attention: much keeps the layout, little lets the expression change
    emphasis             factor of the attention to the emotion's word in those steps
    local_blend          threshold in (0, 1) of the mask outside which the source stays; None: no mask
    """

    backbone: Backbone
    strength: float = 1.0
    guidance_scale: float = 5.0
    num_inference_steps: int = 30
    source_emotion: str | None = "neutral"
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    emphasis: float = 1.0
    local_blend: float | None = None
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        self.backbone.timesteps(self.num_inference_steps)
        if not (math.isfinite(self.guidance_scale) and math.isfinite(self.emphasis)):
            raise InputError("guidance_scale and emphasis must be finite numbers")
        shares = {name: getattr(self, name) for name in ("cross_replace_steps", "self_replace_steps")}
        for name, share in {**shares, "local_blend": self.local_blend or 0.0}.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} must lie in [0, 1], not {share}")
        self.source_prompt(PERSON)

    def source_prompt(self, description: str) -> str:
        """What the picture shows, in words: "photo of a neutral woman", or "photo of a woman"."""
        if self.source_emotion is not None:
            return prompt(self.source_emotion, description, self.template)
        prompt("neutral", description, self.template)  # checks the template
        text = self.template.format(article=words.article(description), word="", description=description)
        return " ".join(text.split())

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
    ) -> Tensor:
        """See `Editor`. All edits of one picture share its inversion and its source branch."""
        n = len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)
        labels, who = each(emotion, n, "emotion"), each(description, n, "description")
        targets = [prompt(label, person, self.template) for label, person in zip(labels, who, strict=True)]
        steps = steps_taken(self.num_inference_steps, self.strength)
        if steps == 0:
            return images.expand(n, -1, -1, -1).clone()
        backbone, owners = self.backbone, [i % len(images) for i in range(n)]
        sources = [self.source_prompt(who[owners.index(i)]) for i in range(len(images))]
        cond = backbone.embed(sources)
        walk = invert(backbone, backbone.encode(images), cond, backbone.timesteps(self.num_inference_steps))
        later = walk.skip(self.num_inference_steps - steps)
        words_at = self._words(sources, targets, [*[self.source_emotion] * len(images), *labels])
        injection = self._injection(sources, targets, owners, walk.timesteps, words_at)
        maps = AttentionMaps(injection.rows)
        mask = LocalBlend(maps, words_at, injection.sources, self.local_blend or 0.0, start=steps // 5)

        def keep(i: int, z: Tensor, prediction: Prediction) -> Tensor:
            z = torch.cat([later.latents[i + 1], z[len(images) :]])
            blended = mask(i, z, prediction) if self.local_blend is not None else None
            return z if blended is None else blended

        predictor = backbone.guided(Embedding.cat([cond, backbone.embed(targets)]), self.guidance_scale)
        start = later.latents[0][list(injection.sources)]
        with controlled(backbone.unet, injection, *([] if self.local_blend is None else [maps])):
            z = denoise(predictor, Trajectory(later.timesteps, start=start), callback=keep)
        return backbone.decode(z[len(images) :]).to(images.device)

    def _words(
        self, sources: list[str], targets: list[str], labels: Sequence[str | None]
    ) -> list[tuple[int, ...]]:
        """For each row, sources first, the positions of its emotion's word (none: it has no such word)."""
        rows = zip([*sources, *targets], labels, strict=True)
        pipe = self.backbone.pipe
        return [alignment.find(pipe, text, words.adjective(label)) if label else () for text, label in rows]

    def _injection(
        self,
        sources: list[str],
        targets: list[str],
        owners: list[int],
        timesteps: Sequence[int],
        words_at: list[tuple[int, ...]],
    ) -> Injection:
        """The attention control of the rows, sources first; target i follows source owners[i]."""
        count, how = len(sources), alignment.replace if self.source_emotion else alignment.refine
        rows = [alignment.spans(self.backbone.pipe, text) for text in [*sources, *targets]]
        weights = torch.ones(len(rows), sum(len(span.tokens) for span in rows[0]))
        for row in range(count, len(rows)):
            weights[row, list(words_at[row])] = self.emphasis
        return Injection(
            sources=(*range(count), *owners),
            transfers=(*[None] * count, *(how(rows[o], rows[count + i]) for i, o in enumerate(owners))),
            timesteps=timesteps,
            cross_replace_steps=(0.0, self.cross_replace_steps),
            self_replace_steps=(0.0, self.self_replace_steps),
            weights=weights,
        )


def invert(backbone: Backbone, z: Tensor, cond: Embedding, timesteps: Sequence[int]) -> Trajectory:
    """DDIM inversion of clean latents at guidance 1: the walk, with all its latents, ready to be denoised."""
    latents = [z]
    denoise(
        backbone.guided(cond, 1.0),
        Trajectory(timesteps[::-1], start=z),
        callback=lambda i, z, prediction: latents.append(z),
    )
    return Trajectory(timesteps, torch.stack(latents[::-1]))
