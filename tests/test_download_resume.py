"""Lists, names, limits, and going on after a kill: nothing lost, nothing half-written, the record true."""

import errno
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from emolib.data import _journal, _net, download
from emolib.data.download import Settings, read_list, status
from emolib.runtime import InputError
from tests.bad_server import BadServer, picture
from tests.downloads import LIMITS, SITE, fetch, wanted


@pytest.fixture
def server():
    server = BadServer()
    yield server
    server.stop()


def test_lists_of_addresses(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(
        "path,url,emotion\nx/a.jpg,http://h/1,joy\nx/a.jpg,http://h/2,joy\n,http://h/dir/b.png?w=1,fear\n"
    )
    found = read_list(listed).set_index("id")
    assert found["urls"].to_dict() == {
        "x/a.jpg": ("http://h/1", "http://h/2"),
        "http://h/dir/b.png?w=1": ("http://h/dir/b.png?w=1",),
    }
    assert found["path"].tolist() == ["x/a.jpg", "b.png"] and found["emotion"].tolist() == ["joy", "fear"]
    listed.write_text("address\nhttp://h\n")
    with pytest.raises(InputError, match="needs a column 'url'"):
        read_list(listed)
    with pytest.raises(InputError, match="none.csv: not readable"):
        read_list(tmp_path / "none.csv")


def test_duplicate_names_become_different_files(server, tmp_path):
    pictures = pd.DataFrame(
        [
            {"id": str(i), "path": path, "urls": (f"{SITE}/ok/{i}",)}
            for i, path in enumerate(
                ["p.jpg", "p.jpg", "P.JPG", "a/p.jpg", "../a/p.jpg", "/a//p.jpg", "q.jpg"]
            )
        ]
    )
    found = fetch(server, tmp_path, pictures)
    assert (found["status"] == "ok").all() and found["path"].str.lower().is_unique
    bodies = {(tmp_path / path).read_bytes() for path in found["path"]}
    assert bodies == {picture(str(i)) for i in range(7)}
    again = fetch(server, tmp_path, pictures.iloc[::-1], seed=5)  # another order finds the same files
    assert again["path"].to_dict() == found["path"].to_dict() and server.hits.total() == 7


def test_a_changed_list_does_not_take_over_another_pictures_file(server, tmp_path):
    first = pd.DataFrame([{"id": "1", "path": "p.jpg", "urls": (f"{SITE}/ok/1",)}])
    second = pd.DataFrame([{"id": "2", "path": "p.jpg", "urls": (f"{SITE}/ok/2",)}])
    fetch(server, tmp_path, first)
    found = fetch(server, tmp_path, second)
    assert (tmp_path / found.loc["2", "path"]).read_bytes() == picture("2")
    assert (tmp_path / "p.jpg").read_bytes() == picture("1")


def test_a_picture_listed_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="'x.jpg' is listed twice"):
        download.download(pd.concat([wanted(x="/ok/x")] * 2), tmp_path)


def test_pictures_without_an_address_are_counted(server, tmp_path):
    found = fetch(server, tmp_path, wanted(x=[], y="/ok/y"))
    assert found["status"].to_dict() == {"x.jpg": "no url", "y.jpg": "ok"}


def test_limit_takes_turns_between_emotions_and_can_grow(server, tmp_path):
    pictures = wanted(**{f"p{i}": f"/ok/{i}" for i in range(20)})
    pictures["emotion"] = ["joy"] * 16 + ["fear"] * 3 + ["rage"]
    emotions = pictures.set_index("path")["emotion"]
    few = fetch(server, tmp_path, pictures, limit=5, seed=1)
    assert emotions[few.index].value_counts().to_dict() == {"joy": 2, "fear": 2, "rage": 1}
    more = fetch(server, tmp_path, pictures, limit=9, seed=1)
    assert emotions[more.index].value_counts().to_dict() == {"joy": 5, "fear": 3, "rage": 1}
    assert set(few.index) < set(more.index) and server.hits.total() == 9
    with pytest.raises(InputError, match="negative"):
        fetch(server, tmp_path, pictures, limit=-1)


