"""Training examples of learned tokens: encoded once, drawn in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.emotions.words import CAPTION, TEMPLATE, prompt
from emolib.interventions import splice
from emolib.runtime import InputError, generator, progress

TEMPLATES = (
    TEMPLATE,
    CAPTION,
    "portrait of {article} {word} {description}",
    "a picture of {article} {word} {description}",
)


@dataclass(frozen=True, eq=False)
class Examples:
    """N pictures of one concept, as the loop needs them.

    mean, std  (N, F, C, h, w) float32 on the model's device: the normal that a picture's latents are drawn
               from anew in every step; F is 2 with the mirror image, else 1. (One frozen draw would be
               learned with its noise.)
    prompts    N tuples of V texts: what a picture may be shown with
    neutral    the same people without the emotion, row by row; the loss is then a difference
    """

    mean: Tensor
    std: Tensor
    prompts: tuple[tuple[str, ...], ...]
    neutral: Examples | None = None

    def __len__(self) -> int:
        return len(self.mean)


def write_prompts(
    label: str, descriptions: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> tuple[tuple[str, ...], ...]:
    """Write for each description a tuple of texts, one for each template: "photo of a <awe> woman", ..."""
    return tuple(tuple(prompt(label, who, template) for template in templates) for who in descriptions)


@torch.no_grad()
def encode_examples(
    backbone: Backbone, images: Tensor, texts: tuple[tuple[str, ...], ...], *, flip: bool = True
) -> Examples:
    """Encode pictures (N, 3, S, S) in [-1, 1], one by one, and with `flip` their mirror images."""
    views = [images, images.flip(-1)] if flip else [images]
    moments = [[backbone.posterior(x) for x in progress(view.split(1), "encoding")] for view in views]
    mean, std = (  # (N, F, C, h, w) each
        torch.stack([torch.cat([pair[k] for pair in view]) for view in moments], dim=1) for k in (0, 1)
    )
    return Examples(mean, std, texts)


def fingerprint(examples: Mapping[str, Examples]) -> str:
    """Hash pictures, prompts and autoencoder: which run a checkpoint belongs to."""
    digest = hashlib.sha256()
    for name, example in examples.items():
        for part in (example, example.neutral):
            if part is not None:
                digest.update(repr((name, part.prompts)).encode())
                digest.update(part.mean.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def set_aside(module: nn.Module) -> Iterator[None]:
    """Within, a network that is not needed waits in the CPU's memory."""
    device = next(module.parameters()).device
    module.to("cpu")
    try:
        yield
    finally:
        module.to(device)


@dataclass(frozen=True, eq=False)
class Batch:
    """B draws, on the CPU: example `row` and `flip`, `prompt` (positions in the table of prompts), timestep
    `t`, `group` (its number), all (B,) int64; `spread` and `noise`, standard normal (B, C, h, w), for the
    posterior and the diffusion."""

    row: Tensor
    flip: Tensor
    prompt: Tensor
    t: Tensor
    group: Tensor
    spread: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: slice) -> Batch:
        return Batch(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def cat(parts: Sequence[Batch]) -> Batch:
        """One batch after the other."""
        return Batch(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Batch)))


