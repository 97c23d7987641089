"""People as the body model and the renderer make them (extra `render`); building the body takes a minute."""

import numpy as np
import pytest
from people import expressions, look, portraits

from emolib.data.framing import LANDMARKS
from emolib.emotions import facs

NEEDED = "the extra `render` is not installed"
SMILE = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.4}


@pytest.fixture(scope="session")
def body():
    """The module `people.body` with its model built."""
    pytest.importorskip("anny", reason=NEEDED)
    from people import body

    body._model()
    return body


@pytest.fixture(scope="session")
def person(body):
    return body.Person({"gender": 0.1, "age": 0.6}, {})


@pytest.fixture(scope="session")
def studio(body):
    """The module `people.studio`, quiet and on one core."""
    mitsuba = pytest.importorskip("mitsuba", reason=NEEDED)
    pytest.importorskip("pyoidn", reason=NEEDED)
    from people import studio

    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    studio.single_thread()
    return studio


@pytest.fixture(scope="session")
def rig(body):
    """Identity 3: a woman with glasses and short hair before a cluttered wall."""
    from people.rig import Rig

    return Rig(look.sample(3))


@pytest.fixture(scope="session")
def portrait(studio, rig):
    return studio.Portrait(rig, size=24, samples=1)


@pytest.fixture(scope="session")
def pictures(portrait):
    """The neutral face, a smile, and the neutral face once more."""
    return [portrait.shoot(units) for units in ({}, SMILE, {})]


def part(body, low, high, depth):
    """Skin vertices by their place on the template, decimetres: y from low to high, z beyond depth."""
    template = body.assets().template
    chosen = (template[:, 1] > low) & (template[:, 1] < high) & (template[:, 2] > depth)
    return np.flatnonzero(chosen & (np.arange(len(template)) < body.N_SKIN))


def test_units_are_those_of_emolib(body):
    assert tuple(sorted(body.arkit_names())) == facs.ARKIT


def test_masks_lie_where_they_should(body):
    assets = body.assets()
    for mask in (assets.lips, assets.eyelids, assets.ears, assets.mouth_inside):
        assert mask.shape == (body.N_VERTICES,) and mask.min() == 0 and mask.max() > 0.5
    x, y, z = assets.template.T
    lips, lids, ears = (m > 0.5 for m in (assets.lips, assets.eyelids, assets.ears))
    assert y[lips].max() < y[lids].min() and z[lips].min() > z[ears].max()
    assert np.abs(x[ears]).min() > np.abs(x[lips]).max()


def test_a_person_without_units_is_the_neutral_one(person):
    assert person.neutral.shape == (19158, 3)
    assert np.array_equal(person({}), person.neutral)


def test_the_frame_is_centimetres_from_between_the_eyes(body, person):
    eyes = [person.neutral[np.unique(body.assets().triangles[name])] for name in body.EYES]
    assert np.allclose(np.concatenate(eyes).mean(axis=0), 0, atol=1e-9)
    left, right = (points.mean(axis=0) for points in eyes)
    assert 5 < left[0] - right[0] < 7.5  # people's pupils are about 6.3 cm apart; x is to their left
    diameter = np.ptp(eyes[0], axis=0).max()
    assert 2.2 < diameter < 3.6  # 2.4 cm in people; the model's are larger, cornea included
    nose = person.neutral[part(body, 6.9, 7.1, 1.7)]
    assert (nose[:, 2] > left[2]).all() and (nose[:, 1] < 0).all()


def test_units_add_linearly(person):
    a, b = {"jawOpen": 0.6}, {"mouthSmileLeft": 0.8, "browInnerUp": 0.3}
    moved = [person(units) - person.neutral for units in (a, b, {**a, **b})]
    assert np.allclose(moved[2], moved[0] + moved[1], atol=1e-9)
    assert np.allclose(person({"jawOpen": 0.3}) - person.neutral, moved[0] / 2, atol=1e-9)
    assert np.abs(moved[1]).max() > 0.3


def test_an_open_jaw_lowers_the_chin_and_not_the_brows(body, person):
    moved = person({"jawOpen": 1.0}) - person.neutral
    chin, brows = part(body, 6.2, 6.45, 1.2), part(body, 7.4, 7.6, 1.0)
    assert len(chin) > 20 and len(brows) > 20
    assert moved[chin, 1].max() < -0.8
    assert np.abs(moved[brows]).max() < 0.1


