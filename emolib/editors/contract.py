"""The `Editor` contract, and what the editors share: prompts, and what `strength` means.

An editor is a frozen dataclass whose fields are its hyper-parameters: `repr` is its caption in a table,
`asdict` its entry in a log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from emolib.emotions import words
from emolib.runtime import InputError

PERSON = "person"
TEMPLATE = "photo of {article} {word} {description}"


class Editor(Protocol):
    """`editor(images, emotion, *, generator) -> images`: the same people, feeling `emotion`.

    images       float32 (B, 3, H, W) in [-1, 1]; the result has the same shape, device and range
    emotion      a label, or one for each picture; several for a single picture give one edit each, made as
                 one batch from one encoding and the same noise
    generator    the only source of randomness
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
