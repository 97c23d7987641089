"""Fetch pictures from a list of addresses that nobody vouches for: politely, safely, to be resumed any time.

For each picture its addresses are tried in order, then the Wayback Machine. What comes counts as a picture
only if it decodes. Every outcome is a line of `downloads.jsonl` in the target folder, where a picture's last
line counts; a run that was killed loses nothing and leaves nothing half-written.
"""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import os
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pandas as pd
from PIL import Image

from emolib import __version__
from emolib.data.addresses import address_fault, is_public, mark_name, name_files
from emolib.data.files import PICTURE_SUFFIXES
from emolib.data.manifest import stratified
from emolib.images import open_image
from emolib.runtime import InputError, check_output, hold_lock, progress

RECORD = "downloads.jsonl"
COLUMNS = ("id", "path", "status", "url", "sha256", "bytes", "width", "height", "reason")
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif"}
# What goes wrong on the way to a body: its name, and whether another try makes sense.
FAULTS = (
    ((httpx.ConnectError, httpx.ConnectTimeout, OSError), "no connection", True),
    ((httpx.TimeoutException,), "silent for {silence:g} s", True),
    ((httpx.TransportError,), "connection broke", True),
    ((httpx.HTTPError,), "unreadable answer", False),
    ((httpx.InvalidURL, ValueError), "malformed address", False),
)
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
NO_NETWORK = 10  # so many pictures lost without any server ever answering: the fault is on our side
MAX_PIXELS = 50_000_000
_decoding = threading.BoundedSemaphore(2)  # many enormous pictures at once would fill the memory


@dataclass(frozen=True)
class Settings:
    """How to fetch. Times in seconds.

    interval      between two requests to one host, of which `per_host` may run at once
    timeout       for one request in all; `silence` for the server to say anything
    max_bytes     of a picture; one with a side under `min_side` px is taken for a placeholder
    backoff       before another try, doubled each time; `longest_wait` bounds what Retry-After may ask for
    wayback       address of an archived copy of {url}, None for no archive; it is asked for `wayback_tries`
                  of a picture's addresses
    allow_private lifts the ban on private and loopback addresses
    """

    workers: int = 16
    per_host: int = 2
    interval: float = 1.0
    timeout: float = 90.0
    silence: float = 20.0
    max_bytes: int = 30 * 2**20
    retries: int = 3
    backoff: float = 2.0
    longest_wait: float = 60.0
    max_redirects: int = 5
    min_side: int = 32
    wayback: str | None = "https://web.archive.org/web/2023id_/{url}"
    wayback_tries: int = 2
    allow_private: bool = False


@dataclass
class Job:
    """One picture: its key, its place below the folder, and its addresses, best first."""

    key: str
    path: str
    urls: tuple[str, ...]

    def line(self, status: str, **values) -> dict:
        """The record's line that says what became of it."""
        line = {"id": self.key, "path": self.path, "status": status, "reason": "", **values}
        return {name: line.get(name) for name in COLUMNS}


class Failure(Exception):
    """Why an address gave no picture. `wait`: seconds before another try, None if another makes no sense."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


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
    transport: httpx.BaseTransport | None = None,
    resolve: Callable = socket.getaddrinfo,
) -> pd.DataFrame:
    """Fetch `pictures` into `folder`; returns a row per picture asked for: id, path, status, url, sha256, ...

    `pictures` columns: path (below `folder`), urls (tuple), optionally id (default: path) and emotion.
    `limit` takes that many of them, stratified by emotion (`seed`); a larger limit later adds to the same
    pictures. Pictures already there are not fetched again (`verify` compares their checksums first); failed
    ones only with `retry_failed`. status is "ok", "failed" (why: `reason`) or "no url". InputError if the
    folder cannot be used, is in use by another run, or there is no network at all; OSError: a full disk.

    `transport` and `resolve` stand in for the internet and its names in tests.
    """
    settings, folder = settings or Settings(), Path(folder)
    show = progress if show_progress else lambda items, *_, **__: items
    table = name_files(pictures)
    strata = table["emotion"].astype(object) if "emotion" in table else pd.Series("", index=table.index)
    table = table.iloc[stratified(strata, len(table) if limit is None else limit, seed=seed)]
    jobs = [Job(str(row.id), row.path, row.urls) for row in table.itertuples()]
    with _open_record(folder) as (lines, add):
        owner = {line["path"].lower(): key for key, line in lines.items()}
        for job in jobs:
            if owner.get(job.path.lower(), job.key) != job.key:  # the list has changed since
                job.path = mark_name(job.path, job.key)
        todo = []
        for job in show(jobs, "looking at what is there"):
            line = _look_at(folder, job, lines.get(job.key), settings.min_side, verify)
            if line is None or (line["status"] != "ok" and retry_failed):
                todo.append(job)
            elif line is not lines.get(job.key):
                add(line)
        fetched = _Run(settings, folder, transport, resolve).fetch_all(todo)
        for line in show(fetched, "pictures", total=len(todo)):
            add(line)
        return pd.DataFrame([lines[job.key] for job in jobs], columns=list(COLUMNS))


@contextmanager
def _open_record(folder: Path) -> Iterator[tuple[dict[str, dict], Callable[[dict], None]]]:
    """The folder's lines by picture, and what adds one, on disk at once; the folder is locked meanwhile."""
    parts = folder / ".part"
    check_output(parts, folder=True)
    parts.mkdir(parents=True, exist_ok=True)
    with hold_lock(parts / "lock", f"{folder}: another download is running in this folder; wait for it"):
        for left in parts.glob("*.tmp"):  # of a run that was killed
            left.unlink()
        lines, text = {}, (folder / RECORD).read_bytes() if (folder / RECORD).is_file() else b""
        for line in text.splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off: not done, then
                line = json.loads(line)
                lines[line["id"]] = line
        with open(folder / RECORD, "a", encoding="utf-8") as file:

            def add(line: dict) -> None:
                lines[line["id"]] = line
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()

            file.write("" if text[-1:] in (b"", b"\n") else "\n")
            yield lines, add


