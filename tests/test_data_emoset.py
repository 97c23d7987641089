"""EmoSet-118K: its exact layout, from folder and zip, on the stand-in the package makes."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emolib.data import emoset, manifest
from emolib.emotions.sets import MIKELS
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    return emoset.write_standin(tmp_path_factory.mktemp("emoset") / "EmoSet-118K", 96, seed=1)


@pytest.fixture
def copy(standin, tmp_path):
    """A stand-in that may be damaged."""
    return shutil.copytree(standin, tmp_path / "EmoSet")


def zipped(folder, target, inside=True):
    base = {"root_dir": folder.parent, "base_dir": folder.name} if inside else {"root_dir": folder}
    return shutil.make_archive(str(target), "zip", **base)


def test_layout_is_the_published_one(standin):
    assert sorted(p.name for p in standin.iterdir()) == [
        "annotation", "image", "info.json", "test.json", "train.json", "val.json",
    ]  # fmt: skip
    info = json.loads((standin / "info.json").read_text())
    assert {name: len(maps["label2idx"]) for name, maps in info.items()} == {
        "emotion": 8, "brightness": 11, "colorfulness": 11, "scene": 254, "object": 409,
        "facial_expression": 6, "human_action": 264,
    }  # fmt: skip
    assert info["emotion"]["label2idx"] == {name: i for i, name in enumerate(MIKELS)}
    for maps in info.values():
        assert {i: str(maps["idx2label"][str(i)]) for i in maps["label2idx"].values()} == {
            i: name for name, i in maps["label2idx"].items()
        }
    row = json.loads((standin / "train.json").read_text())[0]
    assert row == ["amusement", "amusement_00000", "image/amusement/amusement_00000.jpg",
                   "annotation/amusement/amusement_00000.json"]  # fmt: skip


def test_annotations_name_labels_of_info_only(standin):
    info = json.loads((standin / "info.json").read_text())
    seen = set()
    for path in standin.glob("annotation/*/*.json"):
        values = json.loads(path.read_text())
        for attribute in emoset.ATTRIBUTES:
            if attribute in values:
                many = values[attribute] if attribute == "object" else [values[attribute]]
                assert all(str(label) in info[attribute]["label2idx"] for label in many)
                seen.add((attribute, True))
            else:
                seen.add((attribute, False))
    assert {(name, True) for name in emoset.ATTRIBUTES} <= seen and ("scene", False) in seen


@pytest.mark.parametrize("how", ["folder", "parent", "zip", "zip without a folder"])
def test_every_way_in_reads_the_same(standin, tmp_path, how):
    path = {
        "folder": lambda: standin,
        "parent": lambda: standin.parent,
        "zip": lambda: zipped(standin, tmp_path / "EmoSet-118K"),
        "zip without a folder": lambda: zipped(standin, tmp_path / "flat", inside=False),
    }[how]()
    m = emoset.read_emoset(path).manifest(show_progress=False)
    expected = emoset.read_emoset(standin).manifest(show_progress=False)
    columns = ["id", "split", "emotion", *emoset.ATTRIBUTES]
    assert m.frame[columns].equals(expected.frame[columns])
    assert m.image(3).tobytes() == expected.image(3).tobytes()
    again = manifest.load_manifest(m.save(tmp_path / "m.parquet"))
    assert again.image(5).tobytes() == expected.image(5).tobytes()


def test_manifest_holds_what_the_annotations_say(standin):
    m = emoset.read_emoset(standin).manifest("test", show_progress=False)
    assert m.labels == MIKELS and set(m.frame["split"]) == {"test"}
    for i, row in m.frame.iterrows():
        values = json.loads((standin / f"annotation/{row['emotion']}/{row['id']}.json").read_text())
        assert row["id"].startswith(row["emotion"]) and row["object"] == values.get("object", [])
        for name in ("scene", "facial_expression", "human_action"):
            assert values.get(name) == (row[name] if isinstance(row[name], str) else None)
        pixels = np.asarray(m.image(i)) / 255
        assert row["brightness"] == pytest.approx(pixels.mean(), abs=0.06)
        assert 0 <= row["colorfulness"] <= 1


def test_stats_and_splits(standin):
    data = emoset.read_emoset(standin)
    table = data.stats()
    assert table.index.tolist() == list(MIKELS) and table.columns.tolist() == ["train", "val", "test"]
    assert table.to_numpy().sum() == 96 and (table.sum(axis=1) == 12).all()
    assert {split: len(data.entries(split)) for split in data.splits} == table.sum().to_dict()
    with pytest.raises(InputError, match="unknown EmoSet split"):
        data.entries("dev")


def test_same_seed_same_bytes(standin, tmp_path):
    again = emoset.write_standin(tmp_path / "again", 96, seed=1)
    other = emoset.write_standin(tmp_path / "other", 96, seed=2)
    name = "image/fear/fear_00003.jpg"
    assert (again / name).read_bytes() == (standin / name).read_bytes() != (other / name).read_bytes()
    with pytest.raises(InputError, match="not an empty folder"):
        emoset.write_standin(again)
    with pytest.raises(InputError, match="pictures must lie in"):
        emoset.write_standin(tmp_path / "none", -5)


def edit(path, change):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


FAULTS = {
    "picture missing": (lambda c: (c / "image/awe/awe_00000.jpg").unlink(), "picture", "awe_00000.jpg"),
    "annotation missing": (
        lambda c: (c / "annotation/awe/awe_00000.json").unlink(), "annotation", "awe_00000.json"),
    "annotation broken": (
        lambda c: (c / "annotation/awe/awe_00000.json").write_text("{"), "annotation", "awe_00000.json"),
    "annotation a list": (
        lambda c: (c / "annotation/awe/awe_00000.json").write_text("[]"), "annotation", "not a JSON object"),
    "unknown scene": (
        lambda c: edit(c / "annotation/awe/awe_00000.json", lambda v: {**v, "scene": "the moon"}),
        "annotation", "scene 'the moon'"),
    "unknown emotion": (
        lambda c: edit(c / "train.json", lambda v: [["ave", *v[0][1:]], *v[1:]]),
        "label", "did you mean 'awe'"),
    "short row": (lambda c: edit(c / "train.json", lambda v: [v[0][:2], *v[1:]]), "entry", "train.json"),
    "path outside": (
        lambda c: edit(c / "train.json", lambda v: [[*v[0][:2], "../../etc/passwd", v[0][3]], *v[1:]]),
        "path", "leaves the data set"),
    "twice": (lambda c: edit(c / "train.json", lambda v: [v[0], *v]), "id", "occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_or_skipped_and_counted(copy, fault):
    break_it, kind, says = FAULTS[fault]
    before = len(emoset.read_emoset(copy).entries("train"))
    break_it(copy)
    with pytest.raises(InputError, match=r"^[^\n]*$") as refused:
        emoset.read_emoset(copy).manifest("train", show_progress=False)
    assert (
        says in str(refused.value)
        and str(copy) in str(refused.value)
        or fault in ("unknown emotion", "twice")
    )
    m = emoset.read_emoset(copy, on_error="skip").manifest("train", show_progress=False)
    assert m.problems.counts == {kind: 1}
    assert len(m) == before - (fault != "twice")


def patch(path, name, offset, value):
    """Set two bytes of an entry's headers, at `offset` behind the version in either."""
    data = bytearray(path.read_bytes())
    entry = zipfile.ZipFile(path).getinfo(name)
    data[entry.header_offset + 4 + offset : entry.header_offset + 6 + offset] = value.to_bytes(2, "little")
    central = data.rindex(name.encode()) - 46
    data[central + 6 + offset : central + 8 + offset] = value.to_bytes(2, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path, name: patch(path, name, 4, 9), "compression method is not supported"),  # Deflate64
        (lambda path, name: patch(path, name, 2, 1), "encrypted"),
        (
            lambda path, name: patch(path, name, 4, 12),
            "not a readable plain zip entry",
        ),  # another method than it was packed with
    ],
)
def test_a_zip_entry_that_cannot_be_unpacked_is_refused_or_skipped(copy, tmp_path, damage, says):
    path = Path(zipped(copy, tmp_path / "EmoSet-118K"))
    damage(path, "EmoSet/image/awe/awe_00000.jpg")
    with pytest.raises(InputError, match=says):
        emoset.read_emoset(path).manifest(show_progress=False).check("refuse")
    good = emoset.read_emoset(path).manifest(show_progress=False).check()
    assert len(good) == 95 and good.problems.counts == {"picture": 1}
    damage(path, "EmoSet/info.json")
    with pytest.raises(InputError, match=says):
        emoset.read_emoset(path)


def test_missing_files_are_named(copy, tmp_path):
    (copy / "val.json").unlink()
    with pytest.raises(InputError, match=r"val.json: this file is missing"):
        emoset.read_emoset(copy)
    data = emoset.read_emoset(copy, on_error="skip")
    assert data.splits == ("train", "test") and data.problems.counts == {"split": 1}
    (copy / "info.json").unlink()
    with pytest.raises(InputError, match="holds no info.json"):
        emoset.read_emoset(copy)
    with pytest.raises(InputError, match="holds no info.json"):
        emoset.read_emoset(zipped(copy, tmp_path / "z"))
    with pytest.raises(InputError, match="nowhere: this file is missing"):
        emoset.read_emoset(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(InputError, match="not a readable zip"):
        emoset.read_emoset(tmp_path / "text.zip")


def test_another_label_order_is_refused(copy):
    def swap(info):
        index = info["emotion"]["label2idx"]
        index["awe"], index["anger"] = index["anger"], index["awe"]
        return info

    edit(copy / "info.json", swap)
    with pytest.raises(InputError, match="emotions in the order amusement, anger"):
        emoset.read_emoset(copy)
