"""Label sets: the orders are written out here a second time, because order is what must not drift."""

import numpy as np
import pytest

from emolib.emotions import sets
from emolib.runtime import InputError


def test_orders_are_the_published_ones():
    emoset = "amusement awe contentment excitement anger disgust fear sadness"
    emoeditor = "amusement anger awe contentment disgust excitement fear sadness"
    wheel = "joy trust fear surprise sadness disgust anger anticipation"
    assert tuple(emoset.split()) == sets.MIKELS
    assert tuple(emoeditor.split()) == sets.MIKELS_ALPHABETICAL
    assert ("neutral", *emoset.split()) == sets.EMOFACES
    assert (*sets.EMOFACES, "surprise", "contempt") == sets.EMOFACES_ALL
    assert sets.EKMAN6 == ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    assert (*sets.EKMAN6, "contempt") == sets.EKMAN7
    assert tuple(wheel.split()) == sets.PLUTCHIK8


def test_every_set_has_distinct_labels_and_a_name():
    for name, order in sets.SETS.items():
        assert len(set(order)) == len(order)
        assert sets.labels(name) == order
    assert len(sets.PLUTCHIK24) == 24 and len(sets.DYADS) == 24


def test_permutation_undoes_the_alphabetical_order():
    scores = np.arange(8.0)
    p = sets.permutation(sets.MIKELS_ALPHABETICAL, sets.MIKELS)
    moved = scores[p]
    assert [sets.MIKELS_ALPHABETICAL[int(s)] for s in moved] == list(sets.MIKELS)
    back = sets.permutation(sets.MIKELS, sets.MIKELS_ALPHABETICAL)
    assert np.array_equal(moved[back], scores)
    # Reading one order as the other silently renames five of the eight; three happen to stay.
    swapped = [a for a, b in zip(sets.MIKELS, sets.MIKELS_ALPHABETICAL, strict=True) if a != b]
    assert swapped == ["awe", "contentment", "excitement", "anger", "disgust"]


@pytest.mark.parametrize("other", [("a",), sets.MIKELS[:7], sets.MIKELS + ("awe",), sets.EMOFACES])
def test_permutation_refuses_other_labels(other):
    with pytest.raises(ValueError, match="same labels"):
        sets.permutation(sets.MIKELS, other)


def test_opposites_are_an_involution_half_a_turn_away():
    for petal, opposite in sets.OPPOSITES.items():
        assert opposite != petal and sets.OPPOSITES[opposite] == petal
    pairs = {"joy": "sadness", "trust": "disgust", "fear": "anger", "surprise": "anticipation"}
    assert {k: sets.OPPOSITES[k] for k in pairs} == pairs


def test_dyads_are_all_pairs_that_are_not_opposite_each_once():
    steps = {"primary": 1, "secondary": 2, "tertiary": 3}
    pairs = set()
    for dyad in sets.DYADS.values():
        i, j = sets.PLUTCHIK8.index(dyad.first), sets.PLUTCHIK8.index(dyad.second)
        gap = min((i - j) % 8, (j - i) % 8)
        assert gap == steps[dyad.order]
        pairs.add(frozenset((i, j)))
    assert len(pairs) == 24  # 8 * 7 / 2 pairs, less the 4 opposite ones


def test_petal_and_intensity_of_the_24():
    assert [sets.petal(x) for x in ("serenity", "joy", "ecstasy", "rage")] == ["joy", "joy", "joy", "anger"]
    assert [sets.intensity(x) for x in sets.PETALS["fear"]] == ["mild", "basic", "intense"]
    for petal, shades in sets.PETALS.items():
        assert shades[1] == petal


def test_polarity_splits_four_and_four():
    assert [sets.POLARITY[x] for x in sets.MIKELS] == [1] * 4 + [-1] * 4


def test_bad_labels_are_named():
    with pytest.raises(InputError, match="unknown label 'happy'; known: amusement"):
        sets.index("happy")
    with pytest.raises(InputError, match="unknown emotion set 'mikel'; did you mean 'mikels'"):
        sets.labels("mikel")
    with pytest.raises(InputError, match="'love'"):
        sets.petal("love")
