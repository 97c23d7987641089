"""Colour transfer: the statistics arrive, the structure stays, and strength is monotone between the two."""

import numpy as np
import pytest
import torch

from emolib.editors.colour import ColourTransfer, Palette, fit_colours, from_lab, to_lab
from emolib.runtime import InputError, generator


def picture(n=1, low=-0.4, high=0.4, seed=0):
    return low + (high - low) * torch.rand((n, 3, 24, 20), generator=generator(seed))


def transfer(emotion, images, strength=1.0, **palettes):
    return ColourTransfer(palettes, strength)(images, emotion, generator=generator(0))


CALM = Palette((60.0, 5.0, -10.0), (6.0, 4.0, 5.0))


def test_lab_and_back():
    images = picture(2)
    torch.testing.assert_close(from_lab(to_lab(images)), images, rtol=0, atol=1e-5)
    white = to_lab(torch.ones(1, 3, 2, 2))
    np.testing.assert_allclose(white[0, 0, 0], [100, 0, 0], atol=0.01)


def test_the_palette_arrives_and_the_structure_stays():
    source = picture()
    result = transfer("awe", source, awe=CALM)
    lab, before = to_lab(result)[0], to_lab(source)[0]
    np.testing.assert_allclose(lab.mean((0, 1)), CALM.mean, atol=0.1)
    np.testing.assert_allclose(lab.std((0, 1)), CALM.std, rtol=0.02)
    for channel in range(3):  # an affine map of every channel: order and shape are kept
        assert np.corrcoef(lab[..., channel].ravel(), before[..., channel].ravel())[0, 1] > 0.999
    assert (result.shape, result.dtype) == (source.shape, torch.float32)


def test_the_own_palette_changes_nothing():
    source = picture()
    editor = fit_colours(source, ["awe"])
    torch.testing.assert_close(editor(source, "awe"), source, rtol=0, atol=1e-5)


def test_strength_zero_is_the_source_and_more_is_nearer_to_the_palette():
    source, distances = picture(), []
    assert torch.equal(transfer("awe", source, 0.0, awe=CALM), source)
    for strength in (0.0, 0.25, 0.5, 1.0):
        lab = to_lab(transfer("awe", source, strength, awe=CALM))[0]
        distances.append(np.abs(lab.mean((0, 1)) - CALM.mean).sum())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.2 < distances[-2]


def test_fitting_averages_over_the_pictures_of_an_emotion():
    dark, bright = picture(2, -0.8, -0.4), picture(2, 0.4, 0.8, seed=1)
    editor = fit_colours(torch.cat([dark, bright]), ["fear", "fear", "awe", "awe"])
    assert list(editor.palettes) == ["fear", "awe"]
    expected = to_lab(dark).mean((1, 2)).mean(0)
    np.testing.assert_allclose(editor.palettes["fear"].mean, expected)
    result = editor(picture(), ["fear", "awe"])
    assert result[0].mean() < result[1].mean()


def test_a_picture_of_one_colour_and_colours_out_of_range():
    flat = torch.zeros(1, 3, 8, 8)
    assert torch.isfinite(transfer("awe", flat, awe=CALM)).all()
    wild = transfer("awe", picture(), awe=Palette((95.0, 90.0, 90.0), (60.0, 60.0, 60.0)))
    assert wild.abs().max() <= 1


def test_bad_input():
    with pytest.raises(InputError, match="did you mean 'anger'"):
        transfer("angr", picture(), anger=CALM)
    with pytest.raises(ValueError, match="strength must lie in"):
        ColourTransfer({"awe": CALM}, 1.5)
