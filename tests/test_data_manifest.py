"""The manifest: label order, checks, weights, sampling, and a round trip through parquet."""

import numpy as np
import pandas as pd
import pytest

from emolib.data.manifest import Problems, build_manifest, load_manifest
from emolib.emotions.sets import MIKELS
from emolib.runtime import InputError
from tests.data_standins import encode


def rows(*emotions, **columns):
    return [{"path": f"{i}.png", "emotion": e, **columns} for i, e in enumerate(emotions)]


def test_names_become_one_hot_rows_in_label_order(tmp_path):
    m = build_manifest(rows("sadness", None, "amusement"), MIKELS, tmp_path)
    assert m.labels == MIKELS
    np.testing.assert_array_equal(m.distributions[[0, 2]], np.eye(8)[[7, 0]])
    assert np.isnan(m.distributions[1]).all()
    assert m.counts().to_dict() == {name: float(name in ("sadness", "amusement")) for name in MIKELS}


def test_soft_labels_name_their_most_probable_emotion(tmp_path):
    m = build_manifest([{"path": "a", "distribution": [0.1, 0.6, 0.3]}], ("x", "y", "z"), tmp_path)
    assert m.frame["emotion"].tolist() == ["y"]
    np.testing.assert_allclose(m.distributions, [[0.1, 0.6, 0.3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"emotion": "angre"}, "label", "did you mean 'anger'"),
        ({"distribution": [0.5] * 8}, "label", "sum to 1"),
        ({"distribution": [1.0]}, "label", "8 probabilities"),
        ({"distribution": ["a"] * 8}, "label", "8 probabilities"),
        ({"distribution": "0.5 0.5"}, "label", "not a list of numbers"),
        ({"distribution": [2.0, -1.0, 0, 0, 0, 0, 0, 0]}, "label", "8 probabilities"),
        ({"valence": 3.0}, "range", "outside [-1, 1]"),
        ({"arousal": "high"}, "range", "outside [-1, 1]"),
        ({"id": "0.png"}, "id", "occurs twice"),
    ],
)
def test_a_bad_row_is_refused_or_counted_and_named(tmp_path, row, kind, says):
    bad = {"path": "bad.png", **row}
    with pytest.raises(InputError, match="bad.png") as refused:
        build_manifest([*rows("awe"), bad], MIKELS, tmp_path)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    problems = Problems("skip")
    m = build_manifest([*rows("awe"), bad], MIKELS, tmp_path, problems=problems)
    assert m.frame["path"].tolist() == ["0.png"]
    assert m.problems.counts == {kind: 1} and m.problems.lines == [str(refused.value)]


