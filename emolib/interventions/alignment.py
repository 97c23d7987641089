"""Two prompts word by word: which tokens of the target take over which tokens' attention maps.

Hertz et al. 2022 (prompt-to-prompt, arXiv 2208.01626), section 3.2. A prompt is a row of spans: its start
token, its words (each one or more tokens), its end token and its padding; together they are all L tokens that
the network sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# What a user cannot type as a word: the two ends of a prompt, and what fills it up.
START, END, PADDING = "<start>", "<end>", "<padding>"
ARTICLES = ("a", "an", "the")


class Span(NamedTuple):
    """A word, as the tokenizer splits words, in lower case, and the positions of its tokens."""

    text: str
    tokens: tuple[int, ...]


class Transfer(NamedTuple):
    """How one target prompt takes over the cross-attention maps of its source prompt.

    mapper (L, L): token j of the target is given sum_i mapper[i, j] times the map of the source's token i.
    share  (L,): how much of that it takes, 1 all of it, 0 none (it keeps its own map).
    """

    mapper: Tensor
    share: Tensor


def spans(pipe: Any, text: str) -> list[Span]:
    """Split the prompt `text` as the diffusers pipeline `pipe` reads it, learned tokens included.

    Words that do not fit into the text encoder's length are left out, as the pipeline leaves them out."""
    tokenizer = pipe.tokenizer
    text = pipe.maybe_convert_prompt(text, tokenizer)
    length = tokenizer.model_max_length
    encoded = tokenizer(text, padding="max_length", truncation=True, max_length=length)
    positions: dict[int, list[int]] = {}  # of each word's tokens
    for position, word in enumerate(encoded.word_ids()):
        if word is not None:
            positions.setdefault(word, []).append(position)
    words = []
    for word, tokens in positions.items():
        start, end = encoded.word_to_chars(word)
        words.append(Span(text[start:end].lower(), tuple(tokens)))
    last = words[-1].tokens[-1] + 1 if words else 1
    return [Span(START, (0,)), *words, Span(END, (last,)), Span(PADDING, tuple(range(last + 1, length)))]


def align(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Find for each word of `target` the place in `source` of the same word, in order, or None.

    Needleman & Wunsch 1970 with the scores of prompt-to-prompt: equal 1, gap 0, different -1 (so that
    different words are never matched)."""
    rows, columns = len(source), len(target)
    # 1. best[i][j]: the score of the first i words against the first j.
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            match = best[i - 1][j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            best[i][j] = max(match, best[i - 1][j], best[i][j - 1])
    # 2. Back from the last words along the way that this score came by.
    places: list[int | None] = [None] * columns
    i, j = rows, columns
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            places[j] = i
    return places


def replace(source: Sequence[Span], target: Sequence[Span]) -> Transfer:
    """Swap words (section 3.2): every token takes the map of the word in its place.

    A word of k tokens hands its whole attention to the m tokens in its place, 1 / m each, so that the maps
    of a pixel still sum to 1. ValueError if the prompts differ in their number of words: `refine` them."""
    return _transfer(zip(source, target, strict=True), target)


def refine(source: Sequence[Span], target: Sequence[Span]) -> Transfer:
    """Add a phrase (section 3.2): words of both prompts take over the source's maps, new ones keep their own.

    As in the paper, the maps of a pixel then need not sum to 1."""
    places = align([span.text for span in source], [span.text for span in target])
    pairs = zip(places, target, strict=True)
    return _transfer(((source[i], span) for i, span in pairs if i is not None), target)


def new_words(source: Sequence[Span], target: Sequence[Span]) -> tuple[int, ...]:
    """Find the positions of the tokens of the words of `target` that `source` does not
    have there; articles left out ("a sad man", "an angry man": of angry)."""
    places = align([span.text for span in source], [span.text for span in target])
    new = (span for place, span in zip(places, target, strict=True) if place is None)
    return tuple(position for span in new if span.text not in ARTICLES for position in span.tokens)


def _transfer(pairs: Iterable[tuple[Span, Span]], target: Sequence[Span]) -> Transfer:
    length = sum(len(span.tokens) for span in target)
    mapper = torch.zeros(length, length)
    for old, new in pairs:
        same = len(old.tokens) == len(new.tokens)
        for j, position in enumerate(new.tokens):
            if same:
                mapper[old.tokens[j], position] = 1.0
            else:
                mapper[list(old.tokens), position] = 1 / len(new.tokens)
    return Transfer(mapper, (mapper.sum(0) > 0).float())