def test_left_is_the_persons_left(body, person):
    moved = np.linalg.norm(person({"eyeBlinkLeft": 1.0}) - person.neutral, axis=1)
    lids, x = body.assets().eyelids > 0.5, body.assets().template[:, 0]
    assert moved[lids & (x > 0)].max() > 0.5 and moved[lids & (x < 0)].max() < 1e-6


def test_looks_are_their_seed(body):
    assert look.sample(3) == look.sample(3)
    assert look.sample(3).local != look.sample(4).local
    shape = look.sample(3).local
    assert len(shape) > 60 and set(shape) <= set(body.local_names(("",)))


def test_hair_keeps_out_of_the_face(body, rig):
    from people import hair

    for style in ("long", "bob", "slick-back", "short"):
        cut, rng = hair.CUTS[style], np.random.default_rng(0)
        strands = hair.head_hair(rng, rig.assets, rig.neutral, cut, hairline=0.0, part=0.0)
        assert strands.shape == (int(0.65 * cut.count), hair.POINTS, 3)
        low = strands[:, 1:][strands[:, 1:, 1] < hair.BROW]
        assert low[:, 2].max() <= hair.TEMPLE
        length = np.linalg.norm(np.diff(strands, axis=1), axis=2).sum(axis=1)
        assert length.mean() > 0.6 * cut.length


def test_brows_rise_with_the_skin(rig):
    still, raised = (rig.moving({name: 1.0})["brows"] for name in ("jawOpen", "browInnerUp"))
    rise = (raised - still)[..., 1].mean(axis=1)
    inner = np.abs(still[:, 0, 0]) < 2
    assert rise[inner].min() > 0.2 and rise[inner].mean() > 2 * rise[~inner].mean()


def test_eyes_look_where_the_units_say(rig):
    for eye, up, aside in zip(
        rig.eyes({}),
        rig.eyes({"eyeLookUpLeft": 1, "eyeLookUpRight": 1}),
        rig.eyes({"eyeLookOutLeft": 1, "eyeLookInRight": 1}),
        strict=True,
    ):
        assert np.linalg.norm(eye.gaze) == pytest.approx(1)
        assert up.gaze[1] - eye.gaze[1] > 0.3  # 24 degrees
        assert aside.gaze[0] - eye.gaze[0] > 0.4  # 30 degrees to the person's left


def test_glasses_sit_before_the_eyes(rig):
    vertices, triangles = rig.glasses()
    assert triangles.max() == len(vertices) - 1
    for eye in rig.eyes({}):
        before = vertices[np.linalg.norm(vertices[:, :2] - eye.centre[:2], axis=1) < 3.2]
        assert before[:, 2].min() > eye.centre[2] + eye.radius


def test_development_is_srgb_with_a_shoulder(studio):
    light = np.array([[[0.0, 0.5029, 0.2159]], [[0.8, 5.0, 100.0]]])
    assert studio.develop(light, 1.0).tolist() == [[[0, 188, 128]], [[231, 255, 255]]]
    ramp = studio.develop(np.linspace(0, 2, 300)[None, :, None], 1.0)
    assert (np.diff(ramp.astype(int), axis=1) >= 0).all()
    assert studio.develop(light, 0.5)[0, 0, 1] < 188


def test_the_same_face_is_the_same_picture(pictures, studio, rig):
    neutral, smile, again = pictures
    assert neutral.shape == (24, 24, 3) and neutral.dtype == np.uint8
    assert np.array_equal(neutral, again)
    assert np.array_equal(studio.Portrait(rig, size=24, samples=1).shoot(SMILE), smile)


def test_an_expression_changes_the_face_and_not_the_wall(pictures, portrait):
    neutral, smile, _ = (picture.astype(int) for picture in pictures)
    x0, y0, x1, y1 = portraits.face_box(portrait.figure, portrait)
    change = np.abs(smile - neutral).max(axis=2)
    assert change[y0:y1, x0:x1].max() > 25
    corners = np.concatenate([change[:3, :3].ravel(), change[:3, -3:].ravel()])
    assert corners.max() <= 3  # the denoiser may shift a level or two


