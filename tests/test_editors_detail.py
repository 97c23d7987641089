"""Editors made of editors: KeepDetail gives detail back, Staged passes through neutral."""

from dataclasses import dataclass, field

import torch
from tiny_pipelines import pictures, tiny

from emolib.editors.base import LatentEditor
from emolib.editors.compose import DRIFT, KeepDetail, Staged, anchored, change_of, extent, kept
from emolib.editors.inversion import DirectInversion
from emolib.editors.person import PerPerson, Person
from emolib.emotions.sets import MIKELS
from emolib.runtime import generator


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def edit(editor, images, emotion, **options):
    return editor(images, emotion, generator=generator(0), **options)


def test_detail_stays_where_nothing_moved_and_goes_where_the_edit_is():
    source, before = noise(1, 3, 8, 8), noise(1, 3, 8, 8, seed=1)
    assert torch.equal(change_of(source, before, before), torch.zeros_like(source))
    rough = before + 0.09 * noise(1, 3, 8, 8, seed=2)
    torch.testing.assert_close(source + change_of(source, before, rough) - rough, source - before)
    after = before + 0.25
    torch.testing.assert_close(source + change_of(source, before, after), after)


def test_the_edit_reaches_as_far_as_it_is_seen():
    before = noise(1, 3, 64, 64)
    assert torch.equal(extent(before, before + 0.9 * DRIFT), torch.zeros(1, 1, 64, 64))
    after = before.clone()
    after[..., 20:40, 20:40] += 4 * DRIFT
    after[..., 50, 50] += 4 * DRIFT
    found = extent(before, after)
    assert (found[..., 20:40, 20:40] >= 0.4).all() and (found[..., 22:38, 22:38] == 1).all()
    found[..., 18:42, 18:42] = 0
    assert (found == 0).all()  # not the lonely pixel
    large = [x.repeat_interleave(8, -1).repeat_interleave(8, -2) for x in (before, after)]
    assert (extent(*large)[..., 168:312, 168:312] > 0.5).all()


class Half:
    """A lossy model: doubles every second pixel away; an edit paints the right half."""

    device, size = torch.device("cpu"), 16

    def encode(self, images):
        return images[..., ::2, ::2]

    def decode(self, z):
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


@dataclass(frozen=True)
class Painter(LatentEditor):
    backbone: Half
    strength: float = 1.0

    def edit_latents(self, z, request, generator):
        edited = z.expand(len(request.emotions), -1, -1, -1).clone()
        edited[..., z.shape[-1] // 2 :] += 0.5
        return edited


def test_a_lossy_model_loses_only_where_it_paints():
    source = 0.3 * noise(1, 3, 16, 16)
    result = edit(KeepDetail(Painter(Half())), source, ["anger", "awe"])
    assert result.shape == (2, 3, 16, 16)
    assert torch.equal(result[..., :8], source.expand(2, -1, -1, -1)[..., :8])
    lossy = Half().decode(Half().encode(source))
    torch.testing.assert_close(result[..., 8:], (lossy + 0.5).expand(2, -1, -1, -1)[..., 8:])


def test_strength_zero_is_the_source_bit_for_bit_and_a_person_may_have_it():
    source = noise(1, 3, 16, 16)
    assert torch.equal(edit(KeepDetail(Painter(Half(), 0.0)), source, "anger"), source)
    scene = PerPerson(KeepDetail(DirectInversion(tiny("sd"), num_inference_steps=2)), 32)
    assert torch.equal(scene(source, [Person((0, 0, 16, 16), "anger", strength=0.0)], seed=0), source)


def test_an_exact_editor_that_is_asked_for_what_is_there_returns_the_source():
    editor = KeepDetail(DirectInversion(tiny("sd"), num_inference_steps=3))
    source = pictures()
    result = edit(editor, source, "anger", source_emotion="anger")
    torch.testing.assert_close(result, source, rtol=0, atol=1 / 255)  # not only what the VAE makes of it
    assert edit(editor, source, MIKELS).shape == (8, 3, 32, 32)


def test_each_picture_is_encoded_once():
    model, encoded = tiny("sd"), []
    hook = model.vae.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    made = edit(KeepDetail(DirectInversion(model, num_inference_steps=2)), pictures(), MIKELS)
    hook.remove()
    assert encoded == [1]
    again = edit(DirectInversion(model, num_inference_steps=2), pictures(), MIKELS)
    with torch.no_grad():
        untouched = model.decode(model.encode(pictures()))
    torch.testing.assert_close(made, kept(pictures(), untouched, again), rtol=0, atol=1e-5)


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


GREY = torch.full((1, 3, 32, 32), -0.9)


def test_a_staged_edit_passes_through_neutral_once_and_is_anchored_to_the_original():
    paint, source = Paint(), GREY
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
    edit(Staged(paint), GREY, "anger", source_emotion="neutral")
    assert [call[1] for call in paint.log] == [["anger"]]
    paint.log.clear()
    result = edit(Staged(paint), GREY.repeat(2, 1, 1, 1), "neutral")
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
