"""`emolib data ...`: what the commands print, write, and refuse."""

import argparse

import pandas as pd
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
    not findingemo.installed(), reason=f"the optional package {findingemo.PACKAGE} is not installed"
)
def test_findingemo_counts_and_manifest(tmp_path, capsys):
    assert emolib("data", "findingemo", "-o", tmp_path / "f.parquet") == 0
    assert "25869 pictures\n" in capsys.readouterr().out
    assert len(manifest.load_manifest(tmp_path / "f.parquet")) == 25869
