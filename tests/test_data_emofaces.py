"""EmoFaces' typed access, on stand-ins in its schema."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emolib.data import emofaces
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL
from emolib.runtime import InputError
from tests.data_standins import colour_of, encode, png, write_portraits, write_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emofaces")
    write_portraits(folder, "test", range(3, 7))
    write_portraits(folder, "concepts", range(50, 52))
    write_scenes(folder)
    return folder


@pytest.mark.parametrize(
    ("split", "identities", "emotions"),
    [("test", (3, 4, 5, 6), EMOFACES), ("concepts", (50, 51), EMOFACES_ALL)],
)
def test_every_identity_under_every_emotion(folder, split, identities, emotions):
    p = emofaces.portraits(split, folder)
    assert p.identities == identities and p.emotions == emotions
    assert len(p) == len(identities) * len(emotions)
    for identity in identities:
        for emotion in emotions:
            picture = p.image(identity, emotion)
            assert picture.size == (96, 96) and picture.getpixel((5, 5)) == colour_of(identity, emotion)
            assert p.record(identity, emotion)["caption"].endswith(emotion)


def test_people_are_taken_evenly_over_a_split(folder):
    faces = emofaces.portraits("test", folder)
    everybody = faces.identities
    assert faces.spread(2) == (everybody[0], everybody[len(everybody) // 2])
    assert faces.spread(len(everybody) + 5) == everybody


def test_portraits_as_a_manifest_open_the_same_pictures(folder):
    p = emofaces.portraits("concepts", folder)
    m = p.manifest
    assert m.labels == EMOFACES_ALL and len(m) == len(p)
    assert m.frame["valence"].eq(0).all() and m.frame["arousal"].eq(0.25).all()
    i = p.row(51, "contempt")
    assert m.frame["id"][i] == "00051-contempt" and m.image(i).getpixel((0, 0)) == colour_of(51, "contempt")
    assert m.distributions[i].argmax() == EMOFACES_ALL.index("contempt")
    assert m.frame["people"][i] == [{"emotion": "contempt", "box": [10, 12, 80, 90]}]
    assert emofaces.portraits("test", folder).manifest.labels == EMOFACES


def test_portraits_travel_to_worker_processes(folder):
    p = pickle.loads(pickle.dumps(emofaces.portraits("test", folder)))
    assert p.image(3, "awe").getpixel((0, 0)) == colour_of(3, "awe")


def test_what_is_not_there_is_named(folder):
    p = emofaces.portraits("test", folder)
    with pytest.raises(InputError, match="no identity 99"):
        p.image(99, "awe")
    with pytest.raises(InputError, match="unknown emotion 'ave'; did you mean 'awe'"):
        p.image(3, "ave")
    with pytest.raises(InputError, match="unknown EmoFaces split"):
        emofaces.portraits("testing", folder)


def test_a_missing_or_wrong_file_says_how_to_mend_it(folder, tmp_path):
    with pytest.raises(InputError, match="portraits-val.parquet: EmoFaces is not there; render"):
        emofaces.portraits("val", folder)
    (tmp_path / "portraits-val.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="not a readable parquet"):
        emofaces.portraits("val", tmp_path)
    (tmp_path / "scenes-test.parquet").write_bytes((folder / "portraits-test.parquet").read_bytes())
    with pytest.raises(InputError, match="lacks the column 'scene'"):
        emofaces.scenes(tmp_path)


def test_scenes_give_people_masks_and_counterfactuals(folder):
    s = emofaces.scenes(folder)
    assert s.ids == (0, 1) and s.versions(1) == ("source", "all", "person0", "person1")
    scene = s.get(1)
    assert scene.image.size == (384, 256) and [p.identity for p in scene.people] == [100, 101]
    assert [(p.emotion, p.target) for p in scene.people] == [("neutral", "anger"), ("neutral", "awe")]
    left, right = (p.mask for p in scene.people)
    assert left.shape == (256, 384) and left.dtype == bool and not (left & right).any()
    x0, y0, x1, y1 = scene.people[1].box
    assert right[y0:y1, x0:x1].all() and right.sum() == (x1 - x0) * (y1 - y0)


def test_counterfactuals_take_only_what_changed_from_their_own_picture(folder):
    s = emofaces.scenes(folder)
    left, right = (p.mask for p in s.get(1).people)
    assert not s.get(1).changed.any() and s.get(1).image.getpixel((50, 70)) == (1, 0, 9)
    for person, green, changed in ((None, 50, left | right), (0, 100, left), (1, 150, right)):
        found = s.truth(1, person)
        assert np.array_equal(found.changed, changed) and found.changed.dtype == bool
        expected = np.where(changed[..., None], (1, green, 9), (1, 0, 9))
        assert np.array_equal(np.asarray(found.image), expected)


@pytest.mark.parametrize(
    ("row", "column", "value", "problem"),
    [
        (3, "changed", png(np.zeros((10, 20), np.uint8)), r"\[3\]: picture, masks and source differ in size"),
        (3, "mask", png(np.zeros((384, 256), np.uint8)), r"\[3\]: picture, masks and source differ in size"),
        (3, "image", {"bytes": encode((0, 0, 0), (40, 30)), "path": ""}, r"\[3\]: .* differ in size; render"),
        (0, "image", {"bytes": encode((0, 0, 0), (40, 30)), "path": ""}, r"\[3\]: .* differ in size; render"),
        (3, "changed", {"bytes": b"PNG?", "path": ""}, r"\[3\]: changed: not a picture"),
        (3, "changed", {"bytes": None, "path": ""}, r"\[3\]: changed: not a picture"),
        (3, "image", {"bytes": b"RIFF", "path": ""}, r"\[3\]: not a picture in a format"),
        (0, "version", "lost", "unknown version of scene 0 'source'"),
    ],
)
def test_a_broken_scene_file_is_one_line(tmp_path, row, column, value, problem):
    rows = pq.read_table(write_scenes(tmp_path, 1)).to_pylist()
    rows[row][column] = value
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scenes-test.parquet")
    with pytest.raises(InputError, match=problem) as caught:
        emofaces.scenes(tmp_path).truth(0, 1)
    assert "\n" not in str(caught.value)


def test_scene_that_does_not_exist(folder):
    s = emofaces.scenes(folder)
    with pytest.raises(InputError, match="unknown scene '9'"):
        s.get(9)
    with pytest.raises(InputError, match="unknown version of scene 0 'person2'"):
        s.truth(0, 2)


def test_scenes_as_a_manifest_hold_the_source_pictures(folder):
    m = emofaces.scenes(folder).manifest
    assert m.frame["id"].tolist() == ["scene-0", "scene-1"] and m.frame["emotion"].isna().all()
    assert m.image(1).getpixel((0, 0)) == (1, 0, 9)
    assert [p["emotion"] for p in m.frame["people"][0]] == ["neutral", "neutral"]


def test_descriptions_say_who_but_not_what_they_feel():
    person = {"age": "old", "skin": "light", "gender": "man", "hair_style": "short", "hair_color": "grey"}
    person |= {"beard": True, "glasses": False, "clothes_color": "blue", "emotion": "anger"}
    person |= {"background": "plain", "background_color": "green"}
    said = "old light-skinned man with short grey hair, a beard and blue clothes"
    assert emofaces.description(person, background=False) == said
    assert emofaces.description(person) == f"{said}, in front of a plain green background"
    bun = {**person, "hair_style": "bun", "beard": False, "glasses": True, "hair_color": "auburn"}
    assert "man with an auburn hair bun, glasses and blue" in emofaces.description(bun)
    assert emofaces.in_short("woman", "red") == "woman with red hair"
    assert emofaces.in_short("man", "none") == "man"
    bald = {**person, "hair_style": "bald", "hair_color": "none", "beard": False}
    assert "man with a bald head and blue clothes" in emofaces.description(bald)
