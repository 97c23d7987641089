"""Name learned tokens, mix them, interpolate between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from emolib.emotions import spaces as circle
from emolib.runtime import InputError


@dataclass(eq=False)
class Token:
    """A placeholder and its vectors, float32 on the CPU.

    name         "<awe>": lower case, in angle brackets
    vectors      (n, d) rows for the text encoder (SDXL: its first, clip_l)
    vectors_2    (n, d2) rows for SDXL's second text encoder, clip_g; None elsewhere
    model, emotion, initializer, steps, licence   where it comes from, for the file's header

    Raises InputError for another shape or numbers that are not finite.
    """

    name: str
    vectors: Tensor
    vectors_2: Tensor | None = None
    model: str = ""
    emotion: str = ""
    initializer: str = ""
    steps: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        self.name = placeholder(self.name)
        self.vectors = _plain(self.vectors)
        self.vectors_2 = None if self.vectors_2 is None else _plain(self.vectors_2)
        for rows in self.rows:
            shaped = rows.ndim == 2 and rows.numel() and len(rows) == len(self.vectors)
            fault = "(n, width) is expected" if not shaped else "some of their numbers are not finite"
            if not shaped or not torch.isfinite(rows).all():
                raise InputError(f"{self.name}: vectors of shape {tuple(rows.shape)}; {fault}")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def rows(self) -> list[Tensor]:
        """The vectors, one tensor for each text encoder."""
        return [self.vectors] if self.vectors_2 is None else [self.vectors, self.vectors_2]

    def with_rows(self, rows: Sequence[Tensor], **changes: object) -> Token:
        """Return the token with other vectors, one tensor for each text encoder, and other `changes`."""
        return replace(self, vectors=rows[0], vectors_2=rows[1] if len(rows) > 1 else None, **changes)


def _plain(vectors: Tensor) -> Tensor:
    return vectors.detach().float().cpu().contiguous()


def _combine(tokens: Sequence[Token], name: str | None, how: Callable[..., Tensor]) -> Token:
    first = tokens[0]
    for other in tokens[1:]:
        if [rows.shape for rows in other.rows] != [rows.shape for rows in first.rows]:
            raise InputError(
                f"{first.name} and {other.name} differ in the number or width of their vectors; train them"
                " alike"
            )
    rows = [how(*parts) for parts in zip(*(token.rows for token in tokens), strict=True)]
    return first.with_rows(rows, name=name or first.name)


def interpolate(a: Token, b: Token, weight: float, *, name: str | None = None) -> Token:
    """`a` at weight 0, `b` at 1, and the straight line through them; called `name` (default: as `a`)."""
    return _combine([a, b], name, lambda x, y: (1 - weight) * x + weight * y)


def strengthen(emotion: Token, neutral: Token, alpha: float, *, name: str | None = None) -> Token:
    """neutral + alpha (emotion - neutral): 0 is neutral, 1 the token, above 1 an exaggeration.

    EmotiCrafter (Dang et al. 2025, arXiv 2501.05710) scales its residual so, with alpha about 1.5.
    """
    return interpolate(neutral, emotion, alpha, name=name or emotion.name)


def mix(tokens: Sequence[Token], weights: Sequence[float], *, name: str | None = None) -> Token:
    """The weighted mean of several tokens."""

    def mean(*parts: Tensor) -> Tensor:
        return sum(weight * part for weight, part in zip(weights, parts, strict=True)) / sum(weights)

    return _combine(tokens, name, mean)


def around(
    tokens: Mapping[str, Token], degrees: float, *, wheel: str = "mikels", name: str | None = None
) -> Token:
    """The token at an angle of the emotion wheel, mixed from its two neighbours there.

    `tokens` maps two labels of `wheel` (see `emotions.spaces.ANGLES`) or more to tokens. At a label's own
    angle the result is that label's token; between two it moves in proportion to the angle.
    """
    order = sorted((circle.angle(label, wheel), label) for label in tokens)
    angles = [angle for angle, _ in order]
    place = degrees % 360
    after = next((i for i, angle in enumerate(angles) if angle > place), 0)
    (low, first), (high, second) = order[after - 1], order[after]
    weight = (place - low) % 360 / ((high - low) % 360 or 360)
    return interpolate(tokens[first], tokens[second], weight, name=name)


def placeholder(name: str) -> str:
    """The one spelling of a token's name: lower case in angle brackets, "<awe>".

    Brackets keep it from being part of a word; tokenizers of CLIP's kind know no capitals. Raises InputError
    for a name without brackets (which may be a word already) and for one that no tokenizer keeps whole.
    """
    if not re.fullmatch(r"<[^<>\s|]+>", name):
        raise InputError(
            f"token {name!r} is not a name in angle brackets without space or bar; write '{bracketed(name)}'"
        )
    return name.casefold()


def bracketed(name: str) -> str:
    """Turn any name, e.g. another program's, into a placeholder: "charturner v2" -> "<charturner-v2>"."""
    bare = re.sub(r"[<>|\s]+", "-", name).strip("-").casefold()
    return f"<{bare or 'token'}>"


def pieces(name: str, n: int) -> list[str]:
    """The vocabulary entries of a token of n vectors: "<awe>", "<awe>_1", ... as diffusers names them."""
    return [name, *(f"{name}_{i}" for i in range(1, n))]