def test_save_and_load_keep_everything_and_leave_no_other_file(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    extra = {
        "valence": 0.5,
        "caption": "hé",
        "people": [{"emotion": "awe", "box": [1, 2, 3, 4]}],
        "split": "val",
    }
    m = build_manifest([*rows("awe", **extra), {"path": "x", "member": "7"}], MIKELS, pictures, source="test")
    saved = m.save(tmp_path / "m.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.parquet", "pictures"]
    again = load_manifest(saved)
    assert (again.labels, again.source, again.root.resolve()) == (MIKELS, "test", pictures.resolve())
    np.testing.assert_array_equal(again.distributions, m.distributions)
    first, second = again.frame.iloc[0], again.frame.iloc[1]
    assert (first["split"], first["caption"], first["valence"]) == ("val", "hé", 0.5)
    assert first["people"][0]["box"].tolist() == [1, 2, 3, 4]
    assert second["people"] is None and second["member"] == "7" and np.isnan(second["valence"])
    assert second["id"] == "x[7]"


def test_a_saved_manifest_moves_with_its_pictures(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "0.png").write_bytes(encode((1, 2, 3), kind="PNG"))
    build_manifest(rows("awe"), MIKELS, old).save(old / "m.parquet")
    old.rename(new)
    assert load_manifest(new / "m.parquet").image(0).getpixel((0, 0)) == (1, 2, 3)


def test_failed_save_leaves_the_old_file(tmp_path):
    good = build_manifest(rows("awe"), MIKELS, tmp_path)
    good.save(tmp_path / "m.parquet")
    before = (tmp_path / "m.parquet").read_bytes()
    bad = build_manifest(rows("awe", people="nobody"), MIKELS, tmp_path)
    bad.frame["valence"] = ["not a number"]
    with pytest.raises((ValueError, TypeError)):
        bad.save(tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def test_loading_what_is_no_manifest_says_so(tmp_path):
    with pytest.raises(InputError, match="this file is missing"):
        load_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a readable parquet"):
        load_manifest(tmp_path / "text.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a manifest"):
        load_manifest(tmp_path / "other.parquet")


def test_class_weights_balance_what_they_weigh(tmp_path):
    m = build_manifest(rows(*["awe"] * 6, *["fear"] * 2, None), MIKELS, tmp_path)
    weights = dict(zip(MIKELS, m.class_weights(), strict=True))
    assert weights["awe"] * 6 == pytest.approx(weights["fear"] * 2)  # each class weighs the same in all
    assert weights["awe"] * 6 + weights["fear"] * 2 == pytest.approx(8)  # and a picture 1 on average
    assert weights["anger"] == 0
    half = dict(zip(MIKELS, m.class_weights(0.5), strict=True))
    assert half["fear"] / half["awe"] == pytest.approx(3**0.5)
    assert m.class_weights(0).tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    assert m.sample_weights()[-1] == 0 and m.sample_weights()[:8].sum() == pytest.approx(8)


def test_people_are_told_apart_by_identity_or_place(tmp_path):
    places = ["awe/ann/1.png", "neutral/ann/1.jpg", "train/awe/bob.png", "joy/awe/cy.png"]
    emotions = ["awe", "neutral", "awe", "joy"]
    m = build_manifest([{"path": p, "emotion": e} for p, e in zip(places, emotions, strict=True)],
        ("awe", "neutral", "joy"), tmp_path)  # fmt: skip
    assert m.person_keys() == ["ann/1", "ann/1", "train/bob", "awe/cy"]
    twice = [{"path": "awe/1.png", "emotion": "awe"}, {"path": "awe/1.jpg", "emotion": "awe"}]
    with pytest.raises(InputError, match="awe/1.jpg: a second picture of its emotion under one name"):
        build_manifest(twice, MIKELS, tmp_path).person_keys()
    named = [{**row, "identity": 7} for row in twice]
    assert build_manifest(named, MIKELS, tmp_path).person_keys() == ["7", "7"]
    with pytest.raises(InputError, match="awe/1.jpg: has no identity"):
        build_manifest([named[0], {**twice[1], "identity": None}], MIKELS, tmp_path).person_keys()


def test_labels_are_compared_without_case_and_spaces(tmp_path):
    m = build_manifest(rows("awe", " Awe ", "AWE\u00a0", " "), MIKELS, tmp_path)
    assert m.frame["emotion"].tolist()[:3] == ["awe"] * 3 and m.frame["emotion"].isna()[3]
    assert build_manifest(rows("été", "e\u0301te\u0301"), ("Été", "x"), tmp_path).counts()["Été"] == 2
    with pytest.raises(InputError, match="a name occurs twice"):
        build_manifest([], ("awe", "Awe "), tmp_path)


def test_stratified_sample_deals_out_equally_and_grows(tmp_path):
    m = build_manifest(rows(*["awe"] * 50, *["fear"] * 3, *["anger"] * 20), MIKELS, tmp_path)
    twelve = m.sample(12, seed=3)
    assert twelve.frame["emotion"].value_counts().to_dict() == {"awe": 5, "anger": 4, "fear": 3} or (
        twelve.frame["emotion"].value_counts().to_dict() == {"awe": 4, "anger": 5, "fear": 3}
    )
    assert set(m.sample(5, seed=3).frame["id"]) < set(twelve.frame["id"])
    assert m.sample(5, seed=3).frame.equals(m.sample(5, seed=3).frame)
    assert len(m.sample(1000)) == 73 and m.sample(0).frame.empty


def test_relabel_is_the_matrix_product(tmp_path):
    m = build_manifest(rows("awe", "fear", None), ("awe", "fear"), tmp_path)
    r = m.relabel([[0.25, 0.75, 0], [0, 0.5, 0.5]], ("a", "b", "c"))
    np.testing.assert_allclose(r.distributions[:2], [[0.25, 0.75, 0], [0, 0.5, 0.5]])
    assert r.labels == ("a", "b", "c") and r.frame["emotion"].iloc[:2].tolist() == ["b", "b"]
    assert r.frame["emotion"].isna().tolist() == [False, False, True]


def test_check_drops_and_names_broken_pictures(tmp_path):
    (tmp_path / "0.png").write_bytes(encode((9, 8, 7), kind="PNG"))
    (tmp_path / "1.png").write_bytes(encode((9, 8, 7), kind="PNG")[:60])
    (tmp_path / "2.png").write_text("<html>")
    m = build_manifest(rows("awe", "awe", "fear", "fear"), MIKELS, tmp_path)
    good = m.check()
    assert good.frame["path"].tolist() == ["0.png"] and good.problems.counts == {"picture": 3}
    for line, name in zip(good.problems.lines, ("1.png", "2.png", "3.png"), strict=True):
        assert name in line and "\n" not in line
    with pytest.raises(InputError, match="1.png"):
        m.check(on_error="refuse")
    with pytest.raises(InputError, match="on_error"):
        m.check(on_error="ignore")


def test_an_empty_manifest_is_one(tmp_path):
    m = build_manifest([], MIKELS, tmp_path)
    assert len(m) == 0 and len(load_manifest(m.save(tmp_path / "m.parquet"))) == 0
