"""Captions of varying length, and which captions are true of which pictures.

A caption names a random part of what is known of a picture, from "photo of an angry person" to a full
description. Because short captions are true of many pictures, every caption carries the set of attributes it
names: it is true of each picture that agrees with its own in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES

ATTRIBUTES = (
    "emotion", "gender", "age", "skin", "hair_style", "hair_color", "beard", "glasses", "clothes_color",
    "background", "background_color",
)  # fmt: skip

# The first word is emolib's own prompt word; it is drawn twice as often as all the others together.
ADJECTIVES = {
    emotion: (words.adjective(emotion), *others.split())
    for emotion, others in {
        "neutral": "expressionless",
        "amusement": "laughing",
        "awe": "awed",
        "contentment": "contented satisfied",
        "excitement": "thrilled",
        "anger": "furious",
        "disgust": "revolted",
        "fear": "afraid scared frightened",
        "sadness": "unhappy",
    }.items()
}
NOUNS = {
    "neutral": ("neutrality",),
    "amusement": ("amusement", "fun"),
    "awe": ("awe", "wonder"),
    "contentment": ("contentment", "satisfaction"),
    "excitement": ("excitement",),
    "anger": ("anger", "rage"),
    "disgust": ("disgust", "revulsion"),
    "fear": ("fear", "terror"),
    "sadness": ("sadness", "sorrow"),
}
assert tuple(ADJECTIVES) == tuple(NOUNS) == EMOFACES

NEVER = (
    "surprise", "surprised", "surprising", "astonished", "astonishment", "amazed", "amazement", "shocked",
    "contempt", "contemptuous", "scorn", "scornful", "disdain", "disdainful",
)  # fmt: skip
"""Words of the held-out emotions: in no caption, and no token of their own."""

STARTS = ("photo of ", "a photo of ", "portrait of ", "a picture of ", "")


def article(phrase: str) -> str:
    """`phrase` behind "a" or "an"."""
    return f"{words.article(phrase)} {phrase}"


@dataclass(frozen=True)
class Caption:
    """A text and the attributes it names."""

    text: str
    names: frozenset[str]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[0] if rng.random() < 0.67 or len(options) == 1 else options[rng.integers(1, len(options))]


def _hair(row: dict, named: set[str]) -> str | None:
    if "hair_style" in named and row["hair_style"] == "bald":
        return "a bald head"
    style = row["hair_style"] if "hair_style" in named and row["hair_style"] != "bald" else ""
    color = row["hair_color"] if "hair_color" in named and row["hair_color"] != "none" else ""
    text = " ".join(word for word in (style, color) if word)
    if not text:
        return None
    return article(f"{text} hair bun") if style == "bun" else f"{text} hair"


def _background(row: dict, named: set[str]) -> str | None:
    kind = row["background"] if "background" in named else ""
    color = row["background_color"] if "background_color" in named else ""
    text = " ".join(word for word in (kind, color) if word)
    return f"in front of {article(text)} background" if text else None


def _sayable(row: dict, named: set[str], rng: np.random.Generator) -> set[str]:
    """`named` without what is not said: no missing beard, no colour of no hair, seldom missing glasses."""
    gone = set()
    if row["hair_style"] == "bald" or row["hair_color"] == "none":
        gone.add("hair_color")
    if not row["beard"]:
        gone.add("beard")
    if not row["glasses"] and rng.random() < 0.8:
        gone.add("glasses")
    return named - gone


def describe(row: dict, named: set[str], rng: np.random.Generator) -> Caption:
    """A caption naming the attributes `named` of the person `row`, in a random wording."""
    named = _sayable(row, named, rng)
    person = row["gender"] if "gender" in named else "person"
    qualities = [row["age"]] if "age" in named else []
    qualities += [f"{row['skin']}-skinned"] if "skin" in named else []
    tail = ""
    if "emotion" in named:
        word, form = _pick(ADJECTIVES[row["emotion"]], rng), rng.choice(3, p=(0.7, 0.15, 0.15))
        if form == 0:
            qualities.insert(0, word)
        elif form == 1:
            tail = f" looking {word}"
        else:
            tail = f" {rng.choice(('feeling', 'showing', 'full of'))} {_pick(NOUNS[row['emotion']], rng)}"
    worn = [_hair(row, named)]
    worn += ["a beard"] if "beard" in named else []
    worn += [("" if row["glasses"] else "no ") + "glasses"] if "glasses" in named else []
    worn += [f"{row['clothes_color']} clothes"] if "clothes_color" in named else []
    worn = [str(x) for x in rng.permutation([word for word in worn if word])]
    joined = ", ".join(worn[:-1]) + (" and " if len(worn) > 1 else "") + worn[-1] if worn else ""
    start = STARTS[rng.choice(len(STARTS), p=(0.3, 0.35, 0.1, 0.1, 0.15))]
    text = start + article(" ".join([*qualities, person])) + tail + (f" with {joined}" if joined else "")
    place = _background(row, named)
    return Caption(f"{text}, {place}" if place else text, frozenset(named))


def draw_names(rng: np.random.Generator) -> set[str]:
    """Which attributes the next caption names: nearly always the emotion, often nothing else."""
    others = ATTRIBUTES[1:]
    chance = (0.0, 0.25, 0.5, 0.85)[rng.choice(4, p=(0.25, 0.35, 0.2, 0.2))]
    named = {name for name in others if rng.random() < chance}
    return named | ({"emotion"} if not named or rng.random() < 0.9 else set())


@dataclass(frozen=True)
class Bank:
    """V captions of every picture: token ids (N, V, L) int16, named attributes (N, V, A) bool, and the
    attributes' values (N, A) as numbers."""

    ids: torch.Tensor
    named: torch.Tensor
    values: torch.Tensor

    def to(self, device: torch.device) -> Bank:
        """The same on `device`."""
        return Bank(self.ids.to(device), self.named.to(device), self.values.to(device))

    def true_of(self, rows: torch.Tensor, variants: torch.Tensor) -> torch.Tensor:
        """(B, B) bool: is the caption `variants[j]` of row j (down) true of the picture of row i (across)?"""
        values, named = self.values[rows], self.named[rows, variants]
        agree = values[:, None, :] == values[None, :, :]
        return (agree | ~named[:, None, :]).all(-1)


