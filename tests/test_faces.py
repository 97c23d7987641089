"""The face finder on a photograph that scikit-image ships and on rendered people."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from emolib.data import emofaces
from emolib.images import to_tensor
from emolib.judges import faces


@pytest.fixture(scope="module")
def astronaut():
    """Eileen Collins, 512 x 512; her face is about [170, 60] to [275, 175]."""
    return to_tensor(Image.fromarray(data.astronaut()))


def covers(box, x, y):
    return box[0] < x < box[2] and box[1] < y < box[3]


def test_one_face_in_a_photograph(astronaut):
    (box,) = faces.find(astronaut)
    assert covers(box, 222, 115)
    assert 80 < box[2] - box[0] < 130


def test_two_people_from_left_to_right_in_a_large_picture(astronaut):
    small = torch.nn.functional.interpolate(astronaut, scale_factor=0.75)
    scene = torch.full((1, 3, 512, 1200), -0.2)
    scene[..., 700:] = astronaut[..., :500]
    scene[..., 100:484, :384] = small
    first, second = faces.find(scene)
    assert covers(first, 166, 186)
    assert covers(second, 922, 115)
    assert first[2] - first[0] < second[2] - second[0]


def test_nobody_in_a_texture():
    assert faces.find(to_tensor(Image.fromarray(np.stack([data.brick()[::2, ::2]] * 3, -1)))) == []


def test_rendered_people_whose_faces_fill_the_picture():
    people, found = emofaces.portraits("val"), 0
    for identity in people.identities[:12]:
        boxes = faces.find(to_tensor(people.image(identity, "neutral")))
        found += len(boxes) == 1 and all(0 <= value <= 96 for value in boxes[0])
    assert found >= 10
