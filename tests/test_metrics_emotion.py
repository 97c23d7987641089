"""Emotion metrics by hand: three pictures, four labels."""

import math

import pytest
import torch

from emolib.metrics import emotion, estimates

LABELS = ("neutral", "awe", "anger", "fear")
PROBS = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5]])
SOURCE = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.9, 0.1]])
TARGET = torch.tensor([1, 1, 2])


def test_emo_a_and_emo_s_by_hand():
    assert emotion.top_k(PROBS, TARGET, 1).tolist() == [True, False, False]
    assert emotion.top_k(PROBS, TARGET, 2).tolist() == [True, True, True]
    assert emotion.target_probability(PROBS, TARGET).tolist() == pytest.approx([0.6, 0.3, 0.3])
    assert emotion.emotion_score(PROBS, SOURCE, TARGET).tolist() == pytest.approx([0.5, 0.0, -0.6])


def test_an_untouched_picture_scores_nothing():
    assert emotion.emotion_score(PROBS, PROBS, TARGET).tolist() == [0.0, 0.0, 0.0]


def test_valence_is_the_side_with_more_probability():
    # Sides of the three: +0.6 against -0.3, +0.2 against -0.3, +0.1 against -0.8.
    probs = torch.stack([PROBS[0], torch.tensor([0.5, 0.2, 0.2, 0.1]), PROBS[2]])
    assert emotion.valence_hit(probs, TARGET, LABELS).tolist() == [1.0, 0.0, 1.0]
    wanted = torch.tensor([2, 0, 1])
    found = emotion.valence_hit(probs, wanted, LABELS)
    assert found[[0, 2]].tolist() == [0.0, 0.0]
    assert found[1].isnan()


def test_kl_divergence_by_hand():
    assert emotion.kl_divergence(TARGET, PROBS).tolist() == pytest.approx(
        [-math.log(0.6), -math.log(0.3), -math.log(0.3)]
    )
    even = torch.full((1, 4), 0.25)
    half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert emotion.kl_divergence(half, even).item() == pytest.approx(math.log(2))
    assert emotion.kl_divergence(PROBS, PROBS).abs().max() < 1e-6
    one_hot = torch.eye(4)[TARGET]
    torch.testing.assert_close(emotion.kl_divergence(one_hot, PROBS), emotion.kl_divergence(TARGET, PROBS))
    assert torch.isfinite(emotion.kl_divergence(torch.tensor([3]), half)).all()


def test_confusion_counts_targets_by_row():
    counts = emotion.confusion(PROBS.argmax(1), TARGET, 4)
    assert counts.tolist() == [[0] * 4, [1, 1, 0, 0], [0, 0, 0, 1], [0] * 4]


def test_constant_error_is_the_best_constants():
    # Five points evenly over [-3, 3], as EmotiCrafter's grid: whoever answers 0 is off by 1.8.
    assert emotion.constant_error([-3, -1.5, 0, 1.5, 3]).mean() == pytest.approx(1.8)
    wanted = torch.tensor([0.7, -0.7, -0.7, 0.2])
    best = min((wanted - c).abs().mean() for c in torch.linspace(-1, 1, 201))
    assert emotion.constant_error(wanted).mean() == pytest.approx(best.item(), abs=1e-6)


def test_all_faces_of_a_picture():
    assert emotion.all_faces([1, 1, 0, 1, 1], ["p", "p", "q", "q", "r"]).tolist() == [True, False, True]


def test_bystander_change_is_total_variation():
    assert emotion.bystander_change(PROBS, SOURCE).tolist() == pytest.approx([0.6, 0.0, 0.6])


def test_target_rate():
    judged = torch.tensor([1, 2, 3, 1])
    assert emotion.target_rate(judged, [1, 2, 0, 0]).value == 0.5
    assert emotion.target_rate(judged, 1) == estimates.rate([1, 0, 0, 1])
