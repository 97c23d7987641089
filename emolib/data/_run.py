"""One run of the downloader: workers take addresses from the queue and decide what comes next for a
picture."""

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from PIL import Image

from emolib.data._journal import Journal
from emolib.data._net import Answer, Fetcher, Limits, Network
from emolib.data._queue import HostQueue
from emolib.data.files import PICTURE_SUFFIXES
from emolib.images import open_image
from emolib.runtime import InputError

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif"}
# So many hosts given up on without any server ever answering mean that the fault is on our side.
NO_NETWORK = 10
MAX_PIXELS = 50_000_000
# A hostile list must not fill the memory with many enormous pictures at once.
_decoding = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Settings:
    """How to fetch. Seconds; `interval` lies between two requests to one host, `backoff` doubles per retry.

    `wayback`: address of an archived copy of {url}, None for no archive; `wayback_tries`: for how many of a
    picture's addresses it is asked. `longest_wait` bounds what a server may ask for in Retry-After.
    `allow_private` lifts the ban on private and loopback addresses. Pictures with a side under `min_side` px
    are taken for tracking pixels and placeholders.
    """

    limits: Limits = field(default_factory=Limits)
    workers: int = 16
    per_host: int = 2
    interval: float = 1.0
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
    """One picture on its way: `candidates` are the addresses still to try, `reasons` why the others
    failed."""

    key: str
    path: str
    candidates: list[str]
    url: str = ""
    attempt: int = 0
    seen: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    unreachable: bool = True

    def next_candidate(self) -> bool:
        """Move on to the next address, if there is one."""
        if not self.candidates:
            return False
        self.url, self.attempt = self.candidates.pop(0), 0
        self.seen = {self.url}
        return True

    def record(self, status: str, **values) -> dict:
        """The journal's line for this picture."""
        empty = {"url": None, "sha256": None, "bytes": None, "width": None, "height": None, "reason": ""}
        return {"id": self.key, "path": self.path, "status": status, **empty, **values}


class Run:
    """Fetches jobs with `settings.workers` threads; `go` yields each picture's record as it is decided."""

    def __init__(self, settings: Settings, journal: Journal, network: Network):
        self._settings, self._journal = settings, journal
        self._queue = HostQueue(settings.per_host, settings.interval)
        self._results: queue.Queue = queue.Queue()
        self._silent: set[str] = set()
        self._stopped = False
        self._fetcher = Fetcher(
            settings.limits,
            network,
            allow_private=settings.allow_private,
            connections=settings.workers,
        )

    def go(self, jobs: Iterable[Job]) -> Iterator[dict]:
        """Yield a record per job, in the order they finish; InputError if there is no network at all."""
        jobs = list(jobs)
        for job in jobs:
            job.candidates += self._archived(job.candidates)
            self._begin(job)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._settings.workers)]
        for thread in threads:
            thread.start()
        try:
            yield from self._collect(len(jobs))
        finally:
            self._queue.close()
            # Only an interrupted run has requests in flight; their answers come too late to be stored.
            self._stopped = True
            for thread in threads:
                thread.join(timeout=0.5)
            self._fetcher.close()

    def _collect(self, count: int) -> Iterator[dict]:
        held: list[dict] = []
        for _ in range(count):
            record, unreachable = self._results.get()
            if isinstance(record, Exception):
                raise record
            if unreachable and not self._fetcher.answered:
                # Not yet known to be the other side's fault: recording it as failed might be a lie.
                held.append(record)
                continue
            if self._fetcher.answered:
                yield from held
                held.clear()
            yield record
        yield from held

    def _archived(self, candidates: list[str]) -> list[str]:
        if not self._settings.wayback:
            return []
        live = [url for url in candidates if "//web.archive.org/" not in url]
        return [self._settings.wayback.format(url=url) for url in live[: self._settings.wayback_tries]]

    def _begin(self, job: Job) -> None:
        """Queue the job's next address, or settle that it has none left."""
        if job.next_candidate():
            self._queue.add(_host(job.url), job)
        elif not job.reasons:
            self._results.put((job.record("no url"), False))
        else:
            self._results.put((job.record("failed", reason="; ".join(job.reasons)), job.unreachable))

    def _work(self) -> None:
        while (taken := self._queue.take()) is not None:
            host, job = taken
            pause = 0.0
            try:
                answer = self._fetcher.get(job.url)
                pause = min(answer.wait, self._settings.longest_wait)
                self._advance(job, answer)
            except OSError as error:
                folder = self._journal.folder
                self._results.put((InputError(f"{folder}: cannot be written to ({error.strerror})"), False))
            except Exception as error:  # a fault of ours must end the run, not a thread
                self._results.put((error, False))
            finally:
                self._queue.done(host, pause=pause)

    def _advance(self, job: Job, answer: Answer) -> None:
        """Decide what follows from an answer: done, the same address again, a redirect, or the next
        address."""
        settings, reason = self._settings, answer.reason
        job.unreachable &= answer.kind == "unreachable"
        if answer.kind == "body":
            try:
                if not self._stopped:
                    self._results.put((self._store(job, answer.body), False))
                return
            except InputError as error:
                reason = str(error)
        elif answer.kind == "redirect":
            if answer.location in job.seen:
                reason = "redirects in a circle"
            elif len(job.seen) > settings.max_redirects:
                reason = f"more than {settings.max_redirects} redirects"
            else:
                job.seen.add(answer.location)
                job.url = answer.location
                self._queue.add(_host(job.url), job)
                return
        elif answer.kind in ("retry", "unreachable") and job.attempt < settings.retries:
            wait = max(settings.backoff * 2**job.attempt, min(answer.wait, settings.longest_wait))
            job.attempt += 1
            self._queue.add(_host(job.url), job, wait=wait)
            return
        if answer.kind == "unreachable" and not self._fetcher.answered:
            self._silent.add(_host(job.url))
            if len(self._silent) >= NO_NETWORK:
                raise InputError(f"no server can be reached (the last: {reason}); check the network")
        job.reasons.append(f"{job.url[:200]}: {reason[:200]}")
        self._begin(job)

    def _store(self, job: Job, body: bytes) -> dict:
        """Check that `body` is a picture and put it in its place."""
        facts = examine(body, self._settings.min_side)
        suffix = facts.pop("suffix")
        if not job.path.lower().endswith(tuple(PICTURE_SUFFIXES)):
            job.path += suffix
        try:
            self._journal.store(job.path, body)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise InputError(f"{job.path} is in the way of another picture's folder") from None
        return job.record("ok", url=job.url, **facts)


def examine(body: bytes, min_side: int) -> dict:
    """Checksum, size and usual suffix of a picture, fully decoded; InputError if it is none or too small."""
    with _decoding:
        width, height = open_image(body, max_pixels=MAX_PIXELS).size
    if min(width, height) < min_side:
        raise InputError(f"only {width} x {height} pixels")
    with Image.open(io.BytesIO(body)) as picture:
        suffix = SUFFIXES.get(picture.format, ".png")
    checksum = hashlib.sha256(body).hexdigest()
    return {"sha256": checksum, "bytes": len(body), "width": width, "height": height, "suffix": suffix}


def _host(url: str) -> str:
    """What politeness goes by. Whatever cannot be parsed shares one place and fails there."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
