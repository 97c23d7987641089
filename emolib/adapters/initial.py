"""Where a new token starts: at a word's vectors, at the mean of words, or at what the text encoder makes of
them; and how long the vocabulary's vectors are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emolib.adapters import text
from emolib.adapters.tokens import Token
from emolib.backbone import Backbone
from emolib.runtime import InputError


def of_words(
    backbone: Backbone, name: str, words: Sequence[str] | str, *, vectors: int = 1, cross: bool = False
) -> Token:
    """A token of `vectors` vectors that says what `words` say, for each text encoder.

    A single word that the tokenizer splits into just as many pieces is taken piece by piece, so that the
    token is the word. Otherwise every vector is the mean of all words' pieces. `cross` takes the encoder's
    output at those places instead of its input, scaled to the input's length: cross-initialisation (Pang et
    al. 2023, arXiv 2312.15905), whose observation is that learned vectors end near the encoder's outputs.
    Raises InputError: no word, more than eight vectors.
    """
    words = [words] if isinstance(words, str) else list(words)
    if not words or not all(word.strip() for word in words):
        raise InputError(f"{name}: give a word to start from, e.g. the emotion's adjective")
    if not 1 <= vectors <= 8:
        raise InputError(f"{name}: 1 to 8 vectors, not {vectors}")
    rows = [
        _rows(getattr(backbone.pipe, tokenizer), getattr(backbone.pipe, encoder), words, vectors, cross)
        for tokenizer, encoder in text.components(backbone)
    ]
    second = rows[1] if len(rows) > 1 else None
    return Token(name, rows[0], second, model=backbone.name, initializer=", ".join(words))


@torch.no_grad()
def _rows(tokenizer, encoder: nn.Module, words: Sequence[str], vectors: int, cross: bool) -> Tensor:
    table = encoder.get_input_embeddings()
    found = []
    for word in words:
        ids = torch.tensor(tokenizer(word).input_ids, device=encoder.device)
        inside = slice(1, len(ids) - 1)  # between the start and end tokens
        rows = table(ids[inside])
        if cross:
            output = encoder(ids[None], output_hidden_states=True).hidden_states[-1][0, inside]
            rows = output * (rows.norm(dim=1, keepdim=True) / output.norm(dim=1, keepdim=True))
        found.append(rows.float())
    if len(found) == 1 and len(found[0]) == vectors:
        return found[0]
    return torch.cat(found).mean(0, keepdim=True).repeat(vectors, 1)


def lengths(backbone: Backbone) -> list[Tensor]:
    """Quantiles 0.05, 0.5 and 0.95 of the vocabulary's vector lengths, (3,) float32, for each encoder."""
    quantiles = torch.tensor([0.05, 0.5, 0.95])
    with torch.no_grad():
        tables = [encoder.get_input_embeddings().weight for encoder in text.encoders(backbone)]
        return [torch.quantile(table.float().norm(dim=1), quantiles.to(table.device)) for table in tables]
