"""Prompt-to-prompt: alignment of two prompts' words, by hand-made answers."""

import pytest
import torch
from tiny_pipelines import sd_pipeline, tiny

from emolib.interventions.alignment import Span, align, refine, replace, spans


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        ("a sad man", "a sad man", [0, 1, 2]),
        ("a man", "a very sad man", [0, None, None, 1]),
        ("a sad old man", "a man", [0, 3]),
        ("a sad man", "an angry man", [None, None, 2]),
        ("", "a man", [None, None]),
        ("the cat saw dogs", "dogs saw the cat today", [None, None, 0, 1, None]),
    ],
)
def test_words_are_aligned_in_order(source, target, places):
    assert align(source.split(), target.split()) == places


def test_a_prompt_is_all_its_tokens():
    pipe = tiny("sd").pipe
    row = spans(pipe, "An angry man, don't")
    assert [span.text for span in row[1:-2]] == ["an", "angry", "man", ",", "don", "'t"]
    assert row[2].tokens == (3, 4, 5, 6, 7)  # the tiny tokenizer has one token a letter
    assert sorted(position for span in row for position in span.tokens) == list(range(40))


def test_a_prompt_that_is_too_long_is_cut_like_the_pipeline_cuts_it():
    pipe = tiny("sd").pipe
    row = spans(pipe, "a " + "m" * 60)
    assert row[-1].tokens == ()
    assert row[-2].tokens == (39,)
    same = replace(row, row)
    assert torch.equal(same.mapper, torch.eye(40))


def test_a_new_token_is_a_word():
    pipe = sd_pipeline()
    pipe.tokenizer.add_tokens(["<joy>", "<joy>_1"])  # of two vectors, as textual inversion makes them
    row = spans(pipe, "a <joy> man")
    assert row[1:3] == [Span("a", (1,)), Span("<joy>", (2,))]
    assert [span.text for span in row[3:]] == ["<joy>_1", "man", "<end>", "<padding>"]


def test_replace_keeps_all_attention_and_refine_keeps_what_is_known():
    source = [
        Span("<s>", (0,)),
        Span("a", (1,)),
        Span("sad", (2, 3)),
        Span("</s>", (4,)),
        Span("pad", (5, 6)),
    ]
    swap = [Span("<s>", (0,)), Span("a", (1,)), Span("mad", (2, 3, 4)), Span("</s>", (5,)), Span("pad", (6,))]
    maps = torch.rand(9, 7).softmax(1)
    taken = maps @ replace(source, swap).mapper
    torch.testing.assert_close(taken.sum(1), torch.ones(9))
    torch.testing.assert_close(taken[:, 2:5].sum(1), maps[:, 2:4].sum(1))
    torch.testing.assert_close(taken[:, 5], maps[:, 4])
    added = [*source[:2], Span("very", (2,)), Span("sad", (3, 4)), Span("</s>", (5,)), Span("pad", (6,))]
    transfer = refine(source, added)
    assert transfer.share.tolist() == [1, 1, 0, 1, 1, 1, 1]
    torch.testing.assert_close((maps @ transfer.mapper)[:, 3:5], maps[:, 2:4])


def test_prompts_of_unequal_length_cannot_be_swapped_word_by_word():
    pipe = tiny("sd").pipe
    with pytest.raises(ValueError):
        replace(spans(pipe, "a man"), spans(pipe, "a sad man"))
