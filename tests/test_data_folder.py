"""Any folder: ImageFolder layouts, metadata tables, pictures inside parquet, EXIF, and faults."""

import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emolib.data import folder
from emolib.emotions.sets import MIKELS, PLUTCHIK8
from emolib.runtime import InputError
from tests.data_standins import encode


def put(root, *names):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode((i, 0, 0), (8, 6), "PNG"))
    return root


def test_folders_are_labels(tmp_path):
    put(tmp_path, "Awe/a.png", "fear/deep/b.JPG", "c.png", ".git/d.png", "awe/.e.png")
    (tmp_path / "awe/notes.txt").write_text("not a picture")
    m = folder.read_folder(tmp_path)
    assert m.frame["path"].tolist() == ["c.png", "Awe/a.png", "fear/deep/b.JPG"]
    assert m.frame["emotion"].tolist()[1:] == ["awe", "fear"] and m.frame["emotion"].isna()[0]
    assert m.labels == MIKELS and m.frame["split"].isna().all()


def test_split_folders(tmp_path):
    put(tmp_path, "train/joy/a.png", "validation/trust/b.png", "test/joy/c.png")
    m = folder.read_folder(tmp_path)
    assert list(zip(m.frame["split"], m.frame["emotion"], strict=True)) == [
        ("test", "joy"), ("train", "joy"), ("val", "trust"),
    ]  # fmt: skip
    assert m.labels == PLUTCHIK8 and m.image(2).getpixel((0, 0)) == (1, 0, 0)


def test_label_order_given_or_alphabetical(tmp_path):
    put(tmp_path, "zebra/a.png", "ant/b.png")
    assert folder.read_folder(tmp_path).labels == ("ant", "zebra")
    given = folder.read_folder(tmp_path, labels=("zebra", "ant", "bee"))
    assert given.distributions.argmax(1).tolist() == [1, 0]
    with pytest.raises(InputError, match="ant/b.png: unknown label 'ant'"):
        folder.read_folder(tmp_path, labels=("zebra",))
    m = folder.read_folder(tmp_path, labels=("zebra",), on_error="skip")
    assert len(m) == 1 and m.problems.counts == {"label": 1}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_metadata_tables(tmp_path, suffix):
    put(tmp_path, "a.png", "sub/b.png", "unlisted.png")
    columns = {"file_name": ["a.png", "sub/b.png"], "label": ["Awe", None], "valence": [0.5, None]}
    table = pd.DataFrame(columns | {"who": ["x", "y"]})
    path = tmp_path / f"metadata.{suffix}"
    write = {"csv": table.to_csv, "parquet": table.to_parquet, "jsonl": table.to_json}[suffix]
    write(path, **({"orient": "records", "lines": True} if suffix == "jsonl" else {"index": False}))
    assert folder.read_folder(tmp_path).problems.counts == {"unlisted": 1}  # told of, but no fault
    for source in (tmp_path, path):
        m = folder.read_folder(source)
        assert m.frame["path"].tolist() == ["a.png", "sub/b.png"] and m.frame["who"].tolist() == ["x", "y"]
        assert m.frame["emotion"].iloc[0] == "awe" and m.frame["emotion"].isna()[1]
        assert m.frame["valence"].tolist()[0] == 0.5 and m.image(1).size == (8, 6)


def test_tables_of_split_folders_and_headings_in_capitals(tmp_path):
    put(tmp_path, "train/1.png", "test/1.png", "test/sub/2.png")
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "1.png", "Label": " Awe "}\n')
    (tmp_path / "test/metadata.csv").write_text("File_name ,EMOTION\n1.png,fear\nsub/2.png,awe\n")
    m = folder.read_folder(tmp_path)
    rows = m.frame[["path", "split", "emotion"]].to_numpy().tolist()
    assert rows == [
        ["test/1.png", "test", "fear"], ["test/sub/2.png", "test", "awe"], ["train/1.png", "train", "awe"]
    ]  # fmt: skip
    (tmp_path / "train/metadata.jsonl").write_text("{")
    with pytest.raises(InputError, match="metadata.jsonl: not a readable table"):
        folder.read_folder(tmp_path)


