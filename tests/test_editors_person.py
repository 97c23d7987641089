"""Scenes person by person: what changes is inside the masks, whatever the editor."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import pictures, tiny
from torch.nn import functional as F

from emolib.editors.base import draw
from emolib.editors.inversion import Img2Img
from emolib.editors.person import PerPerson, Person
from emolib.runtime import generator


def edit(scene, picture, people, emotion="awe", seed=0):
    """Everybody edited, who says nothing else towards `emotion`."""
    return scene(picture, [replace(p, emotion=p.emotion or emotion) for p in people], seed=seed)


def paint(images, emotion, **rest):
    """An editor whose result is known: anger paints black, everything else white."""
    values = [-1.0 if label == "anger" else 1.0 for label in emotion]
    return torch.tensor(values).view(-1, 1, 1, 1).expand_as(images).clone()


def keep(images, emotion, **rest):
    return images.clone()


def snow(images, emotion, *, generator, **rest):
    return draw(images, generator).clamp(-1, 1)


def blur(images, emotion, **rest):
    return F.avg_pool2d(images, 3, 1, 1)


@dataclass(frozen=True)
class Brighter:
    """An editor with a strength."""

    strength: float = 1.0

    def __call__(self, images, emotion, **rest):
        return images + self.strength * (1 - images)


@dataclass(frozen=True)
class Wrapped:
    """An editor made of another."""

    editor: object

    def __call__(self, images, emotion, **rest):
        return self.editor(images, emotion, **rest)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def grey(*shape):
    return torch.full(shape, 0.2)


def test_people_are_cropped_edited_in_one_batch_and_pasted_back():
    scene, sizes = grey(1, 3, 40, 60), []

    def record(images, emotion, **rest):
        sizes.append((images.shape, list(emotion)))
        return paint(images, emotion)

    people = [Person((5, 5, 15, 15), "anger"), Person((40, 10, 52, 22))]
    result = edit(PerPerson(record, size=16, margin=0.0, feather=0.0), scene, people)
    assert sizes == [((2, 3, 16, 16), ["anger", "awe"])]
    expected = scene.clone()
    expected[..., 5:15, 5:15] = -1
    expected[..., 10:22, 40:52] = 1
    torch.testing.assert_close(result, expected)


def test_what_is_known_of_people_reaches_the_editor():
    heard = []

    def record(images, emotion, *, generator, description, source_emotion):
        heard.extend([*emotion, *description, *source_emotion])
        return paint(images, emotion)

    scene = grey(1, 3, 20, 20)
    person = Person((2, 2, 10, 10), "anger", "awe", "old man")
    result = PerPerson(record, size=8, feather=0.0)(scene, [Person((12, 2, 18, 8)), person], seed=0)
    assert heard == ["anger", "old man", "awe"]
    assert (result[..., 2:10, 2:10] < -0.999).all()


@pytest.mark.parametrize("editor", [snow, Img2Img(tiny("sd"), num_inference_steps=3)])
def test_what_one_person_feels_alters_nobody_else(editor):
    scene = PerPerson(editor, 32)
    picture, boxes = noise(1, 3, 40, 120), [(5, 5, 30, 30), (45, 5, 70, 30), (85, 5, 110, 30)]

    def feel(*emotions, seed=3):
        return scene(picture, [Person(*pair) for pair in zip(boxes, emotions, strict=True)], seed=seed)

    alone, together = feel(None, "awe", None), feel("anger", "awe", "fear")
    middle = slice(40, 78)
    torch.testing.assert_close(alone[..., middle], together[..., middle], rtol=0, atol=1e-4)
    assert not torch.allclose(alone[..., middle], picture[..., middle], atol=1e-2)
    faces = [together[..., 5:30, x : x + 25] for x in (5, 45, 85)]
    if editor is snow:  # each has noise of their own, that of the seed and their place in the picture
        assert (faces[0] - faces[1]).abs().mean() > 0.1
        own = draw(torch.zeros(1, 3, 32, 32), generator(3, "person", 1)).clamp(-1, 1)
        expected = PerPerson(lambda *_, **__: own, 32)(picture, [Person(boxes[1], "awe")], seed=9)
        assert torch.equal(alone, expected)


def test_each_person_may_have_a_strength():
    scene = grey(1, 3, 20, 60)
    people = [Person((x, 5, x + 10, 15), strength=s) for x, s in ((2, 0.0), (22, 0.5), (42, None))]
    result = edit(PerPerson(Brighter(), size=10, margin=0.0, feather=0.0), scene, people)
    for x, value in ((2, 0.2), (22, 0.6), (42, 1.0)):
        torch.testing.assert_close(result[..., 5:15, x : x + 10], torch.full((1, 3, 10, 10), value))
    within = edit(PerPerson(Wrapped(Brighter()), 10, 0.0, 0.0), scene, people)
    assert torch.equal(within, result)
    with pytest.raises(TypeError):
        edit(PerPerson(paint, 8), scene, [Person((0, 0, 9, 9), strength=0.5)])


def test_a_small_face_comes_back_sharp_and_so_does_a_large_one_where_it_is_left_alone():
    def half(images, emotion, **rest):
        """Paints the left half; hardly touches the right, as a VAE does."""
        edited = images + 0.02
        edited[..., : images.shape[-1] // 2] = 1.0
        return edited

    scene = noise(1, 3, 64, 64)  # detail that 16 pixels cannot hold
    small = edit(PerPerson(half, 32, 0.0, 0.0), scene, [Person((20, 20, 30, 30))])
    large = edit(PerPerson(half, 16, 0.0, 0.0), scene, [Person((0, 0, 64, 64))])
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

    def look(images, emotion, **rest):
        seen.append(images)
        return images + 0.3 * (images > 0)

    result = edit(PerPerson(look, side, 0.0, 0.0), scene, [Person((0, 0, 65, 65), eyes=eyes)])
    bright = (seen[0][0, 0] > 0).nonzero().float()
    left, right = (bright[(bright[:, 1] < 32) == side].mean(0) for side in (True, False))
    torch.testing.assert_close(left, torch.tensor([32.0, 16.0]), rtol=0, atol=0.7)
    torch.testing.assert_close(right, torch.tensor([32.0, 48.0]), rtol=0, atol=0.7)
    # The change is turned back to where the eyes are.
    changed = ((result - scene)[0, 0].abs() > 0.05).nonzero().float()
    assert len(changed) == 0 or (changed - 32).norm(dim=1).min() > 8
    kept = edit(PerPerson(keep, 16), noise(1, 3, 30, 30), [Person((5, 5, 25, 25), eyes=eyes)])
    assert torch.equal(kept, noise(1, 3, 30, 30))


def test_a_change_of_a_tilted_face_returns_to_its_place():
    def dot(images, emotion, **rest):
        edited = images.clone()
        edited[..., 30:35, 46:51] = 1.0  # upright: on the right, level with the centre
        return edited

    scene, tilt = torch.full((1, 3, 65, 65), -1.0), math.radians(90)
    eyes = ((32, 16), (32, 48))  # the line runs straight down
    result = edit(PerPerson(dot, 65, 0.0, 0.0), scene, [Person((0, 0, 65, 65), eyes=eyes)])
    centre = (result[0, 0] > 0).nonzero().float().mean(0)
    expected = torch.tensor([32 + 16 * math.sin(tilt), 32 + 16 * math.cos(tilt)])
    torch.testing.assert_close(centre, expected, rtol=0, atol=0.5)


def test_neighbours_keep_their_faces():
    scene = grey(1, 3, 20, 40)
    left, right = Person((2, 4, 14, 16), "awe"), Person((14, 4, 26, 16), "anger")
    wide = PerPerson(paint, size=8, margin=0.5, feather=0.0)
    both = wide(scene, [left, right], seed=0)
    white, black = torch.ones(1, 3, 12, 12), -torch.ones(1, 3, 12, 12)
    torch.testing.assert_close(both[..., 4:16, 2:14], white)
    torch.testing.assert_close(both[..., 4:16, 14:26], black)
    alone = wide(scene, [left, replace(right, emotion=None)], seed=0)
    torch.testing.assert_close(alone[..., 4:16, 2:14], white)
    assert torch.equal(alone[..., 4:16, 14:26], scene[..., 4:16, 14:26])
    open_ = wide(scene, [left], seed=0)  # nobody said that somebody is there
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
        Person(box, emotion, mask=mask, eyes=eyes)
        for (box, emotion, eyes), mask in zip(people, masks, strict=True)
    ]
    others = [Person(box) for box in bystanders]
    result = PerPerson(editor, size, margin, feather)(scene, [*targets, *others], seed=seed)
    outside = ~torch.stack(masks).any(0)
    for x0, y0, x1, y1 in bystanders:
        outside[y0:y1, x0:x1] = True
    assert torch.equal(result[..., outside], scene[..., outside])
    assert result.abs().max() <= 1


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0, 1), st.sampled_from([8, 16, 33]), st.none() | st.tuples(points, points))
def test_an_editor_that_does_nothing_changes_nothing(box, margin, size, eyes):
    scene = noise(1, 3, 30, 40)
    result = edit(PerPerson(keep, size, margin), scene, [Person(box, eyes=eyes)])
    assert torch.equal(result, scene)


def test_strength_zero_leaves_a_scene_bit_for_bit():
    editor = PerPerson(Img2Img(tiny("sd"), strength=0.0), size=32)
    scene = noise(1, 3, 50, 70)
    assert torch.equal(edit(editor, scene, [Person((10, 10, 30, 30))]), scene)


def test_scenes_through_a_real_model():
    editor = PerPerson(Img2Img(tiny("sd"), num_inference_steps=3), size=32)
    scene, mask = pictures(1, side=70)[..., :50, :], torch.zeros(50, 70)
    mask[12:30, 12:30] = 1
    people = [Person((10, 10, 30, 30), "anger", "awe", mask=mask, strength=0.9)]
    result = edit(editor, scene, people)
    assert torch.equal(result[..., mask == 0], scene[..., mask == 0])
    assert not torch.allclose(result[..., 20, 20], scene[..., 20, 20], atol=1e-3)


def test_nobody_named_means_nothing_changes():
    scene = noise(1, 3, 20, 20)
    result = PerPerson(paint, 8)(scene, [Person((2, 2, 9, 9))], seed=0)
    assert torch.equal(result, scene)
    assert result is not scene


@pytest.mark.parametrize(
    ("person", "error"),
    [
        (Person((0, 0, 50, 10), "awe"), ValueError),
        (Person((0, 0, 10, 10), "awe", mask=torch.ones(10, 10)), RuntimeError),
    ],
)
def test_impossible_people(person, error):
    with pytest.raises(error):
        PerPerson(paint, 8)(noise(1, 3, 20, 20), [person], seed=0)
