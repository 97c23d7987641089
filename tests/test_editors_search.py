"""Staged edits, with editors whose answers are known."""

from dataclasses import dataclass, field

import torch

from emolib.editors.compose import Staged, anchored
from emolib.runtime import generator

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
        (1, "neutral", ["man"], ["awe"]),
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