def test_failures_are_tried_again_only_on_request(server, tmp_path):
    pictures = wanted(x="/missing/x")
    for _ in range(2):
        assert fetch(server, tmp_path, pictures).loc["x.jpg", "status"] == "failed"
    assert server.hits["/missing/x"] == 1
    pictures["urls"] = [(f"{SITE}/ok/x",)]
    assert fetch(server, tmp_path, pictures, retry_failed=True).loc["x.jpg", "status"] == "ok"


def test_damaged_and_deleted_pictures_are_fetched_again(server, tmp_path):
    pictures = wanted(a="/ok/a", b="/ok/b", c="/ok/c")
    fetch(server, tmp_path, pictures)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(b"short")
    changed = bytearray(picture("c"))
    changed[-10] ^= 1
    (tmp_path / "c.jpg").write_bytes(changed)
    fetch(server, tmp_path, pictures, verify=True)
    assert server.hits == {"/ok/a": 2, "/ok/b": 2, "/ok/c": 2}
    fetch(server, tmp_path, pictures, verify=True)
    assert server.hits.total() == 6


def test_a_torn_record_and_an_unrecorded_picture_lose_nothing(server, tmp_path):
    """What a kill can leave: a line cut off, a picture stored but not noted, a temporary file."""
    pictures = wanted(a="/ok/a", b="/ok/b", c="/ok/c")
    fetch(server, tmp_path, pictures)
    lines = (tmp_path / _journal.NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / _journal.NAME).write_bytes(lines[0] + lines[1][:20])
    (tmp_path / ".part" / "0123.tmp").write_bytes(picture("d")[:99])
    found = fetch(server, tmp_path, pictures)
    assert (found["status"] == "ok").all() and server.hits.total() == 3


KILLED = """
import sys
from emolib.data.download import Settings, download, read_list
settings = Settings(workers=3, interval=0, wayback=None, allow_private=True)
download(read_list(sys.argv[1]), sys.argv[2], settings=settings, show_progress=False)
"""


def test_kill_in_the_middle_and_resume(server, tmp_path):
    folder, listed = tmp_path / "pictures", tmp_path / "list.csv"
    names = [*(f"ok/{i}" for i in range(6)), "gate/a", "gate/b", "gate/c"]
    pd.DataFrame({"url": [f"http://127.0.0.1:{server.port}/{name}.jpg" for name in names]}).to_csv(listed)
    command = [sys.executable, "-c", KILLED, str(listed), str(folder)]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.at_gate.wait(60)  # half of a picture has been sent
    child.send_signal(signal.SIGKILL)
    child.wait()
    for path in folder.glob("*.jpg"):
        assert path.read_bytes() == picture(path.name)
    records = [json.loads(line) for line in (folder / _journal.NAME).read_text().splitlines()]
    assert all((folder / record["path"]).read_bytes() for record in records)
    done = [record["url"].rpartition(f":{server.port}")[2] for record in records]
    server.gate.set()
    settings = Settings(LIMITS, interval=0, wayback=None, allow_private=True)
    found = fetch(server, folder, read_list(listed), settings, _net.Network())
    assert (found["status"] == "ok").all() and len(found) == 9
    assert {path.name for path in folder.glob("*.jpg")} == {f"{n.partition('/')[2]}.jpg" for n in names}
    assert all(server.hits[path] == 1 for path in done)


def test_a_full_disk_ends_the_run_and_leaves_no_half_picture(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_journal.os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written to .No space left"):
            fetch(server, tmp_path, wanted(x="/ok/x"))
    assert status(tmp_path).empty
    assert not list(tmp_path.rglob("*.jpg"))
    assert fetch(server, tmp_path, wanted(x="/ok/x")).loc["x.jpg", "status"] == "ok"
