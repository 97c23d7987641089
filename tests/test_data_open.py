"""One opener for all commands: every spelling of DATA, and what each command makes of it."""

import shutil

import numpy as np
import pytest
from PIL import Image

from emolib.cli import judge
from emolib.data import emofaces, emoset
from emolib.data.folder import read_folder
from emolib.data.manifest import build_manifest
from emolib.data.open import labelled, open_dataset, relabel_to_set
from emolib.emotions.sets import EKMAN7, MIKELS
from emolib.evaluation import tasks
from emolib.runtime import InputError
from emolib.training import pictures
from tests.data_standins import write_portraits, write_scenes


@pytest.fixture
def clone(tmp_path, monkeypatch):
    folder = tmp_path / "clone" / "data" / "emofaces"
    folder.mkdir(parents=True)
    for split in ("test", "val"):
        write_portraits(folder, split, range(3) if split == "test" else range(5, 6))
    write_scenes(folder)
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path / "clone"))


@pytest.fixture
def faces(tmp_path):
    """awe and neutral of two people, who lie in folders of their own."""
    for k, emotion in enumerate(("awe", "neutral")):
        for i, name in enumerate(("ann/1.png", "bob/1.png")):
            path = tmp_path / "faces" / emotion / name
            path.parent.mkdir(parents=True)
            picture = np.zeros((40, 40, 3), np.uint8)
            picture[..., 0], picture[:20, :, 1] = 60 * i + 10, 200 * k + 20
            Image.fromarray(picture).save(path)
    return tmp_path / "faces"


def test_emofaces_means_its_test_people(clone):
    assert open_dataset("emofaces").frame.equals(emofaces.portraits("test").manifest.frame)
    assert set(open_dataset("emofaces:val").frame["split"]) == {"val"}
    assert open_dataset("emofaces:scenes").frame["id"].tolist() == ["scene-0", "scene-1"]
    assert tasks.load_tasks("emofaces").name == "emofaces:test"
    with pytest.raises(InputError, match="did you mean 'test'"):
        open_dataset("emofaces:tset")


def test_folders_tables_manifests_and_emoset(faces, tmp_path):
    saved = read_folder(faces).save(tmp_path / "m.parquet")
    assert open_dataset(saved).frame["emotion"].tolist() == open_dataset(faces).frame["emotion"].tolist()
    (faces / "awe" / "metadata.csv").write_text("file_name,label\nann/1.png,fear\n")
    assert open_dataset(faces / "awe" / "metadata.csv").frame["emotion"].tolist() == ["fear"]
    folder = emoset.write_standin(tmp_path / "parent" / "EmoSet-118K", 8)
    packed = shutil.make_archive(str(tmp_path / "EmoSet"), "zip", folder.parent)
    for path in (folder, folder.parent, packed):
        assert (open_dataset(path).source, len(open_dataset(path))) == ("emoset", 8)
    with pytest.raises(InputError, match="no such folder"):
        open_dataset("nowhere")


def test_labels_are_for_what_has_none_of_its_own(faces, tmp_path):
    assert open_dataset(faces, labels=("neutral", "awe")).labels == ("neutral", "awe")
    saved = read_folder(faces).save(tmp_path / "m.parquet")
    with pytest.raises(InputError, match="has labels of its own"):
        open_dataset(saved, labels=("neutral", "awe"))


def test_relabelling_and_unlabelled_pictures(tmp_path):
    manifest = build_manifest([{"path": "a", "emotion": "fear"}, {"path": "b"}], MIKELS, tmp_path)
    assert relabel_to_set(manifest, "ekman7", "x").labels == EKMAN7
    assert relabel_to_set(manifest, "mikels", "x") is manifest
    assert labelled(manifest, "x").frame["path"].tolist() == ["a"]
    with pytest.raises(InputError, match="x: no picture has an emotion"):
        labelled(manifest.take([1]), "x")
    with pytest.raises(InputError, match="x: its labels are no known set"):
        relabel_to_set(build_manifest([], ("p", "q"), tmp_path), "mikels", "x")


def test_a_saved_manifest_is_as_good_as_its_folder(faces, tmp_path):
    saved = read_folder(faces).save(tmp_path / "elsewhere.parquet")
    for data in (faces, saved):
        learned = pictures.read_pictures(data, 32, preferred="awe", pairs=True)
        assert len(learned) == 2 and learned.neutral is not None
        assert (learned.images[:, 0] == learned.neutral[:, 0]).all()  # each with the same person's
        assert len(judge.open_data(str(data), limit=3)) == 3
        asked = tasks.load_tasks(str(data))
        assert [task.changes[0].people[0].source_emotion for task in asked.tasks] == [
            "awe",
            "awe",
            "neutral",
            "neutral",
        ]
