"""Editors that somebody else runs: Stability AI, OpenAI, Google Gemini, Black Forest Labs (BFL).

A call costs money and sends a face away, so there is no call without a limit (`open_service`), every answer
is kept before it is used (`Ledger`), and what may have been paid for is not asked for again.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image
from torch import Tensor

from emolib import images as pictures
from emolib.data.download import parse_retry_after
from emolib.diffusion.presets import Preset
from emolib.editors.base import SinglePictureEditor
from emolib.editors.instruct import fit_size
from emolib.editors.services import SERVICES, Dialect, Reply
from emolib.emotions import words
from emolib.runtime import InputError, hold_lock, one_of, read_json, read_key, write_json

SIZE, MULTIPLE = 1024, 16  # px: pictures are sent with the area of this square and such sides
TIMEOUT = httpx.Timeout(180, connect=10)
LINKS = 2  # to a picture that have expired before it counts as lost
TRIES, LONGEST_WAIT = 4, 60.0  # of a POST that was turned away unpaid; seconds that Retry-After may ask for
POLLS, POLL = 300, 1.0  # how often, and after how many seconds, to ask whether a picture is ready
MODERATED = re.compile("moderat|safety|content.?polic|content.?filter|prohibited", re.IGNORECASE)


class Ledger:
    """What was asked of services, what it cost and what came back, in a folder (None: in memory alone).

    An entry is written before its question is sent, and again with the answer before that is used: whoever is
    killed in between finds out that it may have been paid for. `spent` (USD) is of all entries, of earlier
    runs too; `limit` bounds it.
    """

    def __init__(self, folder: Path | None, limit: float) -> None:
        self.folder, self.limit, self._entries, self._pictures = folder, limit, {}, {}
        self._load()

    def _load(self) -> None:
        if self.folder is not None and (self.folder / "ledger.json").exists():
            self._entries = dict(read_json(self.folder / "ledger.json"))

    @property
    def spent(self) -> float:
        return sum(entry["price"] for entry in self._entries.values())

    def read(self, key: str) -> tuple[dict[str, Any] | None, bytes | None]:
        """Read an entry and the picture that came back, None where there is none."""
        if self.folder is None:
            return self._entries.get(key), self._pictures.get(key)
        file = self.folder / f"{key}.picture"
        return self._entries.get(key), file.read_bytes() if file.exists() else None

    def write(self, key: str, entry: dict[str, Any], picture: bytes | None = None) -> None:
        """Keep an entry, the picture first."""
        self._entries[key] = entry
        if self.folder is None:
            self._pictures[key] = picture
        else:
            if picture is not None:
                (self.folder / f"{key}.picture").write_bytes(picture)
            write_json(self.folder / "ledger.json", self._entries)

    def forget(self, key: str) -> None:
        """Take back what has certainly cost nothing."""
        del self._entries[key]
        if self.folder is not None:
            write_json(self.folder / "ledger.json", self._entries)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away, and know what they wrote. InputError: one is asking right now."""
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder}: another process asks services for this table; let one process do it"
        with hold_lock(self.folder / "lock", busy):
            self._load()
            yield


