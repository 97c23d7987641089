"""Put learned vectors into a text encoder for a while, and find vectors to start from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.interventions import token_files
from emolib.interventions.tokens import Token, pieces, placeholder
from emolib.runtime import InputError, in_range


class Spliced(nn.Module):
    """A token table with further rows: ids below `first` are the table's, those from `first` on are new.

    `rows` are (n, d) parameters, one for each token. The table's weights take part in nothing but a look-up,
    so a gradient reaches the new rows only.
    """

    def __init__(self, table: nn.Module, first: int, rows: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.table, self.first, self.rows = table, first, nn.ParameterList(rows)
        self.embedding_dim: int = table.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        # ids (B, L): looked up in both, each where the other does not reach; then the right one is taken.
        old = self.table(ids.clamp(max=self.first - 1))  # (B, L, d)
        rows = torch.cat(list(self.rows)).to(old.dtype)  # (n, d)
        new = F.embedding((ids - self.first).clamp(min=0), rows)  # (B, L, d)
        return torch.where((ids >= self.first).unsqueeze(-1), new, old)


@contextmanager
def spliced(backbone: Backbone, rows: Mapping[str, Sequence[nn.Parameter]]) -> Iterator[None]:
    """Within, the placeholders of `rows` are tokens, each with one (n, d) parameter for each text encoder.

    Raises InputError before anything is changed: a name that is a token already, another number of text
    encoders, another width.
    """
    parts = components(backbone)
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in encoders(backbone)]
    for name, parameters in rows.items():
        own = [parameter.shape[1] for parameter in parameters]
        if own != widths:
            raise InputError(
                f"{name}: vectors of width {own}, but {backbone}'s text encoders take {widths}; the file is"
                " for another model"
            )
    with ExitStack() as stack:
        for i, (tokenizer, encoder) in enumerate(parts):
            own = {name: parameters[i] for name, parameters in rows.items()}
            stack.enter_context(_one_encoder(backbone, tokenizer, encoder, own))
        yield


@contextmanager
def _one_encoder(
    backbone: Backbone, tokenizer: str, encoder: str, rows: Mapping[str, nn.Parameter]
) -> Iterator[None]:
    words, network = getattr(backbone.pipe, tokenizer), getattr(backbone.pipe, encoder)
    table, vocabulary = network.get_input_embeddings(), words.get_vocab()
    for name, parameter in rows.items():
        taken = [piece for piece in pieces(name, len(parameter)) if piece in vocabulary]
        if taken:
            raise InputError(f"{taken[0]!r} is a token of {backbone} already; choose another name")
    # Make what is plugged in, while nothing has changed yet.
    more = copy.deepcopy(words)
    more.add_tokens([piece for name, parameter in rows.items() for piece in pieces(name, len(parameter))])
    longer = Spliced(table, len(words), list(rows.values()))  # ids from len(words) on are the new rows
    owner = getattr(network, "text_model", network)
    end = owner.eos_token_id
    try:
        setattr(backbone.pipe, tokenizer, more)
        network.set_input_embeddings(longer)
        # Old SDXL configurations find a prompt's end as its highest id, which a new token would now be.
        owner.eos_token_id = words.eos_token_id
        yield
    finally:
        setattr(backbone.pipe, tokenizer, words)
        owner.eos_token_id = end
        network.set_input_embeddings(table)


def parameters_of(backbone: Backbone, token: Token, *, requires_grad: bool = False) -> list[nn.Parameter]:
    """The token's rows as parameters, each on the device of its text encoder."""
    devices = [encoder.device for encoder in encoders(backbone)]
    return [
        nn.Parameter(rows.to(devices[min(i, len(devices) - 1)], copy=True), requires_grad=requires_grad)
        for i, rows in enumerate(token.rows)
    ]


@contextmanager
def learned_token(backbone: Backbone, *tokens: Token | str | Path) -> Iterator[tuple[str, ...]]:
    """Within, prompts may hold these tokens, given as `Token` or as files; yields their names.

        with learned_token(model, "awe.safetensors") as (awe,):
            editor(images, awe, generator=generator)

    Nests, and restores the previous state also after an exception. InputError: see `token_files.load_token`;
    a token twice; a name that the model knows already; a width that is not its text encoder's.
    """
    loaded = [token if isinstance(token, Token) else token_files.load_token(token) for token in tokens]
    names = tuple(placeholder(token.name) for token in loaded)
    if len(set(names)) < len(names):
        raise InputError(f"a token is given twice: {', '.join(names)}")
    rows = {token.name: parameters_of(backbone, token) for token in loaded}
    with spliced(backbone, rows) if rows else ExitStack():
        yield names