def _look_at(folder: Path, job: Job, line: dict | None, min_side: int, verify: bool) -> dict | None:
    """The line of a picture that needs no more work unless it failed; None for one to be fetched.

    Takes over a picture that lies there without a line (fetched just before a kill, or by another program),
    removes one that is not what its line says."""
    if line is not None and line["status"] == "ok":
        path = folder / line["path"]
        whole = path.is_file() and path.stat().st_size == line["bytes"]
        if whole and not (verify and hashlib.sha256(path.read_bytes()).hexdigest() != line["sha256"]):
            return line
        path.unlink(missing_ok=True)
        return None
    if (folder / job.path).is_file():
        try:
            return job.line("ok", **_examine((folder / job.path).read_bytes(), min_side)[0])
        except InputError:
            return None
    return line


def _examine(body: bytes, min_side: int) -> tuple[dict, str]:
    """Checksum and size of a picture, fully decoded, and its usual suffix. InputError: none, or too small."""
    with _decoding:
        width, height = open_image(body, max_pixels=MAX_PIXELS).size
    if min(width, height) < min_side:
        raise InputError(f"only {width} x {height} pixels")
    with Image.open(io.BytesIO(body)) as picture:
        suffix = SUFFIXES.get(picture.format, ".png")
    checksum = hashlib.sha256(body).hexdigest()
    return {"sha256": checksum, "bytes": len(body), "width": width, "height": height}, suffix