def test_the_face_box_holds_the_features(portrait, rig):
    x0, y0, x1, y1 = portraits.face_box(portrait.figure, portrait)
    assert 0 <= x0 < x1 <= 24 and 0 <= y0 < y1 <= 24
    assert 0.6 < (y1 - y0) / 24 < 1  # forehead to below the chin
    lips = rig.neutral[rig.assets.lips > 0.5]
    for points in (*(eye.centre[None] for eye in rig.eyes({})), lips):
        x, y = portrait.project(portrait.figure.world(points)).T
        assert x0 < x.min() and x.max() < x1 and y0 < y.min() and y.max() < y1


def test_landmarks_follow_the_face(portrait, rig):
    from people import landmarks

    still, open_wide, gaze = (
        dict(zip(LANDMARKS, landmarks.in_picture(portrait.figure, portrait, units), strict=True))
        for units in ({}, {"jawOpen": 1.0}, {"eyeLookUpLeft": 1.0})
    )
    assert open_wide["chin"][1] > still["chin"][1] + 1
    assert np.allclose(open_wide["nose_tip"], still["nose_tip"], atol=0.3)
    assert gaze["left_pupil"][1] < still["left_pupil"][1] - 0.3
    assert np.allclose(gaze["right_pupil"], still["right_pupil"])
    for name in ("eye_inner", "eye_outer", "brow_inner", "mouth_corner"):
        assert still[f"left_{name}"][0] > still[f"right_{name}"][0]  # their left is the picture's right
    down = [
        "left_brow_middle",
        "left_eye_top",
        "left_eye_bottom",
        "nose_base",
        "upper_lip",
        "lower_lip",
        "chin",
    ]
    heights = [still[name][1] for name in down]
    assert heights == sorted(heights)


def test_a_nod_moves_the_head_and_leaves_the_shoulders(rig):
    points = np.array([[0, 0, 10.0], [0, -10, 9.0], [5, -30, 2.0]])  # between the eyes, chin, shoulder
    still = rig.place(points)
    rig.pose = (0.0, -8.0, 0.0)
    try:
        nodded = rig.place(points)
    finally:
        rig.pose = (0.0, 0.0, 0.0)
    assert nodded[0, 1] < still[0, 1] - 1 and nodded[1, 2] < still[1, 2] - 0.3
    assert np.allclose(nodded[2], still[2])


def test_frowning_folds_the_brow(rig):
    smooth, frown = (
        rig.skin(rig.neutral, units)[0] for units in ({}, {"browDownLeft": 1.0, "browDownRight": 1.0})
    )
    moved = np.linalg.norm(frown - smooth, axis=1)
    template = rig.surface.assets.template
    brow = (np.abs(template[:, 0]) < 0.2) & (template[:, 1] > 7.3) & (template[:, 1] < 7.65)
    assert moved[brow].max() > 0.05 and moved[template[:, 1] < 7.0].max() == 0


def test_darker_skin_is_exposed_longer(studio, rig):
    from types import SimpleNamespace

    dark = SimpleNamespace(colours=0.4 * rig.colours, assets=rig.assets)
    assert 0.9 <= studio.exposure(rig) < studio.exposure(dark) <= 1.9


def test_an_identity_is_written_whole(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(portraits, "NINE", ("neutral", "anger"))
    assert portraits.render_identity(3, tmp_path, 24, 1) == "000003.npz"
    assert [file.name for file in tmp_path.iterdir()] == ["000003.npz"]
    with np.load(tmp_path / "000003.npz") as kept:
        assert kept["pictures"].shape == (2, 24, 24, 3) and "anger" in str(kept["meta"])


def test_only_what_is_drawn_otherwise_is_rendered_anew(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(portraits, "NINE", ("neutral", "anger", "fear"))
    portraits.render_identity(3, tmp_path, 24, 1)
    before = portraits.read_rendered(tmp_path / "000003.npz")
    assert portraits.stale(portraits.draw_expressions(3), before) == []
    monkeypatch.setitem(expressions.PROTOTYPES, "anger", [{"browDown*": 1}])
    assert portraits.stale(portraits.draw_expressions(3), before) == [1]
    monkeypatch.setattr(studio.Portrait, "shoot", lambda self, units, pose: np.zeros((24, 24, 3), np.uint8))
    portraits.render_identity(3, tmp_path, 24, 1)
    after = portraits.read_rendered(tmp_path / "000003.npz")
    black = [not picture.any() for _, picture, _ in after]
    assert black == [False, True, False] and [m.max() for _, _, m in after] == [255] * 3
    assert (after[2][1] == before[2][1]).all()
