"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): learn a word from pictures, and nothing else.

Only the new vectors train, spliced in front of the text encoder; every other number of the model stays bit
for bit what it was. Several words learn in one run, each as it would alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from emolib.diffusion.backbone import Backbone
from emolib.interventions import splice
from emolib.interventions.splice import parameters_of, spliced
from emolib.interventions.tokens import Token, pieces, placeholder
from emolib.runtime import InputError
from emolib.training import examples as caches
from emolib.training.examples import TEMPLATES, Batches, Examples
from emolib.training.loop import Run, Tell, fit_parameters
from emolib.training.objective import Objective
from emolib.training.pictures import NEUTRAL, Pictures
from emolib.training.settings import Settings

Rows = Mapping[str, Sequence[nn.Parameter]]
"""{token: its (n, d) vectors, one parameter for each text encoder}"""


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
    """What came of a run, in the order of the concepts.

    tokens, starts  as they were at their best evaluation, and where they started
    curves          of each: steps and evaluation losses
    steps, seconds  what the run took (all sittings together)
    """

    tokens: tuple[Token, ...]
    starts: tuple[Token, ...]
    curves: tuple[tuple[tuple[int, float], ...], ...]
    steps: int
    seconds: float


def learn_tokens(
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
) -> Learned:
    """Learn all concepts in one run; each token is returned as it was at its best evaluation.

    templates  prompts with {article}, {word} and {description}
    keep_norm  hold every vector's length between the vocabulary's 5 % and 95 % quantiles, or where it
               started: longer ones drown the rest of the prompt
    flip       show mirror images too
    work, tell see `loop.fit_parameters`

    The backbone is as before afterwards. Raises InputError: what `Pictures` and `spliced` refuse, a prompt
    so long that the token is cut off, a checkpoint of another run. FloatingPointError: it diverged.
    """
    names = [placeholder(concept.token) for concept in concepts]
    if len(set(names)) < len(names):
        raise InputError("give one token for each concept, all different")
    starts = [
        splice.vectors_of_words(backbone, name, c.initializer, vectors=c.vectors, cross=c.cross)
        for name, c in zip(names, concepts, strict=True)
    ]
    rows = {token.name: parameters_of(backbone, token, requires_grad=True) for token in starts}
    keep = _keeper(backbone, rows) if keep_norm else None
    with spliced(backbone, rows):
        examples = {
            name: _examples(backbone, name, concept.pictures, templates, flip)
            for name, concept in zip(names, concepts, strict=True)
        }
        run = train_rows(backbone, examples, rows, settings, constrain=keep, work=work, tell=tell)
    tokens = [
        start.with_rows(
            rows[start.name], emotion=c.emotion, steps=run.best_of(start.name)[0], licence=licence
        )
        for c, start in zip(concepts, starts, strict=True)
    ]
    curves = tuple(tuple(run.curves[name]) for name in names)
    return Learned(tuple(tokens), tuple(starts), curves, run.step, run.seconds)


def train_rows(
    backbone: Backbone,
    examples: Mapping[str, Examples],
    rows: Rows,
    settings: Settings,
    *,
    constrain: Callable[[str], None] | None = None,
    work: Path | None = None,
    tell: Tell | None = None,
) -> Run:
    """Train vectors that are spliced in already on their examples; they end as they were at their best.

    `constrain(token)` runs after every step. InputError and FloatingPointError as `learn_tokens`."""
    batches = Batches(backbone, examples, seed=settings.seed, held_out=settings.held_out)
    _check_prompts(backbone, batches, examples, rows)
    objective = Objective(backbone, batches, settings)
    # Another run's checkpoint is told by its settings, model, pictures and where it starts from.
    about = {**asdict(settings), "checkpoint_every": 0, "model": backbone.name}
    digest = hashlib.sha256(repr((about, caches.fingerprint(examples))).encode())
    for parameter in (p for group in rows.values() for p in group):
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    with caches.set_aside(backbone.vae):
        return fit_parameters(
            rows,
            objective,
            settings,
            evaluate=objective.evaluate,
            after_step=constrain and (lambda step, groups: [constrain(name) for name in groups]),
            scale_gradients=objective.dtype == torch.float16,
            work=work,
            identity=digest.hexdigest(),
            tell=tell,
        )


def _examples(
    backbone: Backbone, name: str, pictures: Pictures, templates: Sequence[str], flip: bool
) -> Examples:
    """Encode a concept's pictures, each with its prompts, and their neutral counterparts with theirs."""
    kinds = ((name, pictures.images), (NEUTRAL, pictures.neutral))
    felt, calm = (
        None
        if images is None
        else caches.encode_examples(
            backbone, images, caches.write_prompts(label, pictures.descriptions, templates), flip=flip
        )
        for label, images in kinds
    )
    return replace(felt, neutral=calm)


def _check_prompts(
    backbone: Backbone, batches: Batches, examples: Mapping[str, Examples], rows: Rows
) -> None:
    """InputError if a prompt is cut off before the whole token is in it."""
    tokenizer = getattr(backbone.pipe, splice.components(backbone)[0][0])
    ids = dict(zip(batches.lines, batches.ids[0].tolist(), strict=True))
    for name, example in examples.items():
        needed = set(tokenizer.convert_tokens_to_ids(pieces(name, len(rows[name][0]))))
        for line in (line for texts in example.prompts for line in texts):
            if not needed <= set(ids[line]):
                raise InputError(
                    f"prompt {line!r} does not hold {name} within the model's length; shorten it"
                )


def _keeper(backbone: Backbone, rows: Rows) -> Callable[[str], None]:
    """Make the function that brings a token's vectors back to the vocabulary's lengths, in place.

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