class Batches:
    """All groups' examples in one table on the model's device, and the draws from it.

    names         the groups, in order
    lines         the P distinct prompts
    ids           (P, L) token ids of the distinct prompts, one tensor for each text encoder, on the CPU
    neutral_text  embeddings of their neutral counterparts, encoded once (P, L, D); None without pairs
    """

    def __init__(
        self, backbone: Backbone, examples: Mapping[str, Examples], *, seed: int, held_out: float
    ) -> None:
        self.backbone, self.seed, self.names = backbone, seed, tuple(examples)
        self.levels = len(backbone.alphas_cumprod)
        groups = list(examples.values())
        self._moments = [_table(groups)]
        calm = [group.neutral for group in groups if group.neutral is not None]
        if calm:
            self._moments.append(_table(calm))
        if len(calm) not in (0, len(groups)):
            raise InputError("either all concepts of a run are learned from pairs, or none")
        lines = [line for group in groups for line in _lines(group)]
        distinct = list(dict.fromkeys(lines))
        numbers = {line: i for i, line in enumerate(distinct)}
        self._prompts = torch.tensor([numbers[line] for line in lines]).view(sum(map(len, groups)), -1)
        self._first = [sum(map(len, groups[:i])) for i in range(len(groups))]
        self._rows = [_split(len(group), held_out, seed, name) for name, group in examples.items()]
        self.lines = [line for line, _ in distinct]
        self.ids = splice.tokenise(backbone, self.lines)
        self.neutral_text = _encode(backbone, [line for _, line in distinct]) if calm else None

    def training(self, step: int, size: int, groups: Sequence[str]) -> Batch:
        """`size` draws for each of these groups, in step `step`."""
        return Batch.cat([self._draw(name, step, size) for name in groups])

    def evaluation(self, size: int) -> Batch:
        """`size` draws for every group, always the same: held-out examples where there are, a fixed prompt,
        fixed noise, timesteps evenly over all levels."""
        return Batch.cat([self._draw(name, None, size) for name in self.names])

    def _draw(self, name: str, step: int | None, size: int) -> Batch:
        k = self.names.index(name)
        draw = generator(self.seed, name, "evaluation" if step is None else step)
        learned, tested = self._rows[k]
        if step is None:
            row = tested[torch.arange(size) % len(tested)]
            flip, wording = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
        else:
            row = learned[_places(len(learned), step, size, self.seed, name)]
            flip = torch.randint(self._moments[0][0].shape[1], (size,), generator=draw)
            wording = torch.randint(self._prompts.shape[1], (size,), generator=draw)
        row = row + self._first[k]
        shape = (size, *self._moments[0][0].shape[2:])
        return Batch(
            row,
            flip,
            self._prompts[row, wording],
            stratified(size, self.levels, draw),
            torch.full((size,), k),
            torch.randn(shape, generator=draw),
            torch.randn(shape, generator=draw),
        )

    def latents(self, batch: Batch, *, neutral: bool = False) -> Tensor:
        """Clean latents (B, C, h, w) of the batch, drawn from the posteriors of its pictures, or of their
        neutral counterparts with the same draw."""
        mean, std = self._moments[neutral]
        at = batch.row.to(mean.device), batch.flip.to(mean.device)
        return mean[at] + std[at] * batch.spread.to(mean.device)


def stratified(count: int, levels: int, generator: torch.Generator) -> Tensor:
    """(count,) int64 timesteps in [0, levels), in random order: one drawn evenly from each of `count` equal
    parts, so that every batch covers all noise levels and its loss varies less."""
    place = torch.arange(count) + torch.rand(count, generator=generator)
    order = torch.randperm(count, generator=generator)
    return (place[order] * (levels / count)).long().clamp(max=levels - 1)


def pick(embedding: Embedding, index: Tensor) -> Embedding:
    """Take the embeddings at these positions, as one batch; differentiable."""
    pooled = None if embedding.pooled is None else embedding.pooled[index]
    return Embedding(embedding.hidden[index], pooled)


def _lines(examples: Examples) -> list[tuple[str, str]]:
    """Every prompt of every example with its neutral counterpart (itself, without pairs)."""
    calm = examples.neutral or examples
    pairs = zip(examples.prompts, calm.prompts, strict=True)
    return [line for texts, plain in pairs for line in zip(texts, plain, strict=True)]


@torch.no_grad()
def _encode(backbone: Backbone, lines: list[str]) -> Embedding:
    return encode_ids(backbone, splice.tokenise(backbone, lines))


@torch.no_grad()
def encode_ids(backbone: Backbone, ids: Sequence[Tensor]) -> Embedding:
    """Encode prompts' token ids (P, L), one tensor for each text encoder, sixteen prompts at once."""
    parts = zip(*(rows.split(16) for rows in ids), strict=True)
    return Embedding.cat([splice.encode_tokens(backbone, part) for part in parts])


def _table(groups: Sequence[Examples]) -> tuple[Tensor, Tensor]:
    return torch.cat([group.mean for group in groups]), torch.cat([group.std for group in groups])


def _split(n: int, held_out: float, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows to evaluate on; the same ones where there are under four."""
    order = torch.randperm(n, generator=generator(seed, name, "split"))
    kept = round(held_out * n) if n >= 4 else 0
    return (order[kept:], order[:kept]) if kept else (order, order)


def _places(n: int, step: int, size: int, seed: int, name: str) -> Tensor:
    """Which of n examples step `step` shows: every pass shows each once, in an order of its own."""
    places = range(step * size, (step + 1) * size)
    passes = {
        p: torch.randperm(n, generator=generator(seed, name, "pass", p)) for p in {i // n for i in places}
    }
    return torch.stack([passes[i // n][i % n] for i in places])