class _Key(httpx.Auth):
    """Puts the key into the request, and nowhere else."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        name, form = self.dialect.header
        request.headers[name] = form.format(read_key(*self.dialect.variables))
        yield request


@dataclass(eq=False)
class Service:
    """A model of a service, with what may be spent on it. Made by `open_service`.

    service, model, ledger  who is asked, and what was
    records                 of the edits since `take_records`: service, model, date, seed, request id, price
                            (USD, estimated), and status "ok", "refused" (with the reason), or "lost" (paid
                            for, perhaps, and never received)
    """

    service: str
    model: str
    ledger: Ledger
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """Give what names it on the command line, and in recipes."""
        return f"{self.service}/{self.model}"

    @property
    def size(self) -> int:
        """Give the side that faces are sent at, px."""
        return SIZE

    @property
    def preset(self) -> Preset:
        """Give what is known of it: the margin around faces."""
        return Preset(self.name, SIZE, {})

    @property
    def dialect(self) -> Dialect:
        """Give how it is spoken to."""
        return SERVICES[self.service]

    @property
    def template(self) -> str:
        """Give the template of its texts."""
        return self.dialect.template

    @property
    def price(self) -> float:
        """Estimate what one edit costs, USD."""
        return self.dialect.prices[self.model]

    def estimate(self, edits: int) -> str:
        """Say what so many edits cost."""
        left = self.ledger.limit - self.ledger.spent
        return (
            f"{self}: sends {edits} faces away for about ${self.price:.3f} each, ${edits * self.price:.2f} in"
            f" all (an estimate); ${left:.2f} may be spent"
        )

    def take_records(self) -> list[dict[str, Any]]:
        """Give the records of the edits since the last call of this."""
        taken, self.records = self.records, []
        return taken

    def ask(self, picture: Image.Image, text: str, seed: int) -> Image.Image | None:
        """Ask for one edit, or read what it gave before; None where it was refused or is lost.

        InputError: nothing left to spend, or a fault after which nothing more should be asked."""
        question = f"{self}\0{text}\0{seed}\0{picture.size}\0".encode() + picture.tobytes()
        key = hashlib.sha256(question).hexdigest()[:32]
        with self.ledger.held():
            entry, answer = self.ledger.read(key)
            if entry is None:
                entry, answer = self._buy(key, picture, text, seed)
            elif entry["status"] == "accepted":
                entry, answer = self._collect(key, entry, entry["later"])
            elif entry["status"] == "sent":
                entry = entry | {"status": "lost"}
        self.records.append(entry)
        return pictures.open_image(answer, name=str(self)) if entry["status"] == "ok" else None

    def _buy(self, key: str, picture: Image.Image, text: str, seed: int) -> tuple[dict, bytes | None]:
        """Send the POST; its entry and the picture."""
        if self.ledger.spent + self.price > self.ledger.limit + 1e-9:
            raise InputError(
                f"{self}: ${self.ledger.spent:.2f} of ${self.ledger.limit:.2f} are spent, one more edit costs"
                f" about ${self.price:.3f}; raise --budget and run again, what is paid for is kept"
            )
        file = io.BytesIO()
        picture.save(file, "PNG")  # pixels alone: what the source's file says of itself stays here
        arguments = self.dialect.build(self.model, picture, file.getvalue(), text, seed)
        entry = {"status": "sent", "service": self.service, "model": self.model, "seed": seed}
        entry |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "price": self.price}
        self.ledger.write(key, entry)
        response = self._post(key, arguments)
        entry |= {"request": _find_request_id(response)}
        if response.status_code >= 400:
            self._refuse(key, response)
            entry |= {"status": "refused", "reason": self._explain(response)}
            self.ledger.write(key, entry)
            return entry, None
        reply = self._read(response)
        if not reply.later:
            return self._finish(key, entry, reply)
        entry |= {"status": "accepted", "later": reply.later}
        self.ledger.write(key, entry)
        return self._collect(key, entry, reply.later)

    def _post(self, key: str, arguments: dict[str, Any]) -> httpx.Response:
        """Send it once, and again only where it was turned away with a time to come back."""
        url = self.dialect.url.format(model=self.model)
        for attempt in range(TRIES):
            try:
                response = _client().post(url, auth=_Key(self.dialect), timeout=TIMEOUT, **arguments)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                self.ledger.forget(key)
                raise InputError(f"{self}: cannot be reached ({type(error).__name__})") from None
            except httpx.HTTPError as error:
                raise InputError(f"{self}: {type(error).__name__}; {_UNKNOWN}") from None
            after = response.headers.get("retry-after")
            wait = None if after is None else parse_retry_after(after)
            if response.status_code not in (429, 503) or wait is None or wait > LONGEST_WAIT:
                break
            if attempt < TRIES - 1:
                time.sleep(wait * random.uniform(1, 1.25))
        return response

    def _refuse(self, key: str, response: httpx.Response) -> None:
        """InputError for a status of 400 and more, unless it says that this picture or text is refused."""
        code, reason = response.status_code, self._explain(response)
        if code in (400, 403, 422) and MODERATED.search(response.text):
            return
        if code >= 500 and code != 503:
            raise InputError(f"{self}: HTTP {code} ({reason}); {_UNKNOWN}")
        self.ledger.forget(key)
        hints = {401: "the key is not accepted", 402: "no credits left", 429: "too many requests; try later"}
        raise InputError(f"{self}: HTTP {code}, {hints.get(code, 'not done')} ({reason})")

    def _collect(self, key: str, entry: dict, later: str) -> tuple[dict, bytes | None]:
        """Ask until the picture is ready, which costs nothing, and fetch it at once."""
        options, links = {"auth": _Key(self.dialect), "timeout": TIMEOUT}, 0
        with self._free():
            for _ in range(POLLS):
                response = _client().get(later, **options) if _is_same_site(later, self.dialect.url) else None
                if response is None or response.status_code in (404, 410):
                    return self._finish(key, entry, Reply(failed="the task is gone"))
                reply = self._read(response.raise_for_status())
                if reply.link:
                    fetched, links = _client().get(reply.link, timeout=TIMEOUT), links + 1  # without the key
                    if fetched.status_code == 200:
                        return self._finish(key, entry, Reply(fetched.content))
                if links == LINKS:
                    reply = Reply(failed="the link has expired")
                if reply.refused or reply.failed:
                    return self._finish(key, entry, reply)
                time.sleep(POLL)
        raise InputError(f"{self}: not ready after {POLLS} questions; run again to go on, free of charge")

    def _finish(self, key: str, entry: dict, reply: Reply) -> tuple[dict, bytes | None]:
        """Keep the outcome."""
        if reply.picture:
            pictures.open_image(reply.picture, name=f"{self}: its answer")
        status = "ok" if reply.picture else "refused" if reply.refused else "lost"
        entry = {name: value for name, value in entry.items() if name != "later"} | {"status": status}
        entry |= {} if reply.picture else {"reason": reply.refused or reply.failed}
        self.ledger.write(key, entry, reply.picture or None)
        return entry, reply.picture or None

    @contextmanager
    def _free(self) -> Iterator[None]:
        """Turn network faults of what costs nothing into one line."""
        try:
            yield
        except httpx.HTTPError as error:
            fault = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
            raise InputError(
                f"{self}: {fault or type(error).__name__} while waiting; run again to go on, free of charge"
            ) from None

    def _read(self, response: httpx.Response) -> Reply:
        try:
            return self.dialect.read(response.json())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise InputError(f"{self}: its answer cannot be read; {_UNKNOWN}") from None

    def _explain(self, response: httpx.Response) -> str:
        """What the service says of a fault, in a line that holds no key, even if the service repeats it."""
        text = " ".join(response.text.split()).replace(read_key(*self.dialect.variables), "[key]")
        return text[:200] or response.reason_phrase


_UNKNOWN = "it may have been paid for, so it is not asked again"


@lru_cache(maxsize=1)
def _client() -> httpx.Client:
    return httpx.Client()


def _find_request_id(response: httpx.Response) -> str | None:
    names = ("x-request-id", "request-id", "x-goog-request-id")
    return next((response.headers[name] for name in names if name in response.headers), None)


def _is_same_site(url: str, other: str) -> bool:
    """Tell whether the key may be sent to `url`: the last two labels of the hosts are equal."""
    hosts = [httpx.URL(address).host.split(".")[-2:] for address in (url, other)]
    return hosts[0] == hosts[1]


@dataclass(frozen=True)
class Hosted(SinglePictureEditor):
    """An `Editor` that asks a hosted service. Where it refuses, the source comes back (`Service.records`).

    Pictures are sent as PNG with the area of a square of `SIZE`, without metadata; the answer is cropped to
    the source's shape and brought to its size. The seed is sent where the service takes one.
    """

    service: Service
    template: str | None = None

    def edit_one(
        self, source: Tensor, emotion: str, description: str, generator: torch.Generator | None
    ) -> Tensor:
        """Ask for the edit of one picture (1, 3, H, W)."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        text = words.prompt(emotion, description, self.template or self.service.template)
        height, width = source.shape[-2:]
        sent = pictures.to_pil(pictures.resize(source, fit_size(height, width, SIZE, MULTIPLE)))[0]
        edited = self.service.ask(sent, text, seed)
        if edited is None:
            return source
        return pictures.resize(_crop_to(pictures.to_tensor(edited), height, width), (height, width)).to(
            source
        )


