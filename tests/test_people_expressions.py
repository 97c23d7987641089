"""How the renderer's people look: what each emotion does with the face's units."""

import numpy as np
import pytest
from people import expressions, portraits

from emolib.emotions import facs
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL, HELD_OUT

FELT = [name for name in EMOFACES_ALL if name != "neutral"]

# Action units that FACS prototypes of these emotions agree on (Ekman & Friesen 1978, table 11-1, and EMFACS);
# contempt is one-sided: see its own test.
CORE = {
    "amusement": ("AU6", "AU12"),
    "anger": ("AU4",),
    "disgust": ("AU9",),
    "fear": ("AU1", "AU5", "AU20"),
    "sadness": ("AU1", "AU15"),
    "surprise": ("AU1", "AU2", "AU5", "AU26"),
}


def draws(emotion, count):
    return [expressions.sample(np.random.default_rng([seed, 3]), emotion) for seed in range(count)]


def test_the_emotions_are_those_of_the_data_set():
    assert set(expressions.PROTOTYPES) == set(EMOFACES_ALL)
    assert portraits.NINE == EMOFACES and portraits.NEW == HELD_OUT


def test_a_star_means_both_sides():
    assert expressions.expand({"browDown*": 1, "jawOpen": 0.5}) == {
        "browDownLeft": 1.0,
        "browDownRight": 1.0,
        "jawOpen": 0.5,
    }


def test_every_unit_of_a_prototype_exists():
    for variants in expressions.PROTOTYPES.values():
        for variant in variants:
            units = expressions.expand(variant)
            assert set(units) <= set(facs.ARKIT)
            assert all(0 < value <= 1 for value in units.values())


@pytest.mark.parametrize("emotion", EMOFACES_ALL)
def test_units_and_intensity_stay_in_range(emotion):
    for units, intensity, variant in draws(emotion, 60):
        assert set(units) <= set(facs.ARKIT)
        assert all(0 <= value <= 1 for value in units.values())
        assert intensity == 0 if emotion == "neutral" else 0.7 <= intensity <= 1
        assert variant.startswith(f"{emotion}-")


@pytest.mark.parametrize("emotion", FELT)
def test_every_variant_is_drawn(emotion):
    count = len(expressions.PROTOTYPES[emotion])
    assert {variant for *_, variant in draws(emotion, 60)} == {f"{emotion}-{i}" for i in range(count)}


def test_intensity_is_mostly_high():
    found = [intensity for _, intensity, _ in draws("anger", 1500)]
    # The median of 0.7 + 0.3 Beta(2.2, 1.4) is 0.889; that of 1,500 draws has a standard error of 0.002.
    assert np.median(found) == pytest.approx(0.889, abs=0.009)


def test_a_unit_varies_about_its_prototype_and_sides_differ_little():
    drawn = [(units, intensity) for units, intensity, name in draws("sadness", 400) if name == "sadness-0"]
    left, right = (np.array([units[f"eyeLookDown{s}"] / i for units, i in drawn]) for s in ("Left", "Right"))
    spread = np.hypot(0.10, 0.06)  # of both factors together, relative to 0.7
    assert len(drawn) > 100
    assert left.mean() == pytest.approx(0.7, abs=4 * 0.7 * spread / len(drawn) ** 0.5)
    difference = (left - right).std() / 0.7
    assert 0.06 < difference < 0.12  # sqrt(2) * 0.06 = 0.085: the common factor cancels


def test_heads_are_held_as_the_emotion_asks():
    held = {
        emotion: np.array(
            [expressions.sample_pose(np.random.default_rng(s), emotion, 0.85) for s in range(300)]
        )
        for emotion in EMOFACES_ALL
    }
    pitch = {emotion: poses[:, 1].mean() for emotion, poses in held.items()}
    assert min(pitch, key=pitch.get) == "sadness" and max(pitch, key=pitch.get) == "awe"
    assert all(np.abs(poses).max() <= 12 for poses in held.values())
    assert abs(pitch["neutral"]) < 0.3 and np.abs(held["neutral"]).max() < 4


def test_neutral_is_nearly_nothing():
    drawn = draws("neutral", 100)
    assert all(0.05 <= value <= 0.2 for units, *_ in drawn for value in units.values())
    sides = {f"{name}{side}" for name in ("browDown", "eyeSquint") for side in ("Left", "Right")}
    assert all(set(units) == sides for units, *_ in drawn)
    assert {variant for *_, variant in drawn} == {"neutral-0"}


@pytest.mark.parametrize("emotion", EMOFACES_ALL)
def test_the_same_generator_gives_the_same_face(emotion):
    assert draws(emotion, 5) == draws(emotion, 5)


@pytest.mark.parametrize("emotion", CORE)
def test_prototypes_show_the_action_units_of_their_emotion(emotion):
    for variant in expressions.PROTOTYPES[emotion]:
        seen = facs.arkit_to_aus(expressions.expand(variant))
        assert all(seen.get(unit, 0) > 0.15 for unit in CORE[emotion]), variant


def test_contempt_lifts_one_corner_of_the_mouth():
    for variant in expressions.PROTOTYPES["contempt"]:
        units = expressions.expand(variant)
        sides = [units.get(f"mouthSmile{side}", 0) for side in ("Left", "Right")]
        assert sorted(sides) == [0, 0.9]


def test_gain_moves_the_mesh_further_and_leaves_the_record():
    units = {"browInnerUp": 0.5, "jawOpen": 0.5}
    assert expressions.geometry(units) == {"browInnerUp": 0.9, "jawOpen": 0.5}
    assert units == {"browInnerUp": 0.5, "jawOpen": 0.5}
    assert set(expressions.GAIN) <= set(facs.ARKIT) and min(expressions.GAIN.values()) > 1
