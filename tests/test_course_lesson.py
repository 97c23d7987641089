"""What the lessons share: faces loaded in order, sheets of people, numbers noted."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from emolib import images
from emolib.course import lesson
from emolib.data import emofaces
from emolib.metrics.estimates import Estimate
from emolib.metrics.measured import Measured


@pytest.fixture
def shown(monkeypatch):
    """The axes of every figure that was shown."""
    axes = []
    monkeypatch.setattr(plt, "show", lambda: axes.append(plt.gca()))
    yield axes
    plt.close("all")


def names(labels):
    return [label.get_text() for label in labels]


def test_faces_come_emotion_by_emotion_at_the_models_size():
    test = emofaces.portraits("test")
    people = test.spread(2)
    faces = lesson.load_faces(test, people, ["neutral", "awe"], 32)
    assert faces.shape == (4, 3, 32, 32) and -1 <= faces.min() < faces.max() <= 1
    awe = images.resize(images.to_tensor(test.image(people[1], "awe")), 32)
    assert torch.equal(faces[3:], awe)
    assert torch.equal(lesson.load_faces(test, people, "awe", 32), faces[2:])


def test_people_are_rows_and_there_may_be_fewer(shown):
    flat = [torch.full((2, 3, 96, 96), value) for value in (-1.0, 1.0)]
    lesson.show_people({"source": flat[0], "truth": flat[1]}, 3)
    (axis,) = shown
    assert names(axis.get_xticklabels()) == ["source", "truth"]
    sheet = axis.images[0].get_array()
    assert sheet.shape == (195, 195, 3) and sheet[50, 50, 0] == 0 and sheet[150, 150, 0] == 255


def test_edits_are_rows_below_their_person(shown):
    source = torch.zeros(1, 3, 96, 96)
    kinds = {
        kind: dict.fromkeys(("awe", "fear"), source + k / 10) for k, kind in enumerate(("edit", "truth"))
    }
    lesson.show_edits(source, kinds)
    (axis,) = shown
    assert names(axis.get_xticklabels()) == ["source", "awe", "fear"]
    assert names(axis.get_yticklabels()) == ["edit", "truth"]
    sheet = np.asarray(axis.images[0].get_array())
    assert sheet[50, 150, 0] == sheet[50, 50, 0] < sheet[150, 150, 0]


def test_a_noted_number_is_kept_and_printed(capsys):
    measured = Measured("00")
    lesson.note(measured, "seen", Estimate(0.5, 0.25, 0.75, 8))
    assert measured.table().loc["seen", "n"] == 8
    assert capsys.readouterr().out == "seen: 0.500 [0.250, 0.750] (n=8)\n"
