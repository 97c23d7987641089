"""Packing what was rendered, and what of the rendering needs no renderer: who is drawn, who stands where."""

import dataclasses
import io
import json

import numpy as np
import pytest
from people import look, portraits, scenes
from people.hair import CUTS
from PIL import Image
from train.captions import ATTRIBUTES, NEVER

from emolib.data import emofaces
from emolib.data.framing import LANDMARKS
from emolib.emotions import facs, spaces
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL
from emolib.runtime import InputError

pytest.importorskip("datasets", reason="needs datasets: pip install -e '.[render]'")
from people import pack  # noqa: E402

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
    early = [pack.split_of(seed) for seed in portraits.plan(1000, 64)[:64]]
    assert early.count("train") == 48 and early.count("concepts") == 4  # a short run has every split


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
            "pose": [1.0, -2.0, 3.0],
            "landmarks": [[k, 2.0 * k] for k in range(len(LANDMARKS))],
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
    assert np.array(record["landmarks"].tolist()).tolist() == [[k, 2 * k] for k in range(len(LANDMARKS))]
    assert [record[name] for name in ("yaw", "pitch", "roll")] == [1, -2, 3]
    assert record["intensity"] == np.float32(0.8)
    assert np.allclose([record["valence"], record["arousal"]], np.multiply(0.8, spaces.va("anger")))
    assert record["arkit"][facs.ARKIT.index("jawOpen")] == 0.5 and sum(record["arkit"]) == 0.5
    assert record["aus"][facs.AUS.index("AU26")] == 0.5
    assert all(record[name] == getattr(person, name) for name in (*VALUES, "variant")[:-1])
    image = np.asarray(table.image(9, "anger")).astype(int)
    assert np.abs(image - pictures[EMOFACES.index("anger")]).mean() < 4


def rendered_scene(folder):
    """A scene file as the renderer writes it: person k's new face is a patch of other colours."""
    source, owners = smooth_picture(1, 384, 256), np.zeros((256, 384), dtype=np.uint8)
    owners[60:200, 50:150], owners[60:200, 230:330] = 1, 2
    one, two = source.copy(), source.copy()
    one[91:133, 77:119] = 255 - source[91:133, 77:119]
    two[80:128, 226:304] = 255 - source[80:128, 226:304]  # four pixels of it on the wall
    pictures = np.stack([source, one, two, np.where(owners[..., None] == 1, one, two)])
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
    return store(folder, pictures, owners, people), pictures, owners


def store(folder, pictures, owners, people):
    meta = {"scene": 3, "versions": ["source", "person0", "person1", "all"], "people": people}
    file = folder / "0003.npz"
    np.savez_compressed(file, pictures=pictures, mask=owners, meta=np.array(json.dumps(meta)))
    return file


def packed_scene(file, folder, quality=80):
    pack.write(pack.scene_rows(file, quality), pack.SCENE_FEATURES, folder / "scenes-test.parquet")
    return emofaces.scenes(folder)


def test_scenes_come_back_as_they_were_rendered(tmp_path):
    file, pictures, owners = rendered_scene(tmp_path)
    table = packed_scene(file, tmp_path)
    assert table.ids == (3,) and table.versions(3) == ("source", "person0", "person1", "all")
    source, other = table.get(3), table.get(3, "person0")
    assert [(p.emotion, p.target) for p in source.people] == [("anger", "awe"), ("fear", "neutral")]
    assert all(np.array_equal(p.mask, owners == k + 1) for k, p in enumerate(source.people))
    assert source.caption == "photo of an angry woman and a fearful man at a table"
    assert "angry" not in other.caption and "fearful man" in other.caption
    for version, picture in zip(table.versions(3), pictures, strict=True):
        assert np.abs(np.asarray(table.get(3, version).image).astype(int) - picture).mean() < 4


def test_a_counterfactual_is_the_source_bit_for_bit_where_nobody_changed(tmp_path):
    file, pictures, owners = rendered_scene(tmp_path)
    noise = np.random.default_rng(5).integers(-9, 10, pictures[0].shape)
    noisy = np.clip(pictures + noise, 0, 255).astype(np.uint8)  # the same grain in every version
    with np.load(file) as kept:
        people = json.loads(str(kept["meta"]))["people"]
    table = packed_scene(store(tmp_path, noisy, owners, people), tmp_path, quality=30)
    source = np.asarray(table.get(3).image)
    assert np.abs(source.astype(int) - noisy[0]).mean() > 1  # lossy: nothing is the same by itself
    assert not table.get(3).changed.any()
    for version, picture in zip(table.versions(3)[1:], noisy[1:], strict=True):
        found = table.get(3, version)
        differs = (np.asarray(found.image) != source).any(axis=2)
        assert not (differs & ~found.changed).any()
        assert differs[found.changed].mean() > 0.95
        assert not ((picture != noisy[0]).any(axis=2) & ~found.changed).any()
    one, two, everybody = (table.get(3, v).changed for v in ("person0", "person1", "all"))
    assert np.array_equal(everybody, one | two) and not (one & two).any()


def test_changes_hold_every_changed_pixel_and_close_holes_but_not_over_others():
    owners = np.zeros((20, 30), dtype=np.uint8)
    owners[:, 15:] = 2
    source = np.zeros((20, 30, 3), dtype=np.uint8)
    one, two = source.copy(), source.copy()
    one[4:12, 5:20, 1] = 7
    one[8, 8] = one[8, 17] = 0  # a hole on the wall, and one in the neighbour's sleeve
    one[19, 0, 2] = 1  # a lone pixel in the corner
    two[0:4, 26:30] = 9
    everybody = np.maximum(one, two)
    versions = ["source", "all", "person1", "person0"]  # the order is the file's affair
    found = pack.changes(np.stack([source, everybody, two, one]), owners, versions)
    expected = np.zeros((20, 30), dtype=bool)
    expected[4:12, 5:20] = expected[19, 0] = True
    expected[8, 17] = False
    assert np.array_equal(found["person0"], expected) and not found["source"].any()
    assert found["person1"].sum() == 16 and np.array_equal(found["all"], expected | found["person1"])


def test_a_contradicting_or_broken_scene_is_one_line(tmp_path):
    file, pictures, owners = rendered_scene(tmp_path)
    with np.load(file) as kept:
        people = json.loads(str(kept["meta"]))["people"]
    wrong = pictures.copy()
    wrong[3, 0, 0] ^= 1
    with pytest.raises(InputError, match=r"0003\.npz: not a rendered scene \(version 'all' changes pixels"):
        pack.scene_rows(store(tmp_path, wrong, owners, people), 80)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"0003\.npz: not a rendered scene .*render it again"):
        pack.scene_rows(file, 80)


def test_masks_are_kept_exactly():
    owners = np.random.default_rng(0).integers(0, 5, (64, 96)).astype(np.uint8)
    kept = Image.open(io.BytesIO(pack.encode_mask(owners)))
    assert kept.mode == "L" and np.array_equal(np.asarray(kept), owners)


@pytest.mark.parametrize(("n", "step", "rise"), [(2, 30, 0), (3, 20, 10), (4, 17, 16)])
def test_people_stand_beside_each_other(n, step, rise):
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
        assert drawn[:, :, 1][back].mean() == pytest.approx(rise, abs=0.7)  # those behind stand higher
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