def _crop_to(images: Tensor, height: int, width: int) -> Tensor:
    """Cut the largest middle part with the shape of height : width out of (B, 3, H, W)."""
    scale = min(images.shape[-2] / height, images.shape[-1] / width)
    h, w = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (images.shape[-2] - h) // 2, (images.shape[-1] - w) // 2
    return pictures.crop(images, (left, top, left + w, top + h))


def open_service(name: str, *, budget: float | None, folder: Path | None = None) -> Service:
    """Open "openai", or "openai/gpt-image-2": a model of a service, and spend at most `budget` USD on it.

    folder  where questions and answers are kept, so that nothing is paid for twice
    InputError: an unknown service or model, no key or a broken one, no budget, one below a single edit.
    """
    service, _, model = name.partition("/")
    dialect = SERVICES[one_of(service, SERVICES, "service")]
    model = one_of(model or next(iter(dialect.prices)), dialect.prices, f"model of {service}")
    price = dialect.prices[model]
    read_key(*dialect.variables)
    if budget is None:
        raise InputError(f"{service} costs money, about ${price:.3f} an edit ({model}): give --budget USD")
    if not price <= budget < float("inf"):
        raise InputError(f"--budget {budget:g} is below one edit of {model}, about ${price:.3f}")
    return Service(service, model, Ledger(folder, budget))
