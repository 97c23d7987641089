"""Valence-arousal scales, wheels and vectors, by identities."""

import itertools

import numpy as np
import pytest

from emolib.emotions import sets, spaces
from emolib.runtime import InputError

TWO = tuple(spaces.SCALES)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(TWO, TWO)))
def test_ends_go_to_ends_and_back(a, b):
    ends = np.array(spaces.SCALES[a][:2]).T
    target = np.array(spaces.SCALES[b][:2]).T
    assert np.allclose(spaces.convert(ends, a, b), target)
    points = ends[0] + np.random.default_rng(0).uniform(size=(5, 4, 2)) * (ends[1] - ends[0])
    there = spaces.convert(points, a, b)
    assert there.shape == points.shape
    assert np.allclose(spaces.convert(there, b, a), points)
    for c in TWO:  # going by way of a third scale is the same as going straight
        assert np.allclose(spaces.convert(spaces.convert(points, a, c), c, b), there)


def test_converter_on_known_points():
    assert spaces.convert([0, 3], "findingemo", "signed").tolist() == [0, 0]
    assert spaces.convert([3, 0], "findingemo", "signed").tolist() == [1, -1]
    assert spaces.convert([0.5, 0.5, 1], "unit", "one-to-ten").tolist() == [5.5, 5.5, 10]
    # NRC's "joy" .980/.824 on FindingEmo's scale, as tabulated with the scale's description.
    assert spaces.convert([0.980, 0.824], "unit", "findingemo") == pytest.approx([2.88, 4.944])
    assert spaces.convert([1.5, -1.5], "symmetric3", "signed").tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("values", "source", "message"),
    [
        ([4, 0], "findingemo", "valence 4 is outside"),
        ([0, -1], "findingemo", "arousal -1 is outside"),
        ([0, np.nan], "signed", "arousal nan"),
        ([0, 1, 0], "findingemo", "dominance 0 is outside"),
        ([0, 0], "signd", "did you mean 'signed'"),
    ],
)
def test_converter_refuses(values, source, message):
    with pytest.raises(InputError, match=message):
        spaces.convert(values, source, "signed")


def test_every_label_has_a_target_in_range():
    for name in ("mikels", "emofaces-all", "ekman7", "plutchik24"):
        table = spaces.va_table(sets.labels(name))
        assert np.abs(table).max() <= 1
        assert len(np.unique(table, axis=0)) == len(table)  # no two labels of a set coincide
    assert all(-1 <= spaces.dominance(x) <= 1 for x in spaces.OURS)
    assert spaces.va("neutral") == (0.0, 0.0)
    assert all(spaces.nearest_label(spaces.va(label)) == label for label in sets.MIKELS)


def test_targets_agree_with_what_is_published():
    for label, sign in sets.POLARITY.items():
        assert np.sign(spaces.va(label)[0]) == sign
    for shades in sets.PETALS.values():  # arousal grows from mild to intense, boredom to loathing included
        a = [spaces.va(x)[1] for x in shades]
        assert a == sorted(a)
    for label in spaces.RUSSELL_WORD:
        ours, russell = np.array(spaces.va(label)), np.array(spaces.va(label, "russell"))
        assert np.linalg.norm(ours - russell) < 0.6
    assert spaces.va("anger") != spaces.va("anger", "russell") == (-0.52, 0.58)


def test_sources_switch_and_refuse():
    table = spaces.empirical(["joy", "joy", "fear"], [3, 1, -3], [6, 0, 6])
    assert table == {"joy": pytest.approx((2 / 3, 0)), "fear": (-1.0, 1.0)}
    assert spaces.va("joy", "findingemo-empirical", table=table) == pytest.approx((2 / 3, 0))
    with pytest.raises(InputError, match="unknown label of `table` 'joy'"):
        spaces.va("joy", "findingemo-empirical")
    with pytest.raises(InputError, match="point in Russell's figure 'awe'"):
        spaces.va("awe", "russell")
    with pytest.raises(InputError, match="unknown valence-arousal source 'nrc'"):
        spaces.va("joy", "nrc")


@pytest.mark.parametrize(("kind", "order"), [("mikels", sets.MIKELS), ("plutchik", sets.PLUTCHIK24)])
def test_wheel_distance_is_a_metric(kind, order):
    d = spaces.distance_matrix(order, kind)
    assert np.array_equal(d, d.T) and (np.diag(d) == 0).all()
    assert d.min() >= 0 and d.max() == 180
    assert (d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-9).all()


def test_wheel_opposites():
    for petal, opposite in sets.OPPOSITES.items():
        assert spaces.wheel_distance(petal, opposite, "plutchik") == 180
    assert spaces.wheel_distance("joy", "ecstasy", "plutchik") == 0
    assert spaces.wheel_distance("sadness", "disgust", "mikels") == 45  # across 0 degrees
    assert sorted(spaces.ANGLES["mikels"].values()) == [22.5 + 45 * i for i in range(8)]
    with pytest.raises(InputError, match="on the mikels wheel"):
        spaces.angle("joy", "mikels")


@pytest.mark.parametrize("space", spaces.SPACES)
def test_emotion_vector_algebra(space):
    rng = np.random.default_rng(0)
    a, b, c = rng.dirichlet(np.ones(8), size=3)
    ab, bc, ac = (spaces.emotion_vector(x, y, space=space) for x, y in ((a, b), (b, c), (a, c)))
    assert np.allclose(ab.delta + bc.delta, ac.delta)
    assert ac.length <= ab.length + bc.length + 1e-12
    assert np.allclose(spaces.emotion_vector(b, a, space=space).delta, -ab.delta)
    assert spaces.emotion_vector(a, a, space=space).length == 0


def test_emotion_vector_lengths():
    assert spaces.emotion_vector("anger", "fear", space="labels").length == 1
    assert spaces.emotion_vector("awe", "sadness", space="wheel").length == pytest.approx(
        2 * np.sin(np.deg2rad(spaces.wheel_distance("awe", "sadness") / 2))
    )
    same, cross = (spaces.emotion_vector("amusement", x).length for x in ("excitement", "sadness"))
    assert same < cross  # within a valence the step is shorter than across
    half = np.array([0.5 * (x == "awe") + 0.5 * (x == "fear") for x in sets.MIKELS])
    whole = spaces.emotion_vector("awe", "fear").length
    assert spaces.emotion_vector(half, "fear").length == pytest.approx(whole / 2)
    assert spaces.emotion_vector("neutral", "awe", sets.EMOFACES, space="wheel").length == pytest.approx(1)
    with pytest.raises(ValueError, match="non-negative"):
        spaces.emotion_vector(-half, "fear")
    with pytest.raises(InputError, match="unknown space"):
        spaces.emotion_vector("awe", "fear", space="clip")
    with pytest.raises(InputError, match="unknown label 'joy'"):
        spaces.emotion_vector("awe", "joy")
