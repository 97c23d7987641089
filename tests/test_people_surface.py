"""The renderer's finer skin, its folds and its framing, without the body model."""

import numpy as np
import pytest
from people import eyes, folds, light, surface

from emolib.data.framing import DROP, LANDMARKS, SIDE, face_square
from emolib.emotions import facs

SQUARE = np.array([(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)])  # four triangles about vertex 4
CORNERS = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0], [1, 1, 1.0]])


def test_a_subdivided_patch_keeps_its_border_and_smooths_its_middle():
    matrix, triangles = surface.subdivide(5, SQUARE)
    points = matrix @ CORNERS
    assert triangles.shape == (16, 3) and matrix.shape == (5 + 8, 5)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert np.allclose(points[:4], CORNERS[:4])
    assert 0 < points[4, 2] < 1 and np.allclose(points[4, :2], 1)
    middles = {tuple(p) for p in points[5:].round(9)}
    assert {(1, 0, 0), (2, 1, 0), (1, 2, 0), (0, 1, 0)} <= middles  # border edges are halved


def test_subdivision_leaves_a_plane_plane_and_its_area():
    flat = CORNERS * (1, 1, 0)
    matrix, triangles = surface.subdivide(5, SQUARE)
    a, b, c = ((matrix @ flat)[triangles[:, i]] for i in range(3))
    areas = np.cross(b - a, c - a)[:, 2] / 2
    assert (areas > 0).all() and areas.sum() == pytest.approx(4)


def test_folds_and_pushes_name_face_units():
    names = [name for fold in folds.FOLDS for name in fold.units] + [push.unit for push in folds.PUSHES]
    for name in names:
        for side in ("Left", "Right"):
            assert name.replace("*", side) in facs.ARKIT


def test_a_fold_deepens_with_its_units_on_their_side_and_with_age():
    scale = np.ones(len(folds.FOLDS))
    rest = folds.strengths({}, 0.5, scale)
    frown = folds.strengths({"browDownLeft": 1.0}, 0.5, scale)
    assert not rest.any() and frown[:, 0].max() == pytest.approx(0.75) and frown[:, 1].max() == 0
    old = folds.strengths({}, 0.9, scale)
    assert old.max() > 0.1 and (old >= rest).all()


def test_eyes_are_dark_where_they_look_and_light_around_the_iris():
    picture = eyes.eye_picture((0.1, 0.06, 0.03), size=1.0, veined=0.5, seed=2)
    rows = picture.mean(axis=(1, 2))
    assert picture.shape == (256, 256, 3) and picture.min() >= 0 and picture.max() <= 1
    degree = 256 / 180
    pupil, iris, sclera, back = (rows[int(d * degree)] for d in (4, 16, 33, 80))
    assert pupil < 0.02 < iris < sclera and back < sclera
    assert np.array_equal(picture, eyes.eye_picture((0.1, 0.06, 0.03), size=1.0, veined=0.5, seed=2))


@pytest.mark.parametrize("kind", light.LAMPS)
def test_surroundings_shine_as_much_whatever_they_are(kind):
    around = light.surroundings(kind, np.array([0.2, 0.3, 0.5]), seed=3)
    elevation = np.radians(90 - (np.arange(light.HEIGHT) + 0.5) / light.HEIGHT * 180)
    mean = np.average(around.mean(axis=(1, 2)), weights=np.cos(elevation))
    assert around.min() >= 0 and mean == pytest.approx(1)
    assert not np.array_equal(around, light.surroundings(kind, np.array([0.2, 0.3, 0.5]), seed=4))


def test_a_square_is_framed_by_eyes_and_mouth():
    square = face_square([[40, 50], [76, 50]], [[48, 90], [68, 90]])
    assert (square.x, square.y) == (58, pytest.approx(50 + DROP * 40))
    assert square.side == pytest.approx(SIDE * 40) and square.angle == 0
    x0, y0, x1, y1 = square.box
    assert x1 - x0 == y1 - y0 == pytest.approx(square.side) and (x0 + x1) / 2 == square.x


def test_a_square_turns_grows_and_moves_with_the_face():
    eyes, mouth = np.array([[40, 50], [76, 50.0]]), np.array([58, 90.0])
    still, angle = face_square(eyes, mouth), np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = face_square(2 * eyes @ turn.T + 7, 2 * mouth @ turn.T + 7)
    assert moved.angle == pytest.approx(20) and moved.side == pytest.approx(2 * still.side)
    assert np.allclose((moved.x, moved.y), 2 * turn @ (still.x, still.y) + 7)


def test_a_head_turned_aside_or_down_keeps_its_size():
    front = face_square([[40, 50], [76, 50]], [58, 90])
    aside = face_square([[50, 50], [70, 50]], [60, 90])
    down = face_square([[40, 50], [76, 50]], [58, 80])
    assert aside.side == front.side == down.side


def test_landmarks_have_names():
    assert len(LANDMARKS) == len(set(LANDMARKS)) == 28
    assert "left_pupil" in LANDMARKS and "chin" in LANDMARKS
