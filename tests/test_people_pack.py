"""Packing what was rendered, and what of the rendering needs no renderer: who is drawn, who stands where."""

import dataclasses
import io
import json

import numpy as np
import pytest
from people import look, pack, portraits, scenes
from people.hair import CUTS
from PIL import Image
from train.captions import ATTRIBUTES, NEVER

from emolib.data import emofaces
from emolib.emotions import facs, spaces
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL

VALUES = {
    "gender": {"woman", "man"},
    "age": {"young", "adult", "old"},
    "skin": {"light", "medium", "dark"},
    "hair_style": {"bald", "short", "bob", "long", "curly", "afro", "bun"},
    "hair_color": {"black", "brown", "blond", "red", "grey", "none"},
    "beard": {True, False},
    "glasses": {True, False},
    "clothes_color": set(look.COLOURS),
    "background": {"plain", "gradient", "textured", "cluttered"},
    "background_color": set(look.COLOURS),
}


@pytest.fixture
def without_body_model(monkeypatch):
    """Looks are drawn for a few shape changes instead of the body model's hundred."""
    monkeypatch.setattr(look, "local_names", lambda prefixes: ["nose-width", "l-ear-size", "r-ear-size"])


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def smooth_picture(seed, width=96, height=96):
    rough = np.random.default_rng(seed).integers(0, 255, (height // 12, width // 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def test_splits_are_by_identity():
    count = {name: sum(pack.split_of(i) == name for i in range(1000)) for name in pack.SPLITS}
    assert count == {"train": 800, "val": 100, "test": 100, "concepts": 0}
    assert {pack.split_of(i) for i in range(portraits.FIRST_CONCEPT, portraits.FIRST_CONCEPT + 64)} == {
        "concepts"
    }
    assert pack.split_of(18) == "val" and pack.split_of(19) == "test"


def test_every_identity_is_planned_once():
    seeds = portraits.plan(30, 4)
    assert len(seeds) == len(set(seeds)) == 34
    assert sorted(seeds)[:30] == list(range(30)) and min(sorted(seeds)[30:]) == portraits.FIRST_CONCEPT


def test_looks_are_their_seed_and_fit_the_captions(without_body_model):
    looks = [look.sample(seed) for seed in range(300)]
    assert look.sample(7) == looks[7] and looks[7] != looks[8]
    assert set(VALUES) == set(ATTRIBUTES[1:])
    for name, values in VALUES.items():
        assert {getattr(person, name) for person in looks} == values, name
    for person in looks:
        assert person.cut is None if person.hair_style == "bald" else person.cut in CUTS
        assert (person.hair_color == "none") == (person.hair_style == "bald")
        assert not (person.beard and person.gender == "woman")
        assert abs(person.yaw) <= 24 and abs(person.pitch) <= 9 and abs(person.roll) <= 6
        assert abs(person.local["l-ear-size"] - person.local["r-ear-size"]) < 0.15  # nearly symmetric


def test_every_cut_exists():
    assert {cut for cuts in look.STYLES.values() for cut in cuts} - {"bald"} <= set(CUTS)
    assert set(look.STYLE_NAMES) <= set(CUTS) and set(look.STYLE_NAMES.values()) <= VALUES["hair_style"]


def test_captions_name_no_held_out_emotion(without_body_model):
    for identity in range(30):
        row = {"identity": identity, **dataclasses.asdict(look.sample(identity))}
        texts = {emotion: pack.caption({**row, "emotion": emotion}) for emotion in EMOFACES_ALL}
        assert texts == {emotion: pack.caption({**row, "emotion": emotion}) for emotion in EMOFACES_ALL}
        assert row["clothes_color"] in texts["surprise"] and row["background"] in texts["anger"]
        assert texts["surprise"] == texts["contempt"] and texts["anger"] != texts["fear"]
        words = {word.strip(",") for text in texts.values() for word in text.split()}
        assert not words & set(NEVER)


def rendered_identity(folder, seed):
    records = [
        {
            "emotion": e,
            "intensity": 0.0 if e == "neutral" else 0.8,
            "variant": f"{e}-0",
            "units": {"jawOpen": 0.5},
        }
        for e in portraits.NINE
    ]
    meta = {"seed": seed, "records": records, "face_box": [20, 25, 76, 90]}
    pictures = np.stack([smooth_picture(100 * seed + k) for k in range(9)])
    np.savez_compressed(folder / f"{seed:06d}.npz", pictures=pictures, meta=np.array(json.dumps(meta)))
    return pictures


def test_portraits_come_back_as_they_were_rendered(tmp_path, without_body_model):
    pictures = rendered_identity(tmp_path, 9)
    rows = pack.rows_of(tmp_path / "000009.npz", quality=90)
    pack.write(rows, pack.FEATURES, tmp_path / "portraits-test.parquet")
    table = emofaces.portraits("test", tmp_path)
    assert table.identities == (9,) and table.emotions == EMOFACES
    assert len(table.manifest) == 9
    record, person = table.record(9, "anger"), look.sample(9)
    assert list(record["face_box"]) == [20, 25, 76, 90]
    assert record["intensity"] == np.float32(0.8)
    assert np.allclose([record["valence"], record["arousal"]], np.multiply(0.8, spaces.va("anger")))
    assert record["arkit"][facs.ARKIT.index("jawOpen")] == 0.5 and sum(record["arkit"]) == 0.5
    assert record["aus"][facs.AUS.index("AU26")] == 0.5
    assert all(record[name] == getattr(person, name) for name in (*VALUES, "variant")[:-1])
    image = np.asarray(table.image(9, "anger")).astype(int)
    assert np.abs(image - pictures[EMOFACES.index("anger")]).mean() < 4


def rendered_scene(folder):
    source, owners = smooth_picture(1, 384, 256), np.zeros((256, 384), dtype=np.uint8)
    owners[60:200, 50:150], owners[60:200, 230:330] = 1, 2
    changed = [source.copy(), source.copy()]
    changed[0][96:128, 80:112] = 255 - source[96:128, 80:112]  # whole blocks of 16 px
    changed[1][80:128, 256:304] = 255 - source[80:128, 256:304]
    pictures = np.stack([source, *changed, np.where(owners[..., None] == 2, changed[1], changed[0])])
    people = [
        {
            "identity": 200_030 + k,
            "emotion": e,
            "target": t,
            "gender": g,
            "hair_color": "red",
            "box": [50, 60, 9, 9],
        }
        for k, (e, t, g) in enumerate([("anger", "awe", "woman"), ("fear", "neutral", "man")])
    ]
    meta = {"scene": 3, "versions": ["source", "person0", "person1", "all"], "people": people}
    file = folder / "0003.npz"
    np.savez_compressed(file, pictures=pictures, mask=owners, meta=np.array(json.dumps(meta)))
    return file, pictures, owners


def test_scenes_come_back_as_they_were_rendered(tmp_path):
    file, pictures, owners = rendered_scene(tmp_path)
    pack.write(pack.scene_rows(file), pack.SCENE_FEATURES, tmp_path / "scenes-test.parquet")
    table = emofaces.scenes(tmp_path)
    assert table.ids == (3,) and table.versions(3) == ("source", "person0", "person1", "all")
    source, other = table.get(3), table.get(3, "person0")
    assert [(p.emotion, p.target) for p in source.people] == [("anger", "awe"), ("fear", "neutral")]
    assert all(np.array_equal(p.mask, owners == k + 1) for k, p in enumerate(source.people))
    assert source.caption == "photo of an angry woman and a fearful man at a table"
    assert "angry" not in other.caption and "fearful man" in other.caption
    assert np.abs(np.asarray(source.image).astype(int) - pictures[0]).mean() < 4


def test_blocks_that_a_counterfactual_leaves_alone_decode_to_the_same_pixels(tmp_path):
    _, pictures, _ = rendered_scene(tmp_path)
    source, other = decoded(pack.encode_scene(pictures[0])), decoded(pack.encode_scene(pictures[1]))
    different = np.argwhere((source != other).any(axis=2))
    # One pixel around the exchanged blocks may differ: decoders smooth the colour, which has half the size.
    assert (different.min(axis=0) >= (95, 79)).all() and (different.max(axis=0) <= (128, 112)).all()
    assert len(different) > 900


def test_masks_are_kept_exactly():
    owners = np.random.default_rng(0).integers(0, 5, (64, 96)).astype(np.uint8)
    kept = Image.open(io.BytesIO(pack.encode_mask(owners)))
    assert kept.mode == "L" and np.array_equal(np.asarray(kept), owners)


@pytest.mark.parametrize(("n", "step"), [(2, 30), (3, 26), (4, 25)])
def test_people_stand_beside_each_other(n, step):
    drawn = np.array([scenes.layout(np.random.default_rng(seed), n) for seed in range(100)])
    assert drawn.shape == (100, n, 3)
    gaps = np.diff(drawn[:, :, 0], axis=1)
    assert gaps.min() > step - 6  # two normal draws of 0.8 cm: 6 cm are more than five standard deviations
    assert gaps.mean() == pytest.approx(step, abs=0.5)
    back = drawn[:, :, 2] < -8
    if n == 2:
        assert not back.any()
    else:
        assert (back[:, 1:] != back[:, :-1]).all() and 20 < back[:, 0].sum() < 80
        assert drawn[:, :, 1][back].mean() == pytest.approx(7, abs=0.7)  # those behind stand higher
    assert drawn[:, :, 1][~back].mean() == pytest.approx(0, abs=0.7)


def test_an_exchange_takes_pixels_from_nobody_else():
    owners = np.zeros((20, 30), dtype=np.uint8)
    owners[5:15, 5:15], owners[5:15, 15:25] = 1, 2
    changed = owners.copy()
    changed[8:10, 2:28] = 1  # the new expression reaches over the neighbour
    mine = scenes.exchanged(owners, changed, 0)
    assert mine[owners == 1].all() and not mine[owners == 2].any()
    assert mine[9, 0] and mine[3, 10] and not mine[2, 10]  # grown by two pixels into the background
    source, crop = np.zeros((20, 30, 3), dtype=np.uint8), np.full((12, 20, 3), 9, dtype=np.uint8)
    result = scenes.paste(source, crop, mine, [2, 3, 22, 15])
    inside = np.zeros_like(mine)
    inside[3:15, 2:22] = True
    assert np.array_equal(result[..., 0] == 9, mine & inside) and not source.any()
