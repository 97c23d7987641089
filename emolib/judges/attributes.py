"""The attribute probe: does a picture show the red hair, the glasses, the beard that its prompt named?

Its eyes are the first stages of the held-out judge, frozen, so the probe, like that judge, measures and is
used for nothing else. Beside their features stand the colours themselves. A small head reads every cell of a
12x12 grid alike and pools the cells' answers, attribute by attribute, under weights that it learned: whatever
of the wall shows between hair and frame decides the wall's colour (attention-based pooling, Ilse, Tomczak and
Welling 2018, "Attention-based Deep Multiple Instance Learning", eq. 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from emolib.images import resize
from emolib.judges import emotion
from emolib.runtime import InputError, read_json, reading, repo_path

SIZE, CELLS, HIDDEN = 96, 12, 64
Values = dict[str, tuple[str, ...]]
"""Attribute -> what it can be: "beard" -> ("False", "True")."""
Asked = tuple[str, dict[str, str]]
"""A description for a prompt, and the attributes that it names, with their values."""
HAIR = ("black", "brown", "blond", "red", "grey")


@torch.no_grad()
def features(judge: emotion.Judge, images: Tensor) -> Tensor:
    """(B, C, 12, 12) float32 of pictures (B, 3, H, W) in [-1, 1]: of each cell the mean colours of its
    quarters, the colours' deviation, then what the judge's stem and first three stages find there."""
    x = resize(images.to(judge.device), SIZE)
    side = SIZE // CELLS
    mean = F.avg_pool2d(x, side)
    deviation = (F.avg_pool2d(x * x, side) - mean * mean).clamp_min(0).sqrt()
    found = [F.pixel_unshuffle(F.avg_pool2d(x, side // 2), 2), deviation]
    for level in judge.network(x, output_hidden_states=True).hidden_states[:4]:
        fine = level.shape[-1] >= CELLS
        found.append(F.adaptive_avg_pool2d(level, CELLS) if fine else F.interpolate(level, size=CELLS))
    return torch.cat(found, 1).float()


class Head(nn.Module):
    """Features (B, C, 12, 12) -> logits (B, all values of all attributes): what the cells say, pooled, plus
    what a 3x3 grid of their averages says, for attributes that no single place shows, such as age.

    counts  how many values each attribute has, in order
    """

    def __init__(self, channels: int, counts: list[int]):
        super().__init__()
        self.counts = counts
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, channels, 1, 1))
        self.cell, self.picture = nn.Conv2d(channels, HIDDEN, 1), nn.Linear(channels, HIDDEN)
        self.place = nn.Parameter(torch.zeros(1, HIDDEN, CELLS, CELLS))
        self.mix, self.dropout = nn.Conv2d(HIDDEN, HIDDEN, 1), nn.Dropout(0.2)
        self.answer, self.weight = nn.Conv2d(HIDDEN, sum(counts), 1), nn.Conv2d(HIDDEN, len(counts), 1)
        self.whole = nn.Linear(9 * HIDDEN, sum(counts))

    def standardise(self, x: Tensor) -> None:
        """Bring the channels of features like `x` to mean 0 and deviation 1."""
        self.mean.copy_(x.mean((0, 2, 3), keepdim=True))
        self.spread.copy_(x.std((0, 2, 3), keepdim=True).clamp_min(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) / self.spread).clamp(-6, 6)
        # What a colour is called depends on the light: each cell also knows the picture's average.
        hidden = F.gelu(self.cell(x) + self.picture(x.mean((2, 3)))[..., None, None] + self.place)
        hidden = self.dropout(F.gelu(self.mix(self.dropout(hidden))))
        answers = self.answer(hidden).flatten(2).split(self.counts, 1)
        weights = self.weight(hidden).flatten(2).softmax(-1).split(1, 1)
        pooled = torch.cat([(a * w).sum(-1) for a, w in zip(answers, weights, strict=True)], 1)
        return pooled + self.whole(F.adaptive_avg_pool2d(hidden, 3).flatten(1))


@dataclass(frozen=True)
class Probe:
    """A trained head, the judge it looks through, and the values of each attribute in the logits' order."""

    judge: emotion.Judge
    head: Head
    values: Values

    @torch.no_grad()
    def logits(self, images: Tensor, *, batch_size: int = 128) -> dict[str, Tensor]:
        """Attribute -> logits (B, values) on the CPU of pictures (B, 3, H, W) in [-1, 1], any size."""
        parts = [self.head(features(self.judge, part)).cpu() for part in images.split(batch_size)]
        split = torch.cat(parts).split(self.head.counts, 1)
        return dict(zip(self.values, split, strict=True))

    def see(self, images: Tensor) -> dict[str, list[str]]:
        """Attribute -> the likeliest value in each of the pictures (B, 3, H, W) in [-1, 1]:
        {"beard": ["False", "True"], "hair_color": ["red", "black"], ...} of two."""
        found = self.logits(images)
        return {name: [self.values[name][k] for k in z.argmax(1).tolist()] for name, z in found.items()}


def digest(judge: Path) -> str:
    """By which a probe knows the judge, saved in this folder, that it was trained on."""
    return hashlib.sha256((judge / "model.safetensors").read_bytes()).hexdigest()[:16]


def load_probe(folder: Path | None = None, judge: Path | None = None, *, device: str = "auto") -> Probe:
    """The probe saved in `folder`, looking through the held-out judge of the folder `judge`; default: those
    of `data/judges`. Runs in float32.

    InputError if a file is missing or broken, or if the probe was trained on another judge."""
    folder = folder or repo_path("data", "judges", "probe")
    judge = judge or repo_path("data", "judges", "heldout")
    facts = read_json(folder / "probe.json")
    eyes = emotion.load_judge(judge, device=device)
    if facts.get("judge") != digest(judge):
        raise InputError(f"{folder}: was trained on another judge than {judge}; run train.probe again")
    with reading(folder, "probe"):
        values = {name: tuple(options) for name, options in facts["values"].items()}
        weights = load_file(folder / "model.safetensors")
        head = Head(weights["mean"].shape[1], [len(options) for options in values.values()])
        head.load_state_dict(weights)
    return Probe(eyes, head.to(eyes.device).eval().requires_grad_(False), values)


def descriptions(n: int) -> list[Asked]:
    """n people to ask MiniSD for: women and men in turn, five hair colours, some glasses and beards."""
    asked = []
    for i in range(n):
        gender, hair = ("woman", "man")[i % 2], HAIR[i % len(HAIR)]
        named = {"gender": gender, "hair_color": hair}
        worn = [f"short {hair} hair"]
        if i % 4 == 3:
            worn, named = [*worn, "a beard"], {**named, "beard": "True"}
        if i % 3 == 2:
            worn, named = [*worn, "glasses"], {**named, "glasses": "True"}
        asked.append((f"{gender} with {' and '.join(worn)}", named))
    return asked


def obeyed(
    see: Callable[[Tensor], Mapping[str, Sequence[str]]], pictures: Tensor, asked: Sequence[Asked]
) -> list[tuple[int, str, bool]]:
    """(prompt's number, attribute, whether `see` finds it as named) for everything that the prompts of
    the B pictures name."""
    seen = see(pictures)
    return [
        (i, name, seen[name][i] == value)
        for i, (_, named) in enumerate(asked)
        for name, value in named.items()
    ]
