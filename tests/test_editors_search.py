"""Staged edits and the closed loop, with editors and judges whose answers are known."""

from dataclasses import dataclass, field

import pytest
import torch

from emolib.editors.compose import BestOf, Staged, anchored
from emolib.runtime import InputError, generator

LEVELS = {"neutral": 0.0, "awe": 0.5, "anger": -0.5}


@dataclass(frozen=True)
class Paint:
    """Paints the right half with the emotion's grey; disturbs the rest a little. Keeps a log of its calls."""

    offset: float = 0.0
    log: list = field(default_factory=list)

    def __call__(self, images, emotion, *, generator, description="person", source_emotion=None):
        self.log.append((len(images), emotion, description, source_emotion))
        labels = [emotion] * len(images) if isinstance(emotion, str) else emotion
        result = (images + 0.02).expand(len(labels), -1, -1, -1).clone()
        for row, label in zip(result, labels, strict=True):
            row[..., row.shape[-1] // 2 :] = LEVELS[label] + self.offset
        return result


def edit(editor, images, emotion, **options):
    return editor(images, emotion, generator=generator(0), **options)


def pictures(n=1):
    return torch.full((n, 3, 32, 32), -0.9)


def test_a_staged_edit_passes_through_neutral_once_and_is_anchored_to_the_original():
    paint, source = Paint(), pictures()
    result = edit(Staged(paint), source, ["anger", "awe", "neutral"], description="man", source_emotion="awe")
    assert paint.log == [
        (1, "neutral", ["man"], "awe"),
        (1, ["anger", "awe", "neutral"], ["man"], "neutral"),
    ]
    for picture, level in zip(result, (-0.5, 0.5, 0.0), strict=True):
        assert torch.equal(picture[..., :14], source[0, ..., :14])  # two disturbances of 0.02: set back
        torch.testing.assert_close(picture[..., 18:], torch.full((3, 32, 14), level))
    free = edit(Staged(Paint(), anchor=0.0), source, "anger")
    torch.testing.assert_close(free[..., :16], source[..., :16] + 0.04)


def test_stages_that_are_not_needed_are_left_out():
    paint = Paint()
    edit(Staged(paint), pictures(), "anger", source_emotion="neutral")
    assert [call[1] for call in paint.log] == [["anger"]]
    paint.log.clear()
    result = edit(Staged(paint), pictures(2), "neutral")
    assert [call[1] for call in paint.log] == ["neutral"]
    assert result.shape == (2, 3, 32, 32)


def test_a_staged_edit_that_does_nothing_is_the_source_bit_for_bit():
    def keep(images, emotion, **options):
        n = len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)
        return images.expand(n, -1, -1, -1).clone()

    source = torch.rand((1, 3, 32, 32), generator=generator(0)) * 2 - 1
    assert torch.equal(edit(Staged(keep), source, ["anger", "awe"]), source.expand(2, -1, -1, -1))


def test_anchoring_keeps_what_changed_and_restores_what_did_not():
    original = torch.zeros(1, 3, 32, 32)
    edited = original + 0.04
    edited[..., 16:] = 0.8
    result = anchored(original, edited, 0.1)
    assert (result[..., :14] == 0).all()
    assert (result[..., 18:] == 0.8).all()
    assert torch.equal(anchored(original, edited, 0.0), edited)


def judge(images, emotions):
    """1 where the right half has the emotion's grey, less the farther away."""
    levels = torch.tensor([LEVELS[emotion] for emotion in emotions])
    return (1 - (images[..., 20:].mean((1, 2, 3)) - levels).abs()).clamp(0, 1)


def same(images, others):
    return 1 - (images - others)[..., :16].abs().mean((1, 2, 3))


def test_the_loop_stops_when_the_judge_is_content():
    bad, good = Paint(offset=0.6), Paint()
    loop = BestOf((bad, bad, good), judge, same, n=9, enough=0.9)
    found = loop.search(pictures(), ["anger", "awe"], generator=generator(0))
    assert found.tried.tolist() == [3, 3]
    assert len(good.log) == 1
    assert found.probability.min() > 0.99
    assert torch.equal(found.images, edit(loop, pictures(), ["anger", "awe"]))


def test_done_edits_cost_nothing_more_and_the_best_is_kept():
    class Half(Paint):
        def __call__(self, images, emotion, **options):
            result = super().__call__(images, emotion, **options)
            result[[label == "anger" for label in emotion]] += 0.3  # never quite right for anger
            return result

    half = Half()
    loop = BestOf((half, Paint(offset=0.9)), judge, same, n=4, enough=0.9, same=0.5)
    options = {"description": ["man", "woman"], "source_emotion": [None, "awe"]}
    found = loop.search(pictures(2), ["anger", "awe"], generator=generator(0), **options)
    assert found.tried.tolist() == [4, 1]
    assert half.log[0] == (2, ["anger", "awe"], ["man", "woman"], [None, "awe"])
    assert half.log[1] == (1, ["anger"], ["man"], [None])
    torch.testing.assert_close(found.probability, torch.tensor([0.7, 1.0]))


def test_somebody_else_is_never_accepted_and_nothing_worse_than_the_source_returned():
    stranger = BestOf((Paint(),), judge, lambda images, others: torch.zeros(len(others)), n=2, enough=0.9)
    found = stranger.search(pictures(), "anger", generator=generator(0))
    assert torch.equal(found.images, pictures())
    assert found.tried.tolist() == [2]
    worse = BestOf((Paint(offset=1.4),), judge, same, n=1, enough=0.9)
    assert torch.equal(edit(worse, pictures(), "anger"), pictures())
    already = BestOf((Paint(),), judge, same, n=1)
    found = already.search(edit(Paint(), pictures(), "anger"), "anger", generator=generator(0))
    assert found.tried.tolist() == [0]


def test_impossible_searches():
    with pytest.raises(InputError, match="budget of at least 1"):
        BestOf((Paint(),), judge, same, n=0)
    with pytest.raises(InputError, match="needs editors"):
        BestOf((), judge, same)
    with pytest.raises(InputError, match="3 emotions for 2 pictures"):
        edit(BestOf((Paint(),), judge, same), pictures(2), ["anger", "awe", "awe"])
