"""Did it learn? The report's numbers on a tiny model, and its verdicts."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import tiny

from emolib.emotions.words import TEMPLATE, fill_template
from emolib.interventions import splice
from emolib.training.report import Report, check_token

GOOD = Report(
    "<awe>", "awestruck", 8, cosine=0.9, moved=0.5, norm_ratio=1.0, beyond=0.9, difference=0.7,
    recognised={"token": 7, "word": 5, "nothing": 1}, obeyed={"token": 7, "word": 8},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "good", "reason"),
    [
        ({}, True, "it learned"),
        ({"recognised": {}}, True, "as far as can be told without a judge"),
        ({"difference": 0.05}, False, "more steps"),
        ({"difference": 0.0, "moved": 0.0}, False, "lower learning rate"),
        ({"norm_ratio": 2.5, "beyond": 1.2}, False, "keep_norm"),
        ({"norm_ratio": 0.0, "moved": 1.0}, False, "next to zero"),  # a file of zeros
        ({"norm_ratio": 2.5}, True, "it learned"),  # from a short start, but as long as a word is
        ({"recognised": {"token": 1, "word": 5, "nothing": 1}}, False, "not in it"),
        ({"recognised": {"token": 4, "word": 5, "nothing": 1}}, False, "word itself does better"),
        ({"obeyed": {"token": 5, "word": 8}}, False, "drowns the rest"),
    ],
)
def test_verdicts_name_the_likely_mend(changes, good, reason):
    report = replace(GOOD, **changes)
    assert report.verdict[0] == good and reason in report.verdict[1]
    assert report.lines()[-1].startswith(f"<awe>  verdict: {'good' if good else 'not good'}; ")


def test_every_finding_is_a_line_with_its_numbers():
    lines = GOOD.lines()
    assert len(lines) == 6 and all(line.startswith("<awe>  ") and "\n" not in line for line in lines)
    assert "of 8 pictures each: token 7, word 5, nothing 1" in lines[3]
    assert "of 8 pictures each: token 7, word 8" in lines[4]
    assert "no judge here" in replace(GOOD, recognised={}).lines()[3]
    assert "no probe here" in replace(GOOD, obeyed={}).lines()[4]


def test_a_token_that_is_still_its_word_is_found_out():
    model = tiny("sd")
    same = splice.vectors_of_words(model, "<awe>", "ab", vectors=2)
    report, pictures = check_token(model, same, "ab", n=2, num_inference_steps=3)
    assert pictures.shape == (3, 2, 3, 32, 32)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[1], pictures[2])
    assert (report.difference, report.moved) == (0, 0) and report.cosine == pytest.approx(1)
    assert not report.verdict[0]


def test_judge_and_probe_see_each_sides_own_pictures():
    model, asked = tiny("sd"), []
    token = splice.vectors_of_words(model, "<awe>", "c")

    def probe(picture, description):
        asked.append(description)
        return (picture > -2).all()[None]

    levels = []

    def recognise(pictures):
        levels.append(pictures.clone())
        return torch.arange(len(pictures)) < len(levels)  # 1, 2, 3 of them

    report, pictures = check_token(
        model,
        token,
        "ab",
        n=3,
        num_inference_steps=2,
        recognise=recognise,
        probe=probe,
        descriptions=("x", "y"),
    )
    assert torch.equal(torch.stack(levels), pictures)
    assert report.recognised == {"token": 1, "word": 2, "nothing": 3}
    assert asked == ["x", "y", "x"] * 2 and report.obeyed == {"token": 3, "word": 3}
    again, same = check_token(model, token, "ab", n=3, num_inference_steps=2, descriptions=("x", "y"))
    assert torch.equal(same, pictures) and again.recognised == {} == again.obeyed


def test_the_word_may_be_one_of_the_sentence():
    model = tiny("sd")
    same = splice.vectors_of_words(model, "<awe>", "photo", vectors=5)  # is its word, piece by piece
    report, pictures = check_token(model, same, "photo", n=1, num_inference_steps=2)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[1], pictures[2])


def test_prompts_agree_with_their_article():
    assert fill_template(TEMPLATE, "<awe>", "man", like="angry") == "photo of an <awe> man"
    assert fill_template(TEMPLATE, "angry", "man") == "photo of an angry man"
    assert fill_template(TEMPLATE, "", "old man") == "photo of an old man"
