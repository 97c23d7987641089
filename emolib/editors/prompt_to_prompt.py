"""Prompt-to-prompt: the target prompt is drawn with the attention of the source prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emolib.diffusion import inversion
from emolib.diffusion.backbone import Embedding
from emolib.diffusion.presets import MINISD_SETTINGS as PRESET
from emolib.diffusion.sampling import Prediction, Trajectory, denoise
from emolib.editors.base import DiffusionEditor, Draws, Prompts, without_lora
from emolib.interventions import alignment
from emolib.interventions.attention import AttentionMaps, Injection, LocalBlend, controlled


@dataclass(frozen=True)
class PromptToPrompt(DiffusionEditor):
    """Hertz et al. 2022 on DDIM inversion, its source held on its way (direct inversion, Ju et al. 2023).

    The source walks along in the batch, and the edits take over its attention. A prompt with as many words
    as the source's has its words replaced (the emotion is known), another is refined (it is not). Fields: see
    `DiffusionEditor`, and

    cross_replace_steps  share of the steps, from the first, in which cross-attention is taken over ...
    self_replace_steps   ... and self-attention: much keeps the layout, little lets the expression change
    follow               share of the source's correction that the edits take, see `DirectInversion`: with 1
                         an edit that asks for what is there is exact; the paper's method takes none
    emphasis             factor of the attention to the words that are new, in the steps of cross-attention
    local_blend          in (0, 1]: where less than this share of the largest attention goes to the words that
                         differ, the source stays; None: anything may change
    """

    strength: float = PRESET["prompt-to-prompt"].strength
    guidance_scale: float = PRESET["prompt-to-prompt"].guidance_scale
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    follow: float = 1.0
    emphasis: float = 1.0
    local_blend: float | None = None

    def change(self, z: Tensor, levels: list[int], texts: Prompts, generator: Draws) -> Tensor:
        # 1. The way up, and who looks where: rows are the B sources, then the n targets. Nothing is drawn.
        model, n = self.backbone, len(texts.targets)
        plain, target = self.unguided(texts), self.embed_targets(texts)
        walk = inversion.ddim(plain, z, levels)
        rows = [alignment.spans(model.pipe, text) for text in [*texts.sources, *texts.targets]]
        owners = (*range(len(z)), *(i % len(z) for i in range(n)))
        injection = self._injection(rows, owners, levels)
        # 2. After each step the sources are set back on their way, and targets where they may not differ.
        maps, pin = AttentionMaps(len(rows)), inversion.direct(walk, follow=self.follow)
        blend = LocalBlend(maps, differing(rows, owners), owners, self.local_blend or 0.0, len(levels) // 5)

        def keep(i: int, z: Tensor, prediction: Prediction) -> Tensor:
            z = pin(i, z, prediction)
            blended = None if self.local_blend is None else blend(i, z, prediction)
            return z if blended is None else blended

        # 3. Back down, all in one batch.
        both = model.guided(Embedding.cat([plain.cond, target]), self.guidance_scale)
        both = without_lora(both, [0.0] * len(z) + [1.0] * n)
        watch = () if self.local_blend is None else (maps,)
        with controlled(model.unet, injection, *watch):
            start = walk.latents[0][list(owners)]
            return denoise(both, Trajectory(levels, start=start), callback=keep)[len(z) :]

    def _injection(
        self, rows: list[list[alignment.Span]], owners: tuple[int, ...], levels: list[int]
    ) -> Injection:
        """Make the attention control of the rows' prompts: row i takes over from row owners[i]."""
        weights = torch.ones(len(rows), sum(len(span.tokens) for span in rows[0]))
        transfers = []
        for i, owner in enumerate(owners):
            take_over = alignment.replace if len(rows[i]) == len(rows[owner]) else alignment.refine
            transfers.append(None if i == owner else take_over(rows[owner], rows[i]))
            weights[i, list(alignment.new_words(rows[owner], rows[i]))] = self.emphasis
        return Injection(
            sources=owners,
            transfers=transfers,
            timesteps=levels,
            cross_replace_steps=(0.0, self.cross_replace_steps),
            self_replace_steps=(0.0, self.self_replace_steps),
            weights=weights,
        )


def differing(rows: list[list[alignment.Span]], owners: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Find each row's tokens of the words in which a target differs from its source, and a source from its
    first target."""
    return [
        alignment.new_words(rows[owners.index(i, i + 1) if i == owner else owner], rows[i])
        for i, owner in enumerate(owners)
    ]