def test_what_looks_like_a_picture_is_read_or_told_of(tmp_path):
    put(tmp_path, "awe/a.png", "awe/phone.HEIC", "elsewhere/b.png", "notes/readme.txt")
    (tmp_path / "awe" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "awe" / "zirkel").symlink_to(tmp_path / "awe")
    with pytest.raises(InputError, match="phone.HEIC: .heic is not read here"):
        folder.read_folder(tmp_path / "awe")
    m = folder.read_folder(tmp_path / "awe", on_error="skip")
    assert m.frame["path"].tolist() == ["a.png", "linked/b.png"] and m.problems.counts == {"format": 1}
    name = b"M\xfcller.png"  # Latin-1
    try:
        (tmp_path / "elsewhere" / os.fsdecode(name)).write_bytes(encode((1, 2, 3), (8, 6), "PNG"))
    except OSError:
        return  # this file system takes none but UTF-8 names
    with pytest.raises(InputError, match="not UTF-8; rename it"):
        folder.read_folder(tmp_path / "elsewhere")
    m = folder.read_folder(tmp_path / "elsewhere", on_error="skip")
    assert m.frame["path"].tolist() == ["b.png"] and m.problems.counts == {"name": 1}
    m.save(tmp_path / "m.parquet")


def test_distributions_need_their_labels_named(tmp_path):
    put(tmp_path, "a.png")
    pd.DataFrame({"path": ["a.png"], "distribution": [[0.25, 0.75]]}).to_parquet(
        tmp_path / "metadata.parquet"
    )
    with pytest.raises(InputError, match="give labels="):
        folder.read_folder(tmp_path)
    assert folder.read_folder(tmp_path, labels=("x", "y")).frame["emotion"].tolist() == ["y"]
    (tmp_path / "metadata.parquet").unlink()
    (tmp_path / "metadata.csv").write_text('path,distribution\na.png,"[0.75, 0.25]"\n')
    assert folder.read_folder(tmp_path, labels=("x", "y")).frame["emotion"].tolist() == ["x"]
    (tmp_path / "metadata.csv").write_text("path,distribution\na.png,0.75 0.25\n")
    with pytest.raises(InputError, match="not a list of numbers"):
        folder.read_folder(tmp_path, labels=("x", "y"))


def test_pictures_inside_a_parquet_file(tmp_path):
    rows = [
        {"image": {"bytes": encode((7, i, 0)), "path": None}, "emotion": e}
        for i, e in enumerate(["awe", "fear"])
    ]
    path = tmp_path / "some.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    m = folder.read_folder(path)
    assert m.frame["emotion"].tolist() == ["awe", "fear"] and m.image(1).getpixel((0, 0)) == (7, 1, 0)
    assert "image" not in m.frame


def test_class_numbers_of_a_hub_data_set_get_their_names(tmp_path):
    rows = [{"image": {"bytes": encode((1, 2, 3)), "path": None}, "label": label} for label in (1, 0, -1)]
    features = {"label": {"names": ["sadness", "awe"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}  # as `datasets` writes it
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(about), tmp_path / "hub.parquet")
    assert folder.read_folder(tmp_path / "hub.parquet").frame["emotion"].tolist() == ["awe", "sadness", None]


def test_exif_orientation_is_respected(tmp_path):
    picture = Image.new("RGB", (8, 4), "black")
    picture.paste("white", (0, 0, 4, 4))  # white on the left of the sensor
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = folder.read_folder(tmp_path).image(0)
    assert upright.size == (4, 8)
    assert upright.getpixel((2, 1)) == (255, 255, 255) and upright.getpixel((2, 6)) == (0, 0, 0)


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "/etc/hostname", None])
def test_a_bad_name_in_a_table_is_refused_or_skipped(tmp_path, name):
    put(tmp_path, "a.png")
    pd.DataFrame({"path": ["a.png", name]}).to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(InputError, match=r"metadata.csv: row 2: "):
        folder.read_folder(tmp_path)
    m = folder.read_folder(tmp_path, on_error="skip")
    assert m.frame["path"].tolist() == ["a.png"] and m.problems.counts == {"picture": 1}


def test_wrong_places_are_one_line(tmp_path):
    put(tmp_path, ".hidden/x.png")
    for path, says in [
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, r"holds no picture \(.bmp, .*.png"),
        (tmp_path / ".hidden/x.png", "x.png: is neither a folder of pictures nor a metadata table"),
    ]:
        with pytest.raises(InputError, match=says):
            folder.read_folder(path)
    (tmp_path / "metadata.csv").write_text("name\nx\n")
    with pytest.raises(InputError, match="needs a column path or file_name"):
        folder.read_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(InputError, match="not a readable table"):
        folder.read_folder(tmp_path)
    (tmp_path / "metadata.parquet").write_text("x")
    with pytest.raises(InputError, match="not a readable parquet"):
        folder.read_folder(tmp_path)
