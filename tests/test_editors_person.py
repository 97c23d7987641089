"""Scenes person by person: what changes is inside the masks, whatever the editor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import tiny

from emolib.editors.img2img import Img2Img
from emolib.editors.person import PerPerson, Target
from emolib.runtime import InputError, generator


def edit(editor, images, emotion=None, seed=0, **options):
    return editor(images, emotion, generator=generator(seed), **options)


def paint(images, emotion, *, generator):
    """An editor whose result is known: anger paints black, everything else white."""
    values = [-1.0 if label == "anger" else 1.0 for label in emotion]
    return torch.tensor(values).view(-1, 1, 1, 1).expand_as(images).clone()


def keep(images, emotion, *, generator):
    return images.clone()


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_people_are_cropped_edited_in_one_batch_and_pasted_back():
    scene, sizes = noise(1, 3, 40, 60), []

    def record(images, emotion, *, generator):
        sizes.append((images.shape, list(emotion)))
        return paint(images, emotion, generator=generator)

    people = [Target((5, 5, 15, 15), "anger"), Target((40, 10, 52, 22))]
    result = edit(PerPerson(record, size=16, margin=0.0, feather=0.0), scene, "awe", people=people)
    assert sizes == [((2, 3, 16, 16), ["anger", "awe"])]
    expected = scene.clone()
    expected[..., 5:15, 5:15] = -1
    expected[..., 10:22, 40:52] = 1
    torch.testing.assert_close(result, expected)
    assert torch.equal(result[..., :, 15:40], scene[..., :, 15:40])


def test_several_pictures_and_descriptions():
    heard = []

    def record(images, emotion, *, generator, description):
        heard.extend(description)
        return paint(images, emotion, generator=generator)

    scenes = noise(2, 3, 20, 20)
    people = [Target((2, 2, 10, 10), picture=1, description="old man")]
    result = edit(PerPerson(record, size=8, feather=0.0), scenes, "anger", people=people)
    assert heard == ["old man"]
    assert torch.equal(result[0], scenes[0])
    assert (result[1, :, 2:10, 2:10] < -0.999).all()


boxes = st.tuples(st.integers(0, 36), st.integers(0, 26), st.integers(1, 24), st.integers(1, 24)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 40), min(b[1] + b[3], 30))
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(boxes, st.sampled_from(["anger", "awe"])), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.floats(0, 0.3),
)
def test_pixels_outside_the_masks_never_change(people, seed, margin, feather):
    scene = noise(1, 3, 30, 40, seed=seed)
    masks = [noise(30, 40, seed=seed + i) > 0 for i in range(len(people))]
    targets = [Target(box, emotion, mask) for (box, emotion), mask in zip(people, masks, strict=True)]
    editor = PerPerson(paint, size=8, margin=margin, feather=feather)
    result = edit(editor, scene, people=targets)
    outside = ~torch.stack(masks).any(0)
    assert torch.equal(result[..., outside], scene[..., outside])
    assert result.abs().max() <= 1


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0, 1))
def test_an_editor_that_does_nothing_changes_nothing(box, margin):
    scene = noise(1, 3, 30, 40)
    assert torch.equal(edit(PerPerson(keep, 16, margin), scene, "awe", people=[Target(box)]), scene)


def test_strength_zero_leaves_a_scene_bit_for_bit():
    editor = PerPerson(Img2Img(tiny("sd"), strength=0.0), size=32)
    scene = noise(1, 3, 50, 70)
    assert torch.equal(edit(editor, scene, "anger", people=[Target((10, 10, 30, 30))]), scene)


def test_scenes_through_a_real_model():
    editor = PerPerson(Img2Img(tiny("sd"), num_inference_steps=3), size=32)
    scene, mask = noise(1, 3, 50, 70), torch.zeros(50, 70)
    mask[12:30, 12:30] = 1
    result = edit(editor, scene, "anger", people=[Target((10, 10, 30, 30), mask=mask)])
    assert torch.equal(result[..., mask == 0], scene[..., mask == 0])
    assert not torch.allclose(result[..., 20, 20], scene[..., 20, 20], atol=1e-3)


def test_nobody_named_means_nothing_changes():
    scene = noise(1, 3, 20, 20)
    result = edit(PerPerson(paint, 8), scene, "anger", people=[])
    assert torch.equal(result, scene)
    assert result is not scene


@pytest.mark.parametrize(
    ("person", "message"),
    [
        (Target((0, 0, 50, 10), "awe"), "inside the 20 x 20 picture"),
        (Target((0, 0, 10, 10), "awe", mask=torch.ones(10, 10)), "mask of 10 x 10 for a picture of 20 x 20"),
        (Target((0, 0, 10, 10), "awe", picture=1), "there is no picture 1; the batch has 1"),
        (Target((0, 0, 10, 10)), "name an emotion"),
    ],
)
def test_impossible_people(person, message):
    with pytest.raises(InputError, match=message):
        edit(PerPerson(paint, 8), noise(1, 3, 20, 20), people=[person])
