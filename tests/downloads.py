"""What the downloader's tests share: lists of pictures, a run against the bad server, the check after it."""

import hashlib

import pandas as pd

from emolib.data import _journal, download
from emolib.data.download import Limits, Settings, status
from emolib.images import open_image
from tests.bad_server import internet

LIMITS = Limits(connect_timeout=2, read_timeout=0.3, total_timeout=3, max_bytes=2**20)
FAST = Settings(limits=LIMITS, workers=4, interval=0, backoff=0.01, retries=2, wayback=None)
SITE = "http://pictures.example"


def wanted(**addresses):
    """A list of pictures: name -> address or addresses (a bare path is on pictures.example)."""
    rows = []
    for name, given in addresses.items():
        given = [given] if isinstance(given, str) else given
        rows.append(
            {"path": f"{name}.jpg", "urls": tuple(SITE + u if u.startswith("/") else u for u in given)}
        )
    return pd.DataFrame(rows)


def fetch(server, folder, pictures, settings=FAST, network=None, **options):
    network = network or internet(server)
    found = download.download(
        pictures, folder, settings=settings, network=network, show_progress=False, **options
    )
    check_record(folder)
    return found.set_index("id")


def check_record(folder):
    """The record is true: every "ok" is a whole picture with that checksum, and no other file lies there."""
    records = status(folder).set_index("path")
    good = records[records["status"] == "ok"]
    lying = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".part" not in p.parts}
    assert lying - {_journal.NAME} == set(good.index)
    assert not list(folder.glob(".part/*.tmp"))
    for path, row in good.iterrows():
        body = (folder / path).read_bytes()
        assert hashlib.sha256(body).hexdigest() == row["sha256"] and len(body) == row["bytes"]
        assert open_image(body).size == (row["width"], row["height"])
