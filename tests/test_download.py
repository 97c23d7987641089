"""The downloader against a server that misbehaves."""

import threading
import time

import pandas as pd
import pytest

from emolib.data import _journal
from emolib.data._queue import HostQueue
from emolib.data.download import Limits, Settings, status
from emolib.runtime import InputError
from tests.bad_server import BadServer, internet, picture
from tests.downloads import LIMITS, SITE, fetch, wanted


@pytest.fixture
def server():
    server = BadServer()
    yield server
    server.stop()


def test_pictures_arrive_byte_for_byte(server, tmp_path):
    found = fetch(server, tmp_path / "new" / "folder", wanted(a="/ok/a", b="/ok/b?size=large"))
    assert (found["status"] == "ok").all() and found.loc["a.jpg", "url"] == f"{SITE}/ok/a"
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
        ("/dripheaders/x", "slower than 0.4 s", 1),
        ("/silent/x", "silent for 0.3 s", 3),
        ("/loop/a", "in a circle", 1),
        ("/chain/9", "more than 5 redirects", 1),
        ("/big/stated", "52428800 bytes, more than 1048576", 1),
        ("/big/unstated", "more than 1048576 bytes", 1),
        ("/pixel/x", "only 1 x 1", 1),
        ("ftp://pictures.example/ok/x", "not http", 0),
        ("file:///etc/passwd", "not http", 0),
        ("http://[::1/ok/x", "malformed", 0),
        ("http://gone.example/ok/x", "not found", 0),
    ],
)
def test_what_goes_wrong_is_named_and_leaves_no_file(server, tmp_path, address, reason, hits):
    limits = Limits(2, 0.3, 0.4 if "drip" in address else 3, 2**20)
    settings = Settings(limits, workers=2, interval=0, backoff=0.01, retries=2, wayback=None)
    network = internet(server, gone_example=[[]])
    found = fetch(server, tmp_path, wanted(x=address), settings, network)
    assert found.loc["x.jpg", "status"] == "failed" and reason in found.loc["x.jpg", "reason"]
    assert server.hits[address] == hits
    server.gate.set()


def test_silence_does_not_outlast_the_whole_request(server, tmp_path):
    settings = Settings(Limits(2, 30, 0.4, 2**20), interval=0, retries=2, wayback=None)
    found = fetch(server, tmp_path, wanted(x="/silent/x"), settings)
    assert "slower than 0.4 s" in found.loc["x.jpg", "reason"] and server.hits["/silent/x"] == 1


def test_a_body_without_end_is_cut_off(server, tmp_path):
    fetch(server, tmp_path, wanted(x="/big/unstated"))
    assert server.gave_up.wait(5)  # the server could not get rid of its 50 MB


def test_500_then_200(server, tmp_path):
    found = fetch(server, tmp_path, wanted(x="/flaky/x"))
    assert found.loc["x.jpg", "status"] == "ok" and server.hits["/flaky/x"] == 2


def test_redirects_are_followed(server, tmp_path):
    found = fetch(server, tmp_path, wanted(x="/chain/4", y="/to/http://other.example/ok/y"))
    assert found["status"].tolist() == ["ok", "ok"]
    assert found.loc["y.jpg", "url"] == "http://other.example/ok/y"


def test_next_address_then_the_archive(server, tmp_path):
    settings = Settings(LIMITS, interval=0, retries=0, wayback="http://archive.example/web/{url}")
    archived = "/web/http://pictures.example/missing/c"
    pictures = wanted(
        second=["/missing/a", "/html/a", "/ok/a"],
        archive=["/missing/b"],
        none="/missing/c",
        odd=["not a url"],
    )
    server.RequestHandlerClass = type("Archive", (server.RequestHandlerClass,), {"do_web": _archive})
    found = fetch(server, tmp_path, pictures, settings)
    assert found["status"].to_dict() == {
        "second.jpg": "ok", "archive.jpg": "ok", "none.jpg": "failed", "odd.jpg": "failed"
    }  # fmt: skip
    assert found.loc["second.jpg", "url"].endswith("/ok/a")
    assert found.loc["archive.jpg", "url"] == "http://archive.example/web/http://pictures.example/missing/b"
    assert server.hits[archived] == 1 and found.loc["none.jpg", "reason"].count("HTTP 404") == 2
    assert not any("/ok/a" in path or "html/a" in path for path in server.hits if path.startswith("/web"))


def _archive(handler, name):
    handler.do_ok(name) if name.endswith("/b") else handler.do_missing(name)


def test_no_more_than_so_many_at_a_time_per_host(server, tmp_path):
    pictures = wanted(**{f"p{i}": f"/slow/{i}" for i in range(12)})
    settings = Settings(LIMITS, workers=8, per_host=2, interval=0, wayback=None)
    assert (fetch(server, tmp_path, pictures, settings)["status"] == "ok").all()
    assert server.most_busy <= 2


def test_the_queue_keeps_its_distances():
    q = HostQueue(per_host=1, interval=0.05)
    for number in range(3):
        q.add("one", number)
    q.add("two", "other")
    starts = {}
    for _ in range(4):
        host, task = q.take()
        starts[task] = time.monotonic()
        q.done(host)
    assert list(starts) == [0, "other", 1, 2]  # the other host need not wait for the first
    assert starts[1] - starts[0] >= 0.05 and starts[2] - starts[1] >= 0.05


def test_the_queue_hands_out_waiting_tasks_and_pauses_hosts():
    q = HostQueue(per_host=2, interval=0)
    q.add("one", "late", wait=0.05)
    q.add("one", "early")
    assert q.take() == ("one", "early")
    q.done("one", pause=0.08)
    before = time.monotonic()
    assert q.take() == ("one", "late") and time.monotonic() - before >= 0.07
    waiting = threading.Timer(0.02, q.close)
    waiting.start()
    assert q.take() is None


def test_only_one_run_at_a_time(server, tmp_path):
    journal = _journal.Journal(tmp_path)
    with pytest.raises(InputError, match="another download"):
        fetch(server, tmp_path, wanted(x="/ok/x"))
    journal.close()
    assert fetch(server, tmp_path, wanted(x="/ok/x")).loc["x.jpg", "status"] == "ok"


def test_without_a_network_nothing_is_recorded_as_failed(server, tmp_path):
    names = {f"h{i}_example": [[]] for i in range(12)}
    pictures = wanted(**{f"p{i}": f"http://h{i}.example/x" for i in range(12)})
    with pytest.raises(InputError, match="no server can be reached"):
        fetch(server, tmp_path, pictures, network=internet(server, **names))
    assert status(tmp_path).empty
    found = fetch(
        server, tmp_path, pd.concat([pictures, wanted(y="/ok/y")]), network=internet(server, **names)
    )
    assert found["status"].value_counts().to_dict() == {"failed": 12, "ok": 1}


def test_an_unusable_folder_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        fetch(server, tmp_path / "file", wanted(x="/ok/x"))
