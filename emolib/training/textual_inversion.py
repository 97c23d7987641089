"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): learn a word from pictures, and nothing else.

Only the new vectors train, spliced in front of the text encoder; every other number of the model stays bit
for bit what it was. Several words learn in one run, each as it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from emolib.diffusion.backbone import Backbone
from emolib.emotions.words import ADJECTIVES
from emolib.interventions import splice
from emolib.interventions.splice import parameters_of, spliced
from emolib.interventions.tokens import Token, pieces, placeholder
from emolib.runtime import InputError
from emolib.training import examples as caches
from emolib.training.examples import TEMPLATES, Examples
from emolib.training.loop import Tell, fit
from emolib.training.pictures import NEUTRAL, Pictures
from emolib.training.settings import Settings


@dataclass(frozen=True, eq=False)
class Concept:
    """One emotion to learn.

    token        its new word, "<awe>"
    pictures     people who feel it; with neutral counterparts, the token learns the difference
    initializer  the word, or words, whose (mean) vectors it starts from
    vectors      how many vectors the word has, 1 to 8
    cross        start from the text encoder's output instead; see `splice.vectors_of_words`
    emotion      the label, for the file
    """

    token: str
    pictures: Pictures
    initializer: str | Sequence[str]
    vectors: int = 1
    cross: bool = False
    emotion: str = ""


@dataclass(frozen=True, eq=False)
class Learned:
    """A learned token, where it started, and its curve: steps and evaluation losses."""

    token: Token
    start: Token
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Result:
    """All tokens of a run, in the order of the concepts, the steps taken and the seconds they took."""

    learned: tuple[Learned, ...]
    steps: int
    seconds: float


def learn(
    backbone: Backbone,
    concepts: Sequence[Concept],
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    templates: Sequence[str] = TEMPLATES,
    keep_norm: bool = True,
    flip: bool = True,
    licence: str = "",
    work: Path | None = None,
    tell: Tell | None = None,
) -> Result:
    """Learn all concepts in one run; each token is returned as it was at its best evaluation.

    templates  prompts with {article}, {word} and {description}
    keep_norm  hold every vector's length between the vocabulary's 5 % and 95 % quantiles, or where it
               started: longer ones drown the rest of the prompt
    flip       show mirror images too
    work, tell see `loop.fit`

    The backbone is as before afterwards. Raises InputError: what `Pictures`, `of_words` and `spliced` refuse,
    a prompt so long that the token is cut off, a checkpoint of another run. FloatingPointError: it diverged.
    """
    names = [placeholder(concept.token) for concept in concepts]
    if len(set(names)) < len(names) or not names:
        raise InputError("give one token for each concept, all different")
    starts = [
        splice.vectors_of_words(backbone, name, one.initializer, vectors=one.vectors, cross=one.cross)
        for name, one in zip(names, concepts, strict=True)
    ]
    rows = {token.name: parameters_of(backbone, token, requires_grad=True) for token in starts}
    keep = _keeper(backbone, rows) if keep_norm else None
    with spliced(backbone, rows):
        examples = {
            name: _examples(backbone, name, one.pictures, templates, flip)
            for name, one in zip(names, concepts, strict=True)
        }
        _check_prompts(backbone, examples, rows)
        with caches.set_aside(backbone.vae):
            found = fit(backbone, examples, rows, settings, constrain=keep, work=work, tell=tell)
    learned = []
    for concept, start in zip(concepts, starts, strict=True):
        curve = tuple(found.curve.of(start.name))
        vectors, *others = (parameter.detach() for parameter in rows[start.name])
        token = replace(
            start,
            vectors=vectors,
            vectors_2=others[0] if others else None,
            emotion=concept.emotion,
            steps=found.curve.best(start.name)[0],
            licence=licence,
        )
        learned.append(Learned(token, start, curve))
    return Result(tuple(learned), found.steps, found.seconds)


def _examples(
    backbone: Backbone, name: str, pictures: Pictures, templates: Sequence[str], flip: bool
) -> Examples:
    texts = caches.prompts(name, pictures.descriptions, templates)
    found = caches.cache(backbone, pictures.images, texts, flip=flip)
    if pictures.neutral is None:
        return found
    calm = caches.prompts(ADJECTIVES[NEUTRAL], pictures.descriptions, templates)
    return replace(found, neutral=caches.cache(backbone, pictures.neutral, calm, flip=flip))


def _check_prompts(backbone: Backbone, examples: dict[str, Examples], rows: dict) -> None:
    """InputError if a prompt is cut off before the whole token is in it."""
    tokenizer = getattr(backbone.pipe, splice.components(backbone)[0][0])
    for name, one in examples.items():
        needed = set(tokenizer.convert_tokens_to_ids(pieces(name, len(rows[name][0]))))
        lines = sorted({line for texts in one.prompts for line in texts})
        for line, ids in zip(lines, splice.tokenise(backbone, lines)[0].tolist(), strict=True):
            if not needed <= set(ids):
                raise InputError(
                    f"prompt {line!r} does not hold {name} within the model's length; shorten it"
                )


def _keeper(backbone: Backbone, rows: dict[str, list[nn.Parameter]]) -> Callable[[str], None]:
    """The function that brings a token's vectors back to the vocabulary's lengths, in place.

    Words that a model has met often may be longer than nearly all others: what a token starts with is
    allowed."""
    bounds: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, parameters in rows.items():
        pairs = zip(parameters, splice.lengths(backbone), strict=True)
        starts = [(parameter.detach().norm(dim=1, keepdim=True), usual) for parameter, usual in pairs]
        bounds[name] = [
            (torch.minimum(start, usual[0]), torch.maximum(start, usual[2])) for start, usual in starts
        ]

    def keep(name: str) -> None:
        for parameter, (low, high) in zip(rows[name], bounds[name], strict=True):
            norm = parameter.norm(dim=1, keepdim=True)
            parameter.mul_(torch.minimum(torch.maximum(norm, low), high) / norm.clamp(min=1e-12))

    return keep
