"""The downloader against a server that misbehaves: what arrives, what is refused, what a kill leaves."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest

from emolib.data import download as downloads
from emolib.data.addresses import is_public, read_list
from emolib.data.download import RECORD, Settings
from emolib.images import open_image
from emolib.runtime import InputError, hold_lock
from tests.bad_server import PUBLIC, BadServer, Internet, picture

FAST = Settings(
    workers=4, interval=0, timeout=3, silence=0.3, max_bytes=2**20, retries=2, backoff=0.01, wayback=None
)
SITE = "http://pictures.example"


@pytest.fixture
def server():
    server = BadServer()
    yield server
    server.stop()


def listed(**addresses):
    """A list of pictures: name -> address or addresses (a bare path is on pictures.example)."""
    rows = []
    for name, given in addresses.items():
        given = [given] if isinstance(given, str) else given
        urls = tuple(SITE + url if url.startswith("/") else url for url in given)
        rows.append({"path": f"{name}.jpg", "urls": urls})
    return pd.DataFrame(rows)


def fetch(server, folder, pictures, settings=FAST, internet=None, **options):
    internet = internet or Internet(server)
    seam = {"transport": internet, "resolve": internet.resolve} if internet != "real" else {}
    table = downloads.download(pictures, folder, settings=settings, show_progress=False, **seam, **options)
    check_record(folder)
    return table.set_index("id")


def check_record(folder):
    """The record is true: every "ok" is a whole picture with that checksum, and no other file lies there."""
    lines = {line["id"]: line for line in map(json.loads, (folder / RECORD).read_text().splitlines())}
    good = [line for line in lines.values() if line["status"] == "ok"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".part" not in p.parts}
    assert files - {RECORD} == {line["path"] for line in good}
    assert not list(folder.glob(".part/*.tmp"))
    for line in good:
        body = (folder / line["path"]).read_bytes()
        assert hashlib.sha256(body).hexdigest() == line["sha256"] and len(body) == line["bytes"]
        assert open_image(body).size == (line["width"], line["height"])


def test_pictures_arrive_byte_for_byte(server, tmp_path):
    table = fetch(server, tmp_path / "new" / "folder", listed(a="/ok/a", b="/ok/b?size=large", c=[]))
    assert table["status"].to_dict() == {"a.jpg": "ok", "b.jpg": "ok", "c.jpg": "no url"}
    assert table.loc["a.jpg", "url"] == f"{SITE}/ok/a"
    assert (tmp_path / "new/folder/a.jpg").read_bytes() == picture("a")


@pytest.mark.parametrize(
    ("address", "reason", "hits"),
    [
        ("/missing/x", "HTTP 404", 1),
        ("/broken/x", "HTTP 503", 3),
        ("/html/x.jpg", "not a picture", 1),
        ("/half/x", "truncated", 1),
        ("/truncated/x", "connection broke", 3),
        ("/drip/x", "slower than 0.4 s", 1),
        ("/silent/x", "silent for 0.3 s", 3),
        ("/loop/a", "more than 5 redirects", 3),
        ("/chain/9", "more than 5 redirects", 1),
        ("/nowhere/x", "HTTP 302", 1),
        ("/big/stated", "52428800 bytes, more than 1048576", 1),
        ("/big/unstated", "more than 1048576 bytes", 1),
        ("/bomb/x", "more than 1048576 bytes", 1),
        ("/badzip/x", "unreadable answer", 1),
        ("/pixel/x", "only 1 x 1", 1),
        ("ftp://pictures.example/ok/x", "not http", 0),
        ("file:///etc/passwd", "not http", 0),
        ("http://[::1/ok/x", "malformed", 0),
        ("http://gone.example/ok/x", "no connection (Name or service not known)", 0),
    ],
)
def test_what_goes_wrong_is_named_and_leaves_no_file(server, tmp_path, address, reason, hits):
    settings = replace(FAST, timeout=0.4) if "drip" in address else FAST
    table = fetch(server, tmp_path, listed(x=address), settings, Internet(server, gone_example=[]))
    assert table.loc["x.jpg", "status"] == "failed" and reason in table.loc["x.jpg", "reason"]
    assert server.hits[address] == hits
    server.gate.set()


def test_silence_does_not_outlast_the_whole_request(server, tmp_path):
    table = fetch(server, tmp_path, listed(x="/silent/x"), replace(FAST, silence=30, timeout=0.3, retries=0))
    assert "silent for 0.3 s" in table.loc["x.jpg", "reason"]


def test_a_body_without_end_is_cut_off(server, tmp_path):
    fetch(server, tmp_path, listed(x="/big/unstated"))
    assert server.gave_up.wait(5)  # the server could not get rid of its 50 MB


def test_500_then_200_and_redirects(server, tmp_path):
    pictures = listed(
        f="/flaky/x", c="/chain/4", o="/to/http://other.example/ok/y", u="/moved/größe", z="/zipped/z"
    )
    table = fetch(server, tmp_path, pictures)
    assert (table["status"] == "ok").all() and server.hits["/flaky/x"] == 2
    assert table.loc["o.jpg", "url"] == "http://other.example/ok/y"
    assert (tmp_path / "u.jpg").read_bytes() == picture("gr%C3%B6%C3%9Fe")  # the address came as bare UTF-8
    assert (tmp_path / "z.jpg").read_bytes() == picture("z")  # gzip, which nobody asked for


@pytest.mark.parametrize("kind", ["date", "seconds"])
def test_a_server_that_asks_for_time_gets_it(server, tmp_path, kind):
    before = time.monotonic()
    table = fetch(server, tmp_path, listed(x=f"/later/{kind}"), replace(FAST, longest_wait=0.2))
    assert table.loc["x.jpg", "status"] == "ok" and time.monotonic() - before >= 0.2


def test_next_address_then_the_archive(server, tmp_path):
    settings = replace(FAST, retries=0, wayback="http://archive.example/web/{url}")
    pictures = listed(
        second=["/missing/a", "/html/a", "/ok/a"],
        archive=["/missing/b"],
        none="/missing/c",
        odd=["not a url"],
    )
    table = fetch(server, tmp_path, pictures, settings)
    assert table["status"].to_dict() == {
        "second.jpg": "ok", "archive.jpg": "ok", "none.jpg": "failed", "odd.jpg": "failed"
    }  # fmt: skip
    assert table.loc["second.jpg", "url"].endswith("/ok/a")
    assert table.loc["archive.jpg", "url"] == "http://archive.example/web/http://pictures.example/missing/b"
    assert server.hits["/web/http://pictures.example/missing/c"] == 1
    assert table.loc["none.jpg", "reason"].count("HTTP 404") == 2
    assert not any("/ok/a" in path or "html/a" in path for path in server.hits if path.startswith("/web"))


def test_so_many_at_a_time_per_host_and_so_far_apart(server, tmp_path):
    pictures = listed(**{f"p{i}": f"/slow/{i}" for i in range(12)})
    table = fetch(server, tmp_path / "many", pictures, replace(FAST, workers=8, per_host=2))
    assert (table["status"] == "ok").all() and server.most_busy <= 2
    before = time.monotonic()
    fetch(server, tmp_path / "slow", pictures[:4], replace(FAST, interval=0.05))
    assert time.monotonic() - before >= 0.15


PRIVATE = """
http://127.0.0.1/ok/x http://localhost/ok/x http://127.1/ok/x http://2130706433/ok/x http://0x7f000001/ok/x
http://0.0.0.0/ok/x http://10.1.2.3/ok/x http://169.254.169.254/latest/meta-data http://[::1]/ok/x
http://[::ffff:127.0.0.1]/ok/x http://user:secret@127.0.0.1/ok/x https://inside.example/ok/x
http://mixed.example/ok/x
"""


@pytest.mark.parametrize("redirected", [False, True])
def test_private_addresses_are_never_connected_to(server, tmp_path, redirected):
    internet = Internet(server, inside_example=["192.168.1.1"], mixed_example=[PUBLIC, "127.0.0.1"])
    addresses = PRIVATE.split()
    pictures = {f"p{i}": f"/to/{url}" if redirected else url for i, url in enumerate(addresses)}
    table = fetch(server, tmp_path, listed(x="/ok/x", **pictures), internet=internet)
    assert table.loc["x.jpg", "status"] == "ok"
    private = table.drop("x.jpg")
    assert (private["status"] == "failed").all() and private["reason"].str.contains("private or res").all()
    assert internet.connected == ["pictures.example"] * (1 + redirected * len(addresses))


def test_a_flag_allows_private_addresses(server, tmp_path):
    address = f"http://127.0.0.1:{server.port}/ok/x"
    table = fetch(server, tmp_path, listed(x=address), replace(FAST, allow_private=True), "real")
    assert table.loc["x.jpg", "status"] == "ok"


def test_which_addresses_are_public():
    # 64:ff9b is NAT64, 2002 is 6to4: of the public address, and of loopback.
    for address in (PUBLIC, "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"):
        assert is_public(address)
    wrapped = "64:ff9b::7f00:1 2002:7f00:1:: ::ffff:10.0.0.1 ::7f00:1"
    four = "100.64.0.1 192.0.2.1 198.18.0.1 172.16.0.1 224.0.0.1 255.255.255.255"
    for address in f"{wrapped} {four} fe80::1%eth0 fc00::1 fec0::1 ff02::1 ::".split():
        assert not is_public(address), address


def test_only_one_run_at_a_time(server, tmp_path):
    (tmp_path / ".part").mkdir()
    with hold_lock(tmp_path / ".part" / "lock", "busy"), pytest.raises(InputError, match="another download"):
        fetch(server, tmp_path, listed(x="/ok/x"))
    assert fetch(server, tmp_path, listed(x="/ok/x")).loc["x.jpg", "status"] == "ok"


def test_without_a_network_nothing_is_recorded_as_failed(server, tmp_path):
    internet = Internet(server, **{f"h{i}_example": [] for i in range(12)})
    pictures = listed(**{f"p{i}": f"http://h{i}.example/x" for i in range(12)})
    with pytest.raises(InputError, match="no server can be reached"):
        fetch(server, tmp_path, pictures, internet=internet)
    assert not (tmp_path / RECORD).read_text()
    both = pd.concat([pictures, listed(y="/ok/y")])
    table = fetch(server, tmp_path, both, replace(FAST, workers=13, backoff=0.1), internet)
    assert table["status"].value_counts().to_dict() == {"failed": 12, "ok": 1}


def test_an_unusable_folder_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; give another folder"):
        downloads.download(listed(x="/ok/x"), tmp_path / "file")


def test_lists_of_addresses(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "path,url,emotion\nx/a.jpg,http://h/1,joy\nx/a.jpg,http://h/2,joy\n,http://h/dir/b.png?w=1,fear\n"
    )
    table = read_list(path).set_index("id")
    assert table["urls"].to_dict() == {
        "x/a.jpg": ("http://h/1", "http://h/2"),
        "http://h/dir/b.png?w=1": ("http://h/dir/b.png?w=1",),
    }
    assert table["path"].tolist() == ["x/a.jpg", "b.png"] and table["emotion"].tolist() == ["joy", "fear"]
    path.write_text("address\nhttp://h\n")
    with pytest.raises(InputError, match="lacks the column 'url'"):
        read_list(path)
    with pytest.raises(InputError, match="none.csv: this file is missing"):
        read_list(tmp_path / "none.csv")


def test_duplicate_names_become_different_files(server, tmp_path):
    names = ["p.jpg", "p.jpg", "P.JPG", "a/p.jpg", "../a/p.jpg", "/a//p.jpg", "q.jpg", "no suffix"]
    rows = [{"id": str(i), "path": p, "urls": (f"{SITE}/ok/{i}",)} for i, p in enumerate(names)]
    pictures = pd.DataFrame(rows)
    table = fetch(server, tmp_path, pictures)
    assert (table["status"] == "ok").all() and table["path"].str.lower().is_unique
    assert {(tmp_path / path).read_bytes() for path in table["path"]} == {picture(str(i)) for i in range(8)}
    again = fetch(server, tmp_path, pictures.iloc[::-1], seed=5)  # another order finds the same files
    assert again["path"].to_dict() == table["path"].to_dict() and server.hits.total() == 8


def test_a_changed_list_does_not_take_over_another_pictures_file(server, tmp_path):
    for key in ("1", "2"):
        pictures = pd.DataFrame([{"id": key, "path": "p.jpg", "urls": (f"{SITE}/ok/{key}",)}])
        table = fetch(server, tmp_path, pictures)
    assert (tmp_path / table.loc["2", "path"]).read_bytes() == picture("2")
    assert (tmp_path / "p.jpg").read_bytes() == picture("1")


def test_limit_takes_turns_between_emotions_and_can_grow(server, tmp_path):
    pictures = listed(**{f"p{i}": f"/ok/{i}" for i in range(20)})
    pictures["emotion"] = ["joy"] * 16 + ["fear"] * 3 + ["rage"]
    emotions = pictures.set_index("path")["emotion"]
    few = fetch(server, tmp_path, pictures, limit=5, seed=1)
    assert emotions[few.index].value_counts().to_dict() == {"joy": 2, "fear": 2, "rage": 1}
    more = fetch(server, tmp_path, pictures, limit=9, seed=1)
    assert emotions[more.index].value_counts().to_dict() == {"joy": 5, "fear": 3, "rage": 1}
    assert set(few.index) < set(more.index) and server.hits.total() == 9


def test_failures_are_tried_again_only_on_request(server, tmp_path):
    pictures = listed(x="/missing/x")
    for _ in range(2):
        assert fetch(server, tmp_path, pictures).loc["x.jpg", "status"] == "failed"
    assert server.hits["/missing/x"] == 1
    pictures["urls"] = [(f"{SITE}/ok/x",)]
    assert fetch(server, tmp_path, pictures, retry_failed=True).loc["x.jpg", "status"] == "ok"


def test_damaged_and_deleted_pictures_are_fetched_again(server, tmp_path):
    pictures = listed(a="/ok/a", b="/ok/b", c="/ok/c")
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
    pictures = listed(a="/ok/a", b="/ok/b", c="/ok/c")
    fetch(server, tmp_path, pictures)
    lines = (tmp_path / RECORD).read_bytes().splitlines(keepends=True)
    (tmp_path / RECORD).write_bytes(lines[0] + lines[1][:20])
    (tmp_path / ".part" / "0123.tmp").write_bytes(picture("d")[:99])
    table = downloads.download(pictures, tmp_path, show_progress=False)
    assert (table["status"] == "ok").all() and server.hits.total() == 3
    assert downloads.download(pictures, tmp_path, show_progress=False).equals(table)


KILLED = """
import sys
from emolib.data.addresses import read_list
from emolib.data.download import Settings, download
settings = Settings(workers=3, interval=0, wayback=None, allow_private=True)
download(read_list(sys.argv[1]), sys.argv[2], settings=settings, show_progress=False)
"""


def test_kill_in_the_middle_and_resume(server, tmp_path):
    folder, path = tmp_path / "pictures", tmp_path / "list.csv"
    names = [*(f"ok/{i}" for i in range(6)), "gate/a", "gate/b", "gate/c"]
    pd.DataFrame({"url": [f"http://127.0.0.1:{server.port}/{name}.jpg" for name in names]}).to_csv(path)
    command = [sys.executable, "-c", KILLED, str(path), str(folder)]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.at_gate.wait(60)  # half of a picture has been sent
    child.send_signal(signal.SIGKILL)
    child.wait()
    for file in folder.glob("*.jpg"):
        assert file.read_bytes() == picture(file.name)
    lines = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    assert all((folder / line["path"]).read_bytes() for line in lines)
    done = [line["url"].rpartition(f":{server.port}")[2] for line in lines]
    server.gate.set()
    table = fetch(server, folder, read_list(path), replace(FAST, allow_private=True), "real")
    assert (table["status"] == "ok").all() and len(table) == 9
    assert {file.name for file in folder.glob("*.jpg")} == {f"{n.partition('/')[2]}.jpg" for n in names}
    assert all(server.hits[address] == 1 for address in done)


def test_a_full_disk_ends_the_run_and_leaves_no_half_picture(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(server, tmp_path, listed(x="/ok/x"))
    assert not (tmp_path / RECORD).read_text() and not list(tmp_path.rglob("*.jpg"))
    assert fetch(server, tmp_path, listed(x="/ok/x")).loc["x.jpg", "status"] == "ok"


def test_an_interrupted_run_ends_at_once(server, tmp_path):
    """Ctrl-C while a host's turn is far away: nothing more is asked for."""
    pictures = listed(**{f"p{i}": f"/ok/{i}" for i in range(3)})

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    internet = Internet(server)
    internet.resolve = interrupt
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, pictures, replace(FAST, interval=1000), internet)
    assert not server.hits