def texts(frame: pd.DataFrame, variants: int, seed: int, without: Sequence[str] = ()) -> list[list[Caption]]:
    """For every row `variants` captions; the first is the portrait's own, which names everything. With
    `without`, attributes that are not named, all of them are drawn."""
    rows = frame[list(ATTRIBUTES)].to_dict("records")
    out = []
    for i, (row, own) in enumerate(zip(rows, frame["caption"], strict=True)):
        rng = np.random.default_rng((seed, i))
        first = [] if without else [Caption(own, frozenset(ATTRIBUTES))]
        drawn = (draw_names(rng).difference(without) for _ in range(variants - len(first)))
        out.append([*first, *(describe(row, names, rng) for names in drawn)])
    return out


def bank(frame: pd.DataFrame, tokenizer, *, variants: int = 16, seed: int = 0, without=()) -> Bank:
    """The captions of every portrait, tokenised and padded to the tokenizer's length: see `texts`."""
    captions = texts(frame, variants, seed, without)
    flat = [caption for row in captions for caption in row]
    ids = tokenizer(
        [caption.text for caption in flat],
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    named = torch.tensor([[name in caption.names for name in ATTRIBUTES] for caption in flat])
    values = np.stack([pd.factorize(frame[name], sort=True)[0] for name in ATTRIBUTES], 1)
    shape = (len(captions), variants, -1)
    return Bank(ids.to(torch.int16).view(shape), named.view(shape), torch.from_numpy(values))
