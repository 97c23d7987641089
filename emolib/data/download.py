"""Fetch pictures from a list of addresses that nobody vouches for: politely, safely, and to be resumed at
any time.

For each picture its addresses are tried in order, then the Wayback Machine. What comes counts as a picture
only if it decodes. Every outcome is a line of `downloads.jsonl` in the target folder; a run that was
killed loses nothing and leaves nothing half-written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import pandas as pd

from emolib.data import _journal, urls
from emolib.data._net import Limits, Network
from emolib.data._run import Job, Run, Settings, examine
from emolib.data.files import PICTURE_SUFFIXES, read_table
from emolib.data.manifest import stratified
from emolib.runtime import InputError, progress

__all__ = ["Limits", "Network", "Settings", "download", "read_list", "status"]

RECORD = _journal.NAME
COLUMNS = ["id", "path", "status", "url", "sha256", "bytes", "width", "height", "reason"]


def download(
    pictures: pd.DataFrame,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    limit: int | None = None,
    seed: int = 0,
    retry_failed: bool = False,
    verify: bool = False,
    show_progress: bool = True,
    network: Network | None = None,
) -> pd.DataFrame:
    """Fetch `pictures` into `folder`; returns a row per picture asked for: id, path, status, url, sha256, ...

    `pictures` columns: path (below `folder`), urls (tuple), optionally id (default: path) and emotion.
    `limit` takes that many of them, stratified by emotion (`seed`); a larger limit later adds to the same
    pictures. Pictures already there are not fetched again (`verify` compares their checksums first);
    failed ones only with `retry_failed`. status is "ok", "failed" (why: `reason`) or "no url". InputError
    if the folder cannot be used, is in use by another run, or there is no network at all.
    """
    settings, folder = settings or Settings(), Path(folder)
    jobs = [_job(*row) for row in _choose(_named(pictures), limit, seed)]
    journal = _journal.Journal(folder)
    try:
        owner = {record["path"].lower(): key for key, record in journal.records.items()}
        for job in jobs:
            if owner.get(job.path.lower(), job.key) != job.key:  # the list has changed since
                job.path = _marked(job.path, job.key)
        ahead = progress(jobs, "looking at what is there") if show_progress else jobs
        todo = [job for job in ahead if not _settled(journal, job, settings.min_side, retry_failed, verify)]
        with closing(Run(settings, journal, network or Network()).go(todo)) as records:
            for record in progress(records, "pictures", total=len(todo)) if show_progress else records:
                journal.add(record)
        return pd.DataFrame([journal.records[job.key] for job in jobs], columns=COLUMNS)
    finally:
        journal.close()


def status(folder: str | Path) -> pd.DataFrame:
    """What a download folder's record says, a row a picture (columns as `download` returns them)."""
    return pd.DataFrame(list(_journal.read(Path(folder)).values()), columns=COLUMNS)


def read_list(path: str | Path) -> pd.DataFrame:
    """A CSV of addresses as `download` wants it: column url, optionally path (rows with the same path are one
    picture's addresses, in order) and emotion. Without a path an address is a picture, named after it."""
    table = read_table(path, text=True)
    if "url" not in table:
        raise InputError(f"{path}: needs a column 'url': name the column of addresses so")
    given = table["path"] if "path" in table else pd.Series("", index=table.index)
    named = [re.split(r"[?#]", url)[0].rstrip("/").rpartition("/")[2] for url in table["url"]]
    table = table.assign(id=given.where(given != "", table["url"]), path=given.where(given != "", named))
    groups = table.groupby("id", sort=False)
    addresses = groups["url"].agg(lambda column: tuple(dict.fromkeys(column)))
    return groups.first().assign(urls=addresses).drop(columns="url").reset_index()


def _named(pictures: pd.DataFrame) -> pd.DataFrame:
    """With ids, and file names that no two pictures share (also in a file system blind to case).

    All pictures of a shared name are renamed, so that names do not depend on the order, nor on what is
    chosen.
    """
    pictures = pictures if "id" in pictures else pictures.assign(id=pictures["path"])
    if pictures["id"].duplicated().any():
        raise InputError(
            f"the picture {pictures['id'][pictures['id'].duplicated()].iloc[0]!r} is listed twice"
        )
    paths = pd.Series([urls.safe_path(path) for path in pictures["path"]], index=pictures.index, dtype=object)
    shared = paths.str.lower().duplicated(keep=False) | ~paths.str.lower().str.endswith(
        tuple(PICTURE_SUFFIXES)
    )
    marked = [_marked(p, k) if s else p for p, k, s in zip(paths, pictures["id"], shared, strict=True)]
    return pictures.assign(path=marked)


def _marked(path: str, key: str) -> str:
    """`path` with eight digits of its id's hash before the suffix."""
    pure = PurePosixPath(path)
    mark = hashlib.sha256(str(key).encode()).hexdigest()[:8]
    return str(pure.with_name(f"{pure.stem}-{mark}{pure.suffix}"))


def _choose(pictures: pd.DataFrame, limit: int | None, seed: int) -> Iterator[tuple]:
    """(id, path, urls) of the pictures asked for, in an order that takes turns between emotions."""
    if limit is not None and limit < 0:
        raise InputError(f"limit {limit}: must not be negative")
    strata = pictures["emotion"].astype(object) if "emotion" in pictures else pictures["id"].map(lambda _: "")
    order = stratified(strata, len(pictures) if limit is None else limit, seed=seed)
    return pictures.iloc[order][["id", "path", "urls"]].itertuples(index=False)


def _job(key: str, path: str, addresses: tuple[str, ...]) -> Job:
    return Job(str(key), path, list(addresses))


def _settled(journal: _journal.Journal, job: Job, min_side: int, retry_failed: bool, verify: bool) -> bool:
    """Whether nothing is left to do for this picture. Takes over a picture that lies there without a record
    (fetched just before a kill, or by another program), removes one that its record says is damaged."""
    record = journal.records.get(job.key)
    if record is not None and record["status"] == "ok":
        if _journal.intact(journal.folder, record, checksum=verify):
            return True
        (journal.folder / record["path"]).unlink(missing_ok=True)
        return False
    path = journal.folder / job.path
    if path.is_file():
        try:
            facts = examine(path.read_bytes(), min_side)
        except InputError:
            return False
        facts.pop("suffix")
        journal.add(job.record("ok", **facts))
        return True
    return record is not None and not retry_failed