class _Run:
    """One run: threads fetch pictures, `fetch_all` yields each one's line as it is decided."""

    def __init__(
        self, settings: Settings, folder: Path, transport: httpx.BaseTransport | None, resolve: Callable
    ):
        self._settings, self._folder, self._resolve = settings, folder, resolve
        self._stopped, self._answered, self._silent = threading.Event(), threading.Event(), set()
        self._silence = min(settings.silence, settings.timeout)
        self._lock, self._next = threading.Lock(), defaultdict(float)  # host -> when it may be asked
        self._gates = defaultdict(lambda: threading.Semaphore(settings.per_host))
        agent = f"emolib/{__version__} (research data set download)"
        self._client = httpx.Client(
            transport=transport,
            timeout=httpx.Timeout(self._silence, connect=10.0, pool=None),
            headers={"User-Agent": agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            trust_env=False,  # a proxy would look names up itself
        )

    def fetch_all(self, jobs: list[Job]) -> Iterator[dict]:
        """Yield a line per job, in the order they finish; InputError if there is no network at all."""
        held: list[dict] = []
        pool = ThreadPoolExecutor(self._settings.workers)
        try:
            for future in as_completed([pool.submit(self._fetch, job) for job in jobs]):
                held.append(future.result())
                # Until a server has answered, the fault may be ours: to record failures might be a lie.
                if self._answered.is_set():
                    yield from held
                    held.clear()
                elif len(self._silent) >= NO_NETWORK:
                    raise InputError(f"no server can be reached ({held[-1]['reason']}); check the network")
            yield from held
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)
            self._client.close()

    def _fetch(self, job: Job) -> dict:
        """Try a picture's addresses, then archived copies of them; returns its line."""
        settings, reasons = self._settings, []
        live = [url for url in job.urls if "//web.archive.org/" not in url][: settings.wayback_tries]
        archived = [settings.wayback.format(url=url) for url in live] if settings.wayback else []
        for address in (*job.urls, *archived):
            try:
                return self._store(job, *self._follow(address))
            # The last two: another picture's file or folder lies at this one's path.
            except (Failure, InputError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                reasons.append(f"{address[:200]}: {str(error)[:200]}")
        return job.line("failed" if reasons else "no url", reason="; ".join(reasons))

    def _store(self, job: Job, url: str, body: bytes) -> dict:
        """Put a picture in its place, whole or not at all; InputError if it is none."""
        facts, suffix = _examine(body, self._settings.min_side)
        if not job.path.lower().endswith(tuple(PICTURE_SUFFIXES)):
            job.path += suffix
        part, target = self._folder / ".part" / f"{uuid.uuid4().hex}.tmp", self._folder / job.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        self._pause(0)
        os.replace(part, target)
        return job.line("ok", url=url, **facts)

    def _follow(self, url: str) -> tuple[str, bytes]:
        """Where redirects from `url` lead, and the body there; each passes the same checks and waits."""
        for _ in range(self._settings.max_redirects + 1):
            answer = self._ask_patiently(url)
            if isinstance(answer, bytes):
                return url, answer
            url = answer
        raise Failure(f"more than {self._settings.max_redirects} redirects")

    def _ask_patiently(self, url: str) -> bytes | str:
        """Ask for `url`, again after a while where that makes sense."""
        for attempt in range(self._settings.retries + 1):
            try:
                return self._ask(url)
            except Failure as failure:
                if failure.wait is None or attempt == self._settings.retries:
                    raise
                self._pause(max(self._settings.backoff * 2**attempt, failure.wait))

    def _ask(self, url: str) -> bytes | str:
        """Request `url` once: a body, or the address it redirects to. Failure for all that can go wrong."""
        if fault := address_fault(url):
            raise Failure(f"malformed address: {fault}")
        host = ""
        try:
            parsed = httpx.URL(url.strip())
            host = parsed.host
            with self._turn(host):
                self._check_host(parsed)
                with self._client.stream("GET", parsed) as response:
                    self._answered.set()
                    return self._read(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            kinds, name, again = next(fault for fault in FAULTS if isinstance(error, fault[0]))
            if kinds == FAULTS[0][0]:
                self._silent.add(host)
            name = name.format(silence=self._silence)
            raise Failure(f"{name} ({error})", 0.0 if again else None) from None

    @contextmanager
    def _turn(self, host: str) -> Iterator[None]:
        """Politeness: wait until `host` may be asked, which the block does."""
        with self._lock:
            gate = self._gates[host]
        with gate:
            with self._lock:
                start = max(self._next[host], time.monotonic())
                self._next[host] = start + self._settings.interval
            self._pause(start - time.monotonic())
            yield

    def _pause(self, seconds: float) -> None:
        """Wait; CancelledError at once if the run has been broken off."""
        if self._stopped.wait(max(seconds, 0.0)):
            raise CancelledError

    def _check_host(self, url: httpx.URL) -> None:
        """Failure unless all addresses of a host are public: one private among them is an attempt already."""
        entries = self._resolve(url.host, url.port or url.scheme, type=socket.SOCK_STREAM)
        for address in (entry[4][0] for entry in entries):
            if not self._settings.allow_private and not is_public(address):
                raise Failure(f"{url.host} is {address}, a private or reserved address")

    def _read(self, response: httpx.Response) -> bytes | str:
        """The body within its bounds, or where a redirect leads."""
        settings, code, headers = self._settings, response.status_code, response.headers
        end = time.monotonic() + settings.timeout
        if response.has_redirect_location:
            return str(response.url.join(headers["location"]))
        if code != 200:
            wait = min(parse_retry_after(headers.get("retry-after", "")), settings.longest_wait)
            if code in RETRY_STATUS:
                with self._lock:  # the host rests as long as it says
                    rested = time.monotonic() + wait
                    self._next[response.url.host] = max(self._next[response.url.host], rested)
            raise Failure(f"HTTP {code}", wait if code in RETRY_STATUS else None)
        stated, body, fault = headers.get("content-length", ""), bytearray(), ""
        if stated.isdecimal() and int(stated) > settings.max_bytes:
            fault = f"{int(stated)} bytes, more than {settings.max_bytes}"
        chunks = response.iter_bytes()  # unpacked, should it be gzip although that was not asked for
        while not fault and (chunk := next(chunks, b"")):
            body += chunk
            self._pause(0)
            if len(body) > settings.max_bytes:
                fault = f"more than {settings.max_bytes} bytes"
            elif time.monotonic() > end:
                fault = f"slower than {settings.timeout:g} s"
        if fault:
            raise Failure(fault)
        return bytes(body)


def parse_retry_after(header: str) -> float:
    """Retry-After in seconds from now, given as such or as a date; 0 for nonsense."""
    if header.strip().isdecimal():
        return float(header)
    parsed = email.utils.parsedate_tz(header)
    with suppress(OverflowError, ValueError):
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else 0.0
    return 0.0
