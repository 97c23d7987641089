"""MiniCLIP's tokenizer: byte-pair encoding of CLIP's kind, learned from captions and common words."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from train.captions import ADJECTIVES, NEVER, NOUNS

START, END, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"

# Words a lesson may want to write although no caption holds them. They have tokens, but the text tower never
# learned what they mean.
COMMON_TEXT = """
a an and are art as at be big black blue boy bright brown by child color cool cry crying dark day drawing
eyes face family feeling friend from girl gray green grey hair hand happy head high image in is it joy kid
light like long look looking love low man men mouth nice no not of old on one orange outside painting people
person photo picture pink portrait purple red room short side small smile smiling standing street style sun
that the them they three to tree two very warm white wide with woman women yellow young
"""


def learn(captions: Iterable[str], *, size: int = 1024, length: int = 40) -> CLIPTokenizer:
    """A tokenizer of `size` tokens that reads any text; every word of the captions' emotions is one token.

    Special tokens come last, as in CLIP, and texts end after `length` tokens. ValueError if a word of the
    held-out emotions stands in a caption.
    """
    captions = [caption.lower() for caption in captions]
    for word in NEVER:
        if any(word in caption for caption in captions):
            raise ValueError(f"a caption names a held-out emotion: {word!r}")
    emotions = [word for table in (ADJECTIVES, NOUNS) for words in table.values() for word in words]
    words = [word for word in (*emotions, *COMMON_TEXT.split()) for _ in range(len(captions) + 1)]
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - 258,  # each byte once more, as a word's end, and the two special tokens
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    backend.train_from_iterator([*captions, *words], trainer)
    model = json.loads(backend.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(pair) for pair in model["merges"]]
    tokens = [*letters, *(letter + SUFFIX for letter in letters)]
    tokens += [a + b for a, b in merges]
    tokens = [*dict.fromkeys(tokens), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
