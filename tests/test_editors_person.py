"""Scenes person by person: what changes is inside the masks, whatever the editor."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import pictures, tiny
from torch.nn import functional as F

from emolib.editors.inversion import Img2Img
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


def snow(images, emotion, *, generator):
    return torch.rand(images.shape, generator=generator) * 2 - 1


def blur(images, emotion, *, generator):
    return F.avg_pool2d(images, 3, 1, 1)


@dataclass(frozen=True)
class Brighter:
    """An editor with a strength."""

    strength: float = 1.0

    def __call__(self, images, emotion, *, generator):
        return images + self.strength * (1 - images)


@dataclass(frozen=True)
class Wrapped:
    """An editor made of another."""

    editor: object

    def __call__(self, images, emotion, *, generator):
        return self.editor(images, emotion, generator=generator)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def grey(*shape):
    return torch.full(shape, 0.2)


def test_people_are_cropped_edited_in_one_batch_and_pasted_back():
    scene, sizes = grey(1, 3, 40, 60), []

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


def test_several_pictures_and_what_is_known_of_their_people():
    heard = []

    def record(images, emotion, *, generator, description, source_emotion):
        heard.extend([*description, *source_emotion])
        return paint(images, emotion, generator=generator)

    scenes = grey(2, 3, 20, 20)
    people = [Target((2, 2, 10, 10), picture=1, description="old man", source_emotion="awe")]
    result = edit(PerPerson(record, size=8, feather=0.0), scenes, "anger", people=people)
    assert heard == ["old man", "awe"]
    assert torch.equal(result[0], scenes[0])
    assert (result[1, :, 2:10, 2:10] < -0.999).all()


def test_each_person_may_have_a_strength():
    scene = grey(1, 3, 20, 60)
    people = [Target((x, 5, x + 10, 15), strength=s) for x, s in ((2, 0.0), (22, 0.5), (42, None))]
    result = edit(PerPerson(Brighter(), size=10, margin=0.0, feather=0.0), scene, "awe", people=people)
    for x, value in ((2, 0.2), (22, 0.6), (42, 1.0)):
        torch.testing.assert_close(result[..., 5:15, x : x + 10], torch.full((1, 3, 10, 10), value))
    within = edit(PerPerson(Wrapped(Brighter()), 10, 0.0, 0.0), scene, "awe", people=people)
    assert torch.equal(within, result)
    with pytest.raises(InputError, match="has no strength that a person could overrule"):
        edit(PerPerson(paint, 8), scene, "awe", people=[Target((0, 0, 9, 9), strength=0.5)])


def test_a_small_face_comes_back_sharp_and_so_does_a_large_one_where_it_is_left_alone():
    def half(images, emotion, *, generator):
        """Paints the left half; hardly touches the right, as a VAE does."""
        edited = images + 0.02
        edited[..., : images.shape[-1] // 2] = 1.0
        return edited

    scene = noise(1, 3, 64, 64)  # detail that 16 pixels cannot hold
    small = edit(PerPerson(half, 32, 0.0, 0.0), scene, "awe", people=[Target((20, 20, 30, 30))])
    large = edit(PerPerson(half, 16, 0.0, 0.0), scene, "awe", people=[Target((0, 0, 64, 64))])
    assert (small[..., 20:30, 27:30] - scene[..., 20:30, 27:30]).abs().max() < 0.05
    assert (large[..., 44:] - scene[..., 44:]).abs().max() < 0.05
    torch.testing.assert_close(large[..., :28], torch.ones(1, 3, 64, 28))


def test_a_tilted_face_is_edited_upright():
    # Two bright eyes on a line that falls by 30 degrees to the right.
    side, seen = 65, []
    scene = torch.full((1, 3, side, side), -1.0)
    tilt, eyes = math.radians(30), []
    for sign in (-1, 1):
        x, y = 32 + sign * 16 * math.cos(tilt), 32 + sign * 16 * math.sin(tilt)
        scene[..., round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] = 1.0
        eyes.append((x, y))

    def look(images, emotion, *, generator):
        seen.append(images)
        return images + 0.3 * (images > 0)

    result = edit(PerPerson(look, side, 0.0, 0.0), scene, "awe", people=[Target((0, 0, 65, 65), eyes=eyes)])
    bright = (seen[0][0, 0] > 0).nonzero().float()
    left, right = (bright[(bright[:, 1] < 32) == side].mean(0) for side in (True, False))
    torch.testing.assert_close(left, torch.tensor([32.0, 16.0]), rtol=0, atol=0.7)
    torch.testing.assert_close(right, torch.tensor([32.0, 48.0]), rtol=0, atol=0.7)
    # The change is turned back to where the eyes are.
    changed = ((result - scene)[0, 0].abs() > 0.05).nonzero().float()
    assert len(changed) == 0 or (changed - 32).norm(dim=1).min() > 8
    kept = edit(PerPerson(keep, 16), noise(1, 3, 30, 30), "awe", people=[Target((5, 5, 25, 25), eyes=eyes)])
    assert torch.equal(kept, noise(1, 3, 30, 30))


def test_a_change_of_a_tilted_face_returns_to_its_place():
    def dot(images, emotion, *, generator):
        edited = images.clone()
        edited[..., 30:35, 46:51] = 1.0  # upright: on the right, level with the centre
        return edited

    scene, tilt = torch.full((1, 3, 65, 65), -1.0), math.radians(90)
    eyes = ((32, 16), (32, 48))  # the line runs straight down
    result = edit(PerPerson(dot, 65, 0.0, 0.0), scene, "awe", people=[Target((0, 0, 65, 65), eyes=eyes)])
    centre = (result[0, 0] > 0).nonzero().float().mean(0)
    expected = torch.tensor([32 + 16 * math.sin(tilt), 32 + 16 * math.cos(tilt)])
    torch.testing.assert_close(centre, expected, rtol=0, atol=0.5)


def test_neighbours_keep_their_faces():
    scene = grey(1, 3, 20, 40)
    left, right = Target((2, 4, 14, 16), "awe"), Target((14, 4, 26, 16), "anger")
    wide = PerPerson(paint, size=8, margin=0.5, feather=0.0)
    both = edit(wide, scene, people=[left, right])
    white, black = torch.ones(1, 3, 12, 12), -torch.ones(1, 3, 12, 12)
    torch.testing.assert_close(both[..., 4:16, 2:14], white)
    torch.testing.assert_close(both[..., 4:16, 14:26], black)
    alone = edit(wide, scene, people=[left], bystanders=[right])
    torch.testing.assert_close(alone[..., 4:16, 2:14], white)
    assert torch.equal(alone[..., 4:16, 14:26], scene[..., 4:16, 14:26])
    open_ = edit(wide, scene, people=[left])  # nobody said that somebody is there
    torch.testing.assert_close(open_[..., 4:16, 14:17], white[..., :3])


boxes = st.tuples(st.integers(0, 36), st.integers(0, 26), st.integers(1, 24), st.integers(1, 24)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 40), min(b[1] + b[3], 30))
)
points = st.tuples(st.floats(0, 40), st.floats(0, 30))
person = st.tuples(boxes, st.sampled_from(["anger", "awe"]), st.none() | st.tuples(points, points))


@settings(max_examples=60, deadline=None)
@given(
    editor=st.sampled_from([paint, snow, blur, keep, Brighter(0.3)]),
    people=st.lists(person, min_size=1, max_size=3),
    bystanders=st.lists(boxes, max_size=2),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1, 8, 33]),
    margin=st.floats(0, 1),
    feather=st.floats(0, 0.3),
)
def test_pixels_outside_the_masks_never_change(editor, people, bystanders, seed, size, margin, feather):
    scene = noise(1, 3, 30, 40, seed=seed)
    masks = [noise(30, 40, seed=seed + i) > 0 for i in range(len(people))]
    targets = [
        Target(box, emotion, mask, eyes=eyes)
        for (box, emotion, eyes), mask in zip(people, masks, strict=True)
    ]
    others = [Target(box) for box in bystanders]
    result = edit(PerPerson(editor, size, margin, feather), scene, people=targets, bystanders=others)
    outside = ~torch.stack(masks).any(0)
    for x0, y0, x1, y1 in bystanders:
        outside[y0:y1, x0:x1] = True
    assert torch.equal(result[..., outside], scene[..., outside])
    assert result.abs().max() <= 1


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0, 1), st.sampled_from([8, 16, 33]), st.none() | st.tuples(points, points))
def test_an_editor_that_does_nothing_changes_nothing(box, margin, size, eyes):
    scene = noise(1, 3, 30, 40)
    result = edit(PerPerson(keep, size, margin), scene, "awe", people=[Target(box, eyes=eyes)])
    assert torch.equal(result, scene)


def test_strength_zero_leaves_a_scene_bit_for_bit():
    editor = PerPerson(Img2Img(tiny("sd"), strength=0.0), size=32)
    scene = noise(1, 3, 50, 70)
    assert torch.equal(edit(editor, scene, "anger", people=[Target((10, 10, 30, 30))]), scene)


def test_scenes_through_a_real_model():
    editor = PerPerson(Img2Img(tiny("sd"), num_inference_steps=3), size=32)
    scene, mask = pictures(1, side=70)[..., :50, :], torch.zeros(50, 70)
    mask[12:30, 12:30] = 1
    people = [Target((10, 10, 30, 30), mask=mask, source_emotion="awe", strength=0.9)]
    result = edit(editor, scene, "anger", people=people)
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
        (Target((0, 0, 10, 10), "awe", eyes=((1, 2, 3), (4, 5))), "are not two points"),
    ],
)
def test_impossible_people(person, message):
    with pytest.raises(InputError, match=message):
        edit(PerPerson(paint, 8), noise(1, 3, 20, 20), people=[person])
