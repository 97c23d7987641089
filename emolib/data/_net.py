"""One request to an untrusted address: only the public internet, bounded in time and size, decided in one
place.

The name is resolved here, every answer is checked, and the socket is opened to the very address that was
checked: a second look-up by the HTTP library could be answered differently (DNS rebinding). Redirects come
back to the caller as new addresses, so they pass the same gate. Proxies are not used: they would look up
names themselves.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpcore
import httpx

from emolib import __version__
from emolib.data import urls

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(Exception):
    """The address is not one that may be connected to."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one request: seconds and bytes."""

    connect_timeout: float = 10.0
    read_timeout: float = 20.0
    total_timeout: float = 90.0
    max_bytes: int = 30 * 2**20


@dataclass(frozen=True)
class Answer:
    """What came of one request: `kind` is "body", "redirect", "retry" (worth another try), "gone" or
    "unreachable".

    `unreachable` (also worth another try) means that no server answered at all. `wait` is what the server
    asked for, s.
    """

    kind: str
    reason: str = ""
    body: bytes = b""
    location: str = ""
    wait: float = 0.0


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also through the IPv6 forms that wrap an IPv4
    address."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if ip.version == 6:
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            wrapped = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_private)


@dataclass(frozen=True)
class Network:
    """Where names are looked up and sockets opened: the seam at which tests stand in for the internet."""

    resolve: Callable = socket.getaddrinfo
    sockets: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)


class _Deadline(threading.local):
    """When the request that runs on this thread must be over (time.monotonic)."""

    end = float("inf")

    def left(self, timeout: float | None) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the whole request is over")
        return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no single wait outlasts the request's deadline, however the bytes drip."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline):
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes, timeout=None):
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer, timeout=None):
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self):
        self._stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info):
        return self._stream.get_extra_info(info)


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens sockets to checked addresses only. TLS still verifies the certificate against the host's name."""

    def __init__(self, allow_private: bool, deadline: _Deadline, network: Network):
        self._allow_private, self._deadline, self._network = allow_private, deadline, network

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        try:
            found = self._network.resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"host {host} not found ({error})") from None
        addresses = list(dict.fromkeys(entry[4][0] for entry in found))
        for address in addresses:
            # One private answer among public ones is already an attempt to get at it.
            if not self._allow_private and not is_public(address):
                raise Refused(f"{host} is {address}, a private or reserved address")
        failure: Exception = httpcore.ConnectError(f"host {host} has no address")
        for address in addresses:
            try:
                stream = self._network.sockets.connect_tcp(
                    address, port, self._deadline.left(timeout), local_address, socket_options
                )
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class Fetcher:
    """Makes single requests, from any number of threads."""

    def __init__(self, limits: Limits, network: Network, *, allow_private: bool, connections: int):
        self._limits, self._deadline = limits, _Deadline()
        self.answered = False  # whether any server ever said anything
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=2 * connections,
            max_keepalive_connections=connections,
            keepalive_expiry=10.0,
            network_backend=_GuardedBackend(allow_private, self._deadline, network),
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def get(self, url: str) -> Answer:
        """Request `url` once; nothing is raised for what the other side does."""
        if fault := urls.fault(url):
            return Answer("gone", f"malformed address: {fault}")
        try:
            parsed = httpx.URL(url.strip())
            target = httpcore.URL(
                scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            return Answer("gone", f"malformed address: {error}")
        limits = self._limits
        self._deadline.end = time.monotonic() + limits.total_timeout
        waits = {"connect": limits.connect_timeout, "pool": limits.total_timeout}
        waits |= {"read": limits.read_timeout, "write": limits.read_timeout}
        headers = {
            "User-Agent": f"emolib/{__version__} (research data set download)",
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        try:
            with self._pool.stream("GET", target, headers=headers, extensions={"timeout": waits}) as response:
                return self._answer(parsed, response)
        except Refused as error:
            return Answer("gone", str(error))
        except httpcore.ConnectTimeout:
            return Answer("unreachable", "no connection in time")
        except httpcore.TimeoutException:
            if time.monotonic() >= self._deadline.end - 0.01:
                return Answer("gone", f"slower than {limits.total_timeout:g} s")
            return Answer("retry", f"silent for {limits.read_timeout:g} s")
        except httpcore.ConnectError as error:
            return Answer("unreachable", f"no connection ({error})")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return Answer("retry", f"connection broke ({error})")
        except Exception as error:
            # Whatever a hostile server provokes is the failure of that address, not of the run.
            return Answer("gone", f"{type(error).__name__}: {error}")

    def _answer(self, url: httpx.URL, response: httpcore.Response) -> Answer:
        self.answered = True
        header = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in REDIRECT_STATUS:
            try:
                return Answer(
                    "redirect", f"HTTP {response.status}", location=str(url.join(header[b"location"]))
                )
            except (KeyError, httpx.InvalidURL, ValueError):
                return Answer("gone", f"HTTP {response.status} to nowhere")
        if response.status in RETRY_STATUS:
            return Answer("retry", f"HTTP {response.status}", wait=_seconds(header.get(b"retry-after", "")))
        if response.status != 200:
            return Answer("gone", f"HTTP {response.status}")
        return self._body(response.iter_stream(), header.get(b"content-length", ""))

    def _body(self, chunks: Iterable[bytes], stated: str) -> Answer:
        most = self._limits.max_bytes
        if stated.isdigit() and int(stated) > most:
            return Answer("gone", f"{int(stated)} bytes, more than {most}")
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > most:
                return Answer("gone", f"more than {most} bytes")
        return Answer("body", body=bytes(body))


def _seconds(header: str) -> float:
    """Retry-After in seconds; its date form and nonsense count as not said."""
    return float(header) if header.strip().isdigit() else 0.0
