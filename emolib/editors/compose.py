"""Editors around editors: keep the source's detail, edit in stages, keep the best of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emolib.editors.base import PERSON, Editor, LatentEditor, each, number_of_edits
from emolib.runtime import InputError

DRIFT = 0.04  # a mean change below this (of the range of 2) is the model's drift; twice of it is an edit
THRESHOLD = 0.15  # a change of this size (of the range of 2) is an edit; half of it is the model's roughness


def change_of(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """What to add to `source`, of which a model made `after`, and would have made `before` of no edit at all.

    Where the two differ much this leads to `after`; where they differ little, the detail that `source` has
    over `before` stays. Where they are equal it is exactly 0. All (B, 3, H, W), `source` and `before` may be
    one picture for all.
    """
    difference = after - before
    moved = (2 * difference.abs().mean(1, keepdim=True) / THRESHOLD - 1).clamp(0, 1)
    return difference - moved * (source - before)


def extent(before: Tensor, after: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1]: where `after` differs from `before` by more than a model's drift.

    A mask from the edit itself, after DiffEdit (Couairon et al. 2022, section 3.1), which takes it from two
    noise predictions. The difference is averaged over a neighbourhood, 5 pixels of 64 wide, so that a single
    pixel neither makes a region nor a hole.
    """
    side = 2 * max(1, round(min(after.shape[-2:]) / 32)) + 1
    mean = (after - before).abs().mean(1, keepdim=True)
    mean = F.avg_pool2d(mean, side, stride=1, padding=side // 2, count_include_pad=False)
    return (mean / DRIFT - 1).clamp(0, 1)


def kept(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """`source` with the edit that leads a model from `before` to `after`, and nothing else of the model's.

    Pictures as in `change`; the result lies in [-1, 1].
    """
    return (source + extent(before, after) * change_of(source, before, after)).clamp(-1, 1)


@dataclass(frozen=True)
class KeepDetail:
    """An editor that leaves alone what it does not mean to edit, and blurs only what it does.

    An autoencoder returns no picture as it was: a latent-space edit changes every pixel a little, and costs
    hair, skin, the colour of a collar. Here the loss is measured on the source and undone by `change`; what
    remains counts where it is the edit and no drift (`extent`). Costs one more encoding and decoding of each
    source.
    """

    editor: LatentEditor

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """See `Editor`."""
        edited = self.editor(
            images, emotion, generator=generator, description=description, source_emotion=source_emotion
        )
        if torch.equal(edited, images.expand_as(edited)):
            return edited  # strength 0
        model = self.editor.backbone
        before = model.decode(model.encode(images)).to(images.device)
        return kept(images, before, edited)


Judge = Callable[[Tensor, Sequence[str]], Tensor]
"""`judge(images, emotions) -> (B,)`: the probability that picture i shows emotion i."""

Similarity = Callable[[Tensor, Tensor], Tensor]
"""`similarity(images, others) -> (B,)`: how surely both show the same person; larger is surer."""


@dataclass(frozen=True)
class Staged:
    """A strong change in two gentle ones: first to the emotion `via`, from there to the target.

    After each stage, what hardly changed is set back to the *original* picture, so that two passes do not
    wear the picture out twice: see `anchored`, whose `threshold` is `anchor` (0: no anchoring). A person who
    is known to feel `via` needs no first stage.
    """

    editor: Editor
    via: str = "neutral"
    anchor: float = 0.1

    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """See `Editor`. All emotions of one picture share the first stage."""
        b, n = len(images), number_of_edits(images, emotion)
        labels, who = each(emotion, n, "emotion"), each(description, n, "description")[:b]
        if set(each(source_emotion, b, "source emotion")) == {self.via}:
            half = images
        else:
            half = self.editor(
                images, self.via, generator=generator, description=who, source_emotion=source_emotion
            )
            half = anchored(images, half, self.anchor)
        there = [label == self.via for label in labels]
        if all(there):
            return half.expand(n, -1, -1, -1).clone()
        result = self.editor(half, labels, generator=generator, description=who, source_emotion=self.via)
        result = anchored(images, result, self.anchor)
        result[there] = half.expand_as(result)[there]
        return result


def anchored(original: Tensor, edited: Tensor, threshold: float) -> Tensor:
    """`edited` where it differs from `original` by more than `threshold`, else `original`.

    Both float32 (B, 3, H, W), `original` may be one picture for all. The difference is a local mean, in
    units of pixels; the transition is soft, from half the threshold to all of it. 0 returns `edited`.
    """
    if threshold == 0:
        return edited
    side = 2 * round(min(original.shape[-2:]) / 32) + 1  # a thirty-second of the picture, each way
    difference = (edited - original).abs().mean(1, keepdim=True)
    local = F.avg_pool2d(difference, side, stride=1, padding=side // 2, count_include_pad=False)
    weight = (2 * local / threshold - 1).clamp(0, 1)
    return torch.lerp(original.expand_as(edited), edited, weight.expand_as(edited))


class Found(NamedTuple):
    """What a search found for each of n edits.

    images       (n, 3, H, W): the best that keeps the person, at worst the source
    probability  (n,) what the judge says of it
    tried        (n,) int64 how many candidates were made
    """

    images: Tensor
    probability: Tensor
    tried: Tensor


@dataclass(frozen=True)
class BestOf:
    """Closed loop: make candidates until the judge is content; keep the best that is still the same person.

    editors     tried in turn, with fresh noise: one editor several times, or a ladder of strengths
    judge       see `Judge`; an edit is done when it says at least `enough`
    similarity  see `Similarity`; candidates below `same` are dropped, however good
    n           budget: candidates for each edit

    The source is the first candidate: nothing worse than doing nothing is ever returned.
    """

    editors: Sequence[Editor]
    judge: Judge
    similarity: Similarity
    n: int = 4
    enough: float = 0.6
    same: float = 0.5

    def __post_init__(self) -> None:
        if self.n < 1 or not self.editors:
            raise InputError(f"a search needs editors and a budget of at least 1, not {self.n}")

    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """See `Editor`."""
        return self.search(
            images, emotion, generator=generator, description=description, source_emotion=source_emotion
        ).images

    def search(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
        source_emotion: str | Sequence[str | None] | None = None,
    ) -> Found:
        """The same with what was found; edits that are done cost nothing more."""
        b, count = len(images), number_of_edits(images, emotion)
        labels = each(emotion, count, "emotion")
        who, before = each(description, count, "description"), each(source_emotion, b, "source emotion")
        best = images.expand(count, -1, -1, -1).clone()
        probability, tried = self.judge(best, labels).clone(), torch.zeros(count, dtype=torch.int64)
        for k in range(self.n):
            rows = [i for i in range(count) if probability[i] < self.enough]
            if not rows:
                break
            sources = [i if b == count else 0 for i in rows]
            shared = sources[:1] if b < count else sources
            wanted = [labels[i] for i in rows]
            made = self.editors[k % len(self.editors)](
                images[shared],
                wanted,
                generator=generator,
                description=[who[i] for i in shared],
                source_emotion=[before[i] for i in shared],
            )
            says = self.judge(made, wanted)
            better = (self.similarity(images[sources], made) >= self.same) & (says > probability[rows])
            tried[rows] += 1
            for row, candidate, value in zip(rows, made[better], says[better], strict=False):
                best[row], probability[row] = candidate, value
        return Found(best, probability, tried)
