"""`with learned_token(backbone, token): ...`: new words for a while, and the model exactly as before after.

Nothing of the model is changed. The text encoder's table is put behind a module that answers for the new ids
and asks the table for all others; the tokenizer is a copy that knows the new names. Training uses the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emolib.adapters import files, text
from emolib.adapters.names import pieces, placeholder
from emolib.adapters.tokens import Token
from emolib.backbone import Backbone
from emolib.runtime import InputError


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
        known = self.table(ids.clamp(max=self.first - 1))
        new = torch.cat(list(self.rows)).to(known.dtype)
        added = F.embedding((ids - self.first).clamp(min=0), new)
        return torch.where((ids >= self.first).unsqueeze(-1), added, known)


@contextmanager
def spliced(backbone: Backbone, rows: Mapping[str, Sequence[nn.Parameter]]) -> Iterator[None]:
    """Within, the placeholders of `rows` are tokens, each with one (n, d) parameter for each text encoder.

    Raises InputError before anything is changed: a name that is a token already, another number of text
    encoders, another width.
    """
    parts = text.components(backbone)
    for name, parameters in rows.items():
        if len(parameters) != len(parts):
            raise InputError(
                f"{name}: vectors for {len(parameters)} text encoder(s), but {backbone} has {len(parts)};"
                " the file is for another kind of model"
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
    table = network.get_input_embeddings()
    known = words.get_vocab()
    for name, parameter in rows.items():
        if parameter.shape[1] != table.embedding_dim:
            raise InputError(
                f"{name}: vectors of width {parameter.shape[1]}, but {backbone}'s text encoder takes"
                f" {table.embedding_dim}; the file is for another model"
            )
        taken = [piece for piece in pieces(name, len(parameter)) if piece in known]
        if taken:
            raise InputError(f"{taken[0]!r} is a token of {backbone} already; choose another name")
    more = copy.deepcopy(words)
    first = len(words)
    more.add_tokens([piece for name, parameter in rows.items() for piece in pieces(name, len(parameter))])
    # Old SDXL configurations find a prompt's end as its highest id, which a new token would now be.
    owner = getattr(network, "text_model", network)
    end = owner.eos_token_id
    setattr(backbone.pipe, tokenizer, more)
    network.set_input_embeddings(Spliced(table, first, list(rows.values())))
    owner.eos_token_id = words.eos_token_id
    try:
        yield
    finally:
        owner.eos_token_id = end
        network.set_input_embeddings(table)
        setattr(backbone.pipe, tokenizer, words)


def parameters_of(backbone: Backbone, token: Token, *, requires_grad: bool = False) -> list[nn.Parameter]:
    """The token's rows as parameters, each on the device of its text encoder."""
    devices = [encoder.device for encoder in text.encoders(backbone)]
    return [
        nn.Parameter(rows.to(devices[min(i, len(devices) - 1)], copy=True), requires_grad=requires_grad)
        for i, rows in enumerate(token.rows)
    ]


@contextmanager
def learned_token(backbone: Backbone, *tokens: Token | str | Path) -> Iterator[tuple[str, ...]]:
    """Within, prompts may hold these tokens, given as `Token` or as files; yields their names.

        with learned_token(model, "awe.safetensors") as (awe,):
            editor(images, awe, generator=generator)

    Nests, and restores the previous state also after an exception. InputError: see `files.load`; a token
    twice; a name that the model knows already; a width that is not its text encoder's.
    """
    loaded = [token if isinstance(token, Token) else files.load(token) for token in tokens]
    names = tuple(placeholder(token.name) for token in loaded)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"token {name!r} is given twice")
    rows = {token.name: parameters_of(backbone, token) for token in loaded}
    with spliced(backbone, rows) if rows else ExitStack():
        yield names
