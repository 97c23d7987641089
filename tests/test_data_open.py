"""One opener for every spelling of DATA, and `emolib data ...`: what it prints, writes, refuses."""

import argparse
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emolib.cli import judge
from emolib.cli.data import add_parser
from emolib.data import emofaces, emoset, findingemo, manifest
from emolib.data.folder import read_folder
from emolib.data.manifest import build_manifest
from emolib.data.open import labelled, open_dataset, relabel_to_set
from emolib.emotions.sets import EKMAN7, MIKELS
from emolib.evaluation import tasks
from emolib.runtime import InputError
from emolib.training import pictures
from tests.bad_server import BadServer, picture
from tests.data_standins import encode, write_portraits, write_scenes


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
        felt = [task.changes[0].people[0].source_emotion for task in tasks.load_tasks(str(data)).tasks]
        assert felt == ["awe", "awe", "neutral", "neutral"]


def emolib(*words):
    """Run a command as emolib's own parser would."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    return args.run(args)


def test_standin_import_show(tmp_path, capsys):
    assert emolib("data", "standin", tmp_path / "set", "-n", 24) == 0
    (tmp_path / "set/image/awe/awe_00000.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match="awe_00000.jpg"):
        emolib("data", "import", tmp_path / "set", "-o", tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()
    assert emolib("data", "import", tmp_path / "set", "-o", tmp_path / "m.parquet", "--skip-bad") == 0
    said = capsys.readouterr()
    assert "23 pictures, 1 skipped" in said.out and "skipped " in said.err and "awe_00000.jpg" in said.err
    assert emolib("data", "show", tmp_path / "m.parquet") == 0
    said = capsys.readouterr().out
    assert "23 pictures from emoset" in said
    assert [line.split()[0] for line in said.splitlines()[-8:]] == list(
        manifest.load_manifest(tmp_path / "m.parquet").labels
    )


def test_import_folder_with_a_label_set(tmp_path, capsys):
    (tmp_path / "pictures" / "joy").mkdir(parents=True)
    (tmp_path / "pictures/joy/a.png").write_bytes(encode((1, 2, 3), kind="PNG"))
    emolib("data", "import", tmp_path / "pictures", "-o", tmp_path / "m.parquet", "--labels", "plutchik24")
    assert len(manifest.load_manifest(tmp_path / "m.parquet").labels) == 24
    emolib("data", "import", tmp_path / "pictures", "-o", tmp_path / "n.parquet", "--labels", "sorrow, joy")
    assert manifest.load_manifest(tmp_path / "n.parquet").labels == ("sorrow", "joy")


def test_an_import_over_its_own_input_loses_nothing(tmp_path):
    table, link = tmp_path / "faces.parquet", tmp_path / "link.parquet"
    picture = {"bytes": encode((1, 2, 3)), "path": None}
    pq.write_table(pa.Table.from_pylist([{"image": picture, "emotion": "awe"}]), table)
    link.symlink_to(table)
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(table, folder / "metadata.parquet")
    before = table.read_bytes()
    for source, output in (
        (table, table), (table, tmp_path / "folder/../faces.parquet"), (table, link), (link, table),
        (folder, folder / "metadata.parquet"),
    ):  # fmt: skip
        with pytest.raises(InputError, match="is an input of this command"):
            emolib("data", "import", source, "-o", output)
    assert table.read_bytes() == before == (folder / "metadata.parquet").read_bytes()
    emolib("data", "import", table, "-o", tmp_path / "m.parquet")
    with pytest.raises(InputError, match="is an input of this command"):  # where the manifest's pictures are
        emolib("data", "import", tmp_path / "m.parquet", "-o", table)
    with pytest.raises(InputError, match="is written as .parquet"):
        emolib("data", "import", folder, "-o", folder / "metadata.csv")


def test_import_counts_everything_that_looks_like_data(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").write_bytes(encode((1, 2, 3), kind="PNG"))
    (tmp_path / "d.png").write_bytes(b"broken")
    lines = [{"file_name": "a.png", "label": "contentment "}, {"file_name": "b.png"}, {"file_name": "d.png"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    emolib("data", "import", tmp_path, "-o", tmp_path / "m.parquet", "--skip-bad")
    said = capsys.readouterr()
    assert "2 pictures (1 without a label), 2 skipped" in said.out
    assert "does not name 'c.png'" in said.err and "d.png" in said.err
    emolib("data", "show", tmp_path / "m.parquet")
    assert "contentment" in capsys.readouterr().out


def test_download_of_a_list(tmp_path, capsys):
    server = BadServer()
    listed = tmp_path / "list.csv"
    addresses = [f"http://127.0.0.1:{server.port}/{path}" for path in ("ok/a.jpg", "missing/b.jpg")]
    pd.DataFrame({"url": addresses}).to_csv(listed, index=False)
    command = ["data", "download", "--urls", listed, "--to", tmp_path / "out", "--no-wayback"]
    command += ["--interval", 0]
    assert emolib(*command) == 0
    assert "2 failed" in capsys.readouterr().out and not server.hits  # loopback, and nobody allowed it
    assert emolib(*command, "--allow-private", "--retry-failed") == 0
    assert "1 ok, 1 failed" in capsys.readouterr().out
    assert (tmp_path / "out/a.jpg").read_bytes() == picture("a.jpg")
    server.stop()
    for option, value in (("--workers", 0), ("--interval", "nan"), ("--timeout", "inf"), ("--limit", -1)):
        with pytest.raises(InputError, match=f"{option} must lie in"):
            emolib(*command, option, value)


@pytest.mark.skipif(
    find_spec("findingemo_light") is None,
    reason=f"the optional package {findingemo.PACKAGE} is not installed",
)
def test_findingemo_counts_and_manifest(tmp_path, capsys):
    assert emolib("data", "findingemo", "-o", tmp_path / "f.parquet") == 0
    assert "25869 pictures\n" in capsys.readouterr().out
    assert len(manifest.load_manifest(tmp_path / "f.parquet")) == 25869
