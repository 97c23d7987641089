"""`emolib data ...`: what the commands print, write, and refuse."""

import argparse
import json
import shutil
from importlib.util import find_spec

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emolib.cli.data import add_parser
from emolib.data import findingemo, manifest
from emolib.runtime import InputError
from tests.bad_server import BadServer, picture
from tests.data_standins import encode


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
    command = [
        "data",
        "download",
        "--urls",
        listed,
        "--to",
        tmp_path / "out",
        "--no-wayback",
        "--interval",
        0,
    ]
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
