"""Captions, which of them are true of which picture, the tokenizer, and MiniCLIP's loss."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from train import captions, standin
from train.miniclip import contrastive
from train.tokenizer import learn

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES, HELD_OUT


@pytest.fixture(scope="module")
def frame():
    rows = []
    for identity in range(12):
        who = standin.person(np.random.default_rng(identity))
        rows += [{**who, "emotion": name, "caption": f"a {who['gender']}"} for name in EMOFACES]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def tokenizer(frame):
    return learn([c.text for row in captions.texts(frame, 8, 0) for c in row])


def test_captions_name_what_they_say_they_name(frame):
    for row, own in zip(frame.to_dict("records"), captions.texts(frame, 12, 1), strict=True):
        for caption in own[1:]:
            said = set(caption.text.replace(",", "").split())
            assert ("beard" in caption.names) == ("beard" in said)
            assert ("glasses" in caption.names) == ("glasses" in said)
            if "glasses" in caption.names:
                assert ("no" in said) == (not row["glasses"])
            if "hair_color" in caption.names:
                assert row["hair_color"] in said
            spoken = {*captions.ADJECTIVES[row["emotion"]], *captions.NOUNS[row["emotion"]]} & said
            assert bool(spoken) == ("emotion" in caption.names)


def test_the_shortest_captions_are_frequent(frame):
    texts = [c.text for row in captions.texts(frame, 30, 0) for c in row[1:]]
    short = sum(len(text.split()) <= 7 for text in texts) / len(texts)
    assert 0.2 < short < 0.6


def test_captions_are_true_of_exactly_the_agreeing_pictures(frame, tokenizer):
    bank = captions.bank(frame, tokenizer, variants=5, seed=2)
    texts = captions.texts(frame, 5, 2)
    rows, which = torch.arange(0, len(frame), 4), torch.arange(len(frame) // 4) % 5
    found = bank.true_of(rows, which)
    for j, (a, variant) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
        names = texts[a][variant].names
        for i, b in enumerate(rows.tolist()):
            assert bool(found[j, i]) == all(frame[name][a] == frame[name][b] for name in names)
    assert found.diagonal().all()


def test_captions_are_the_same_for_the_same_seed(frame):
    assert captions.texts(frame, 4, 5) == captions.texts(frame, 4, 5) != captions.texts(frame, 4, 6)


def test_prompt_words_are_tokens_and_held_out_words_are_pieces(tokenizer):
    for name in EMOFACES:
        assert len(tokenizer(words.adjective(name)).input_ids) == 3
    for word in (*HELD_OUT, *map(words.adjective, HELD_OUT), "Zanzibar", "naïve?"):
        ids = tokenizer(word).input_ids
        assert len(ids) > 3 and tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == word.lower()


def test_the_tokenizer_is_the_same_after_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    text = "photo of an angry person, surprised!"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == 40
    assert (
        again.eos_token_id == len(again) - 1 != 2
    )  # transformers reads an end token 2 in its old, wrong way


def test_held_out_words_in_captions_are_refused():
    with pytest.raises(ValueError, match="surprise"):
        learn(["photo of a Surprised person"])


def test_the_loss_is_clips_own_where_each_caption_fits_one_picture():
    draw = torch.Generator().manual_seed(0)
    pictures, texts = (F.normalize(torch.randn(6, 4, generator=draw), dim=-1) for _ in range(2))
    logits, each = 7 * texts @ pictures.T, torch.arange(6)
    expected = (F.cross_entropy(logits, each) + F.cross_entropy(logits.T, each)) / 2
    found = contrastive(pictures, texts, torch.tensor(7.0), torch.eye(6, dtype=torch.bool))
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_equal_captions_do_not_repel_each_other():
    """Two emotions, three pictures of each: embeddings that know only the emotion reach the least loss."""
    kind = torch.tensor([0, 0, 0, 1, 1, 1])
    embeddings = F.one_hot(kind, 2).float()
    true = kind[:, None] == kind[None, :]
    assert contrastive(embeddings, embeddings, torch.tensor(50.0), true) == pytest.approx(np.log(3), abs=1e-6)


def test_what_a_caption_must_not_name_is_not_named(frame):
    plain = captions.texts(frame, 6, 0, without=("background", "background_color"))
    assert all(len(row) == 6 and "background" not in c.text for row in plain for c in row)