def components(backbone: Backbone) -> list[tuple[str, str]]:
    """The pipeline's names of each tokenizer and its text encoder: one pair, or two for SDXL."""
    pairs = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    return [pair for pair in pairs if getattr(backbone.pipe, pair[1], None) is not None]


def encoders(backbone: Backbone) -> list[nn.Module]:
    """The text encoders, in the order of `components`."""
    return [getattr(backbone.pipe, name) for _, name in components(backbone)]


def tokenise(backbone: Backbone, prompts: Sequence[str]) -> list[Tensor]:
    """Token ids (N, L) int64 on the CPU, one tensor for each text encoder, padded to the model's length.

    A prompt that is too long loses its end, as in every pipeline.
    """
    ids = []
    for name, _ in components(backbone):
        tokenizer = getattr(backbone.pipe, name)
        # A token of several vectors is written out here: "<awe>" becomes "<awe> <awe>_1".
        texts = backbone.pipe.maybe_convert_prompt(list(prompts), tokenizer)
        length = tokenizer.model_max_length
        ids.append(
            tokenizer(
                texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids
        )
    return ids


def encode_tokens(backbone: Backbone, ids: Sequence[Tensor]) -> Embedding:
    """Token ids, one (N, L) tensor for each text encoder -> N embeddings on the model's device."""
    pairs = [(e, i.to(backbone.device)) for e, i in zip(encoders(backbone), ids, strict=True)]
    if backbone.unet.config.addition_embed_type != "text_time":
        (encoder, rows), *_ = pairs
        return Embedding(encoder(rows)[0].to(backbone.dtype))
    # SDXL reads the last layer but one of both, and the second one's projection of the whole prompt.
    outputs = [encoder(rows, output_hidden_states=True) for encoder, rows in pairs]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Embedding(hidden.to(backbone.dtype), outputs[-1][0].to(backbone.dtype))


def vectors_of_words(
    backbone: Backbone, name: str, words: Sequence[str] | str, *, vectors: int = 1, cross: bool = False
) -> Token:
    """A token of `vectors` vectors that says what `words` say, for each text encoder.

    A single word that the tokenizer splits into just as many pieces is taken piece by piece, so that the
    token is the word. Otherwise every vector is the mean of all words' pieces. `cross` takes the encoder's
    output at those places instead of its input, scaled to the input's length: cross-initialisation (Pang et
    al. 2023, arXiv 2312.15905), whose observation is that learned vectors end near the encoder's outputs.
    Raises InputError: no word, a token that the model does not know, more than eight vectors.
    """
    words = [words] if isinstance(words, str) else list(words)
    backbone.check_tokens(words)
    in_range(vectors, 1, 8, f"vectors of {name}")
    if not words or not all(word.strip() for word in words):
        raise InputError(f"{name}: give a word to start from, e.g. the emotion's adjective")
    rows = [
        _rows(getattr(backbone.pipe, tokenizer), getattr(backbone.pipe, encoder), words, vectors, cross)
        for tokenizer, encoder in components(backbone)
    ]
    return Token(name, *rows, model=backbone.name, initializer=", ".join(words))


@torch.no_grad()
def _rows(tokenizer, encoder: nn.Module, words: Sequence[str], vectors: int, cross: bool) -> Tensor:
    table = encoder.get_input_embeddings()
    parts = []  # of each word (its pieces, d)
    for word in words:
        ids = torch.tensor(tokenizer(word).input_ids, device=encoder.device)
        inside = slice(1, len(ids) - 1)  # between the start and end tokens
        rows = table(ids[inside])
        if cross:
            output = encoder(ids[None], output_hidden_states=True).hidden_states[-1][0, inside]
            rows = output * (rows.norm(dim=1, keepdim=True) / output.norm(dim=1, keepdim=True))
        parts.append(rows.float())
    if len(parts) == 1 and len(parts[0]) == vectors:
        return parts[0]
    return torch.cat(parts).mean(0, keepdim=True).repeat(vectors, 1)


def lengths(backbone: Backbone) -> list[Tensor]:
    """Quantiles 0.05, 0.5 and 0.95 of the vocabulary's vector lengths, (3,) float32, for each encoder."""
    quantiles = torch.tensor([0.05, 0.5, 0.95])
    with torch.no_grad():
        tables = [encoder.get_input_embeddings().weight for encoder in encoders(backbone)]
        return [torch.quantile(table.float().norm(dim=1), quantiles.to(table.device)) for table in tables]
