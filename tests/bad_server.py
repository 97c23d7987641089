"""A local web server that misbehaves in every way the downloader must survive; a fake internet around it."""

from __future__ import annotations

import email.utils
import gzip
import io
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
from PIL import Image

PUBLIC = "93.184.216.34"
BIG = 50 * 2**20


def picture(name: str, size: int = 48) -> bytes:
    """A JPEG that depends on `name`: noise, so that half of it is not a whole picture."""
    rng = np.random.default_rng(list(name.encode()))
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


class BadServer(ThreadingHTTPServer):
    """`hits` counts requests per path, `gate` holds /gate/ requests back until it is set."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hits: Counter = Counter()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.gate, self.at_gate, self.gave_up = threading.Event(), threading.Event(), threading.Event()
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that hang up are what is tested here, not an error."""

    def stop(self) -> None:
        self.gate.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        with self.server.lock:
            self.server.hits[self.path] += 1
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            kind, _, name = self.path.lstrip("/").partition("/")
            getattr(self, f"do_{kind}", self.do_missing)(name)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def send(
        self, status: int, body: bytes = b"", kind: str = "image/jpeg", length: int | None = None, **headers
    ):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_ok(self, name):
        self.send(200, picture(name))

    def do_slow(self, name):
        time.sleep(0.02)
        self.send(200, picture(name))

    def do_missing(self, name):
        self.send(404, b"nothing here", "text/plain")

    def do_flaky(self, name):
        first = self.server.hits[self.path] == 1
        self.send(500) if first else self.send(200, picture(name))

    def do_broken(self, name):
        self.send(503, Retry_After="0")

    def do_drip(self, name):
        self.send(200, length=10_000)
        for _ in range(300):
            self.wfile.write(b"x")
            time.sleep(0.02)

    def do_silent(self, name):
        self.send(200, length=10_000)
        self.server.gate.wait(5)
        self.close_connection = True

    def do_truncated(self, name):
        body = picture(name)
        self.send(200, body[: len(body) // 2], length=len(body))
        self.close_connection = True

    def do_half(self, name):
        body = picture(name)
        self.send(200, body[: len(body) // 2])

    def do_html(self, name):
        self.send(200, b"<html><body>Sorry, moved.</body></html>")

    def do_loop(self, name):
        self.send(302, Location="/loop/b" if name == "a" else "/loop/a")

    def do_chain(self, name):
        number = int(name)
        self.send(301, Location=f"/chain/{number - 1}" if number else "/ok/chain.jpg")

    def do_to(self, name):
        self.send(302, Location=name)

    def do_nowhere(self, name):
        self.send(302)

    def do_moved(self, name):
        self.send(302, Location="/ok/größe".encode().decode("latin-1"))  # UTF-8 as it is, unescaped

    def do_later(self, kind):
        when = {"seconds": "3600", "date": email.utils.formatdate(time.time() + 3600, usegmt=True)}[kind]
        first = self.server.hits[self.path] == 1
        self.send(429, Retry_After=when) if first else self.send(200, picture(kind))

    def do_zipped(self, name):
        self.send(200, gzip.compress(picture(name)), Content_Encoding="gzip")

    def do_bomb(self, name):
        self.send(200, gzip.compress(bytes(4 * 2**20)), Content_Encoding="gzip")

    def do_badzip(self, name):
        self.send(200, picture(name), Content_Encoding="gzip")

    def do_web(self, name):
        self.do_ok(name) if name.endswith("/b") else self.do_missing(name)

    def do_big(self, name):
        """50 MB, with its length stated or not."""
        self.send(200, length=BIG if name == "stated" else -1)
        try:
            for _ in range(BIG // 2**16):
                self.wfile.write(bytes(2**16))
        except OSError:
            self.server.gave_up.set()
        self.close_connection = True

    def do_pixel(self, name):
        self.send(200, picture("pixel", size=1))

    def do_gate(self, name):
        """Half the picture, then nothing until the gate opens."""
        body = picture(name)
        self.send(200, body[: len(body) // 2], length=len(body))
        self.wfile.flush()
        self.server.at_gate.set()
        self.server.gate.wait(20)
        self.wfile.write(body[len(body) // 2 :])


class Internet(httpx.HTTPTransport):
    """A fake internet: every name is at a public address, and every address leads to `server`.

    `names` (dots written as _) are at the addresses given here, none for one that is not found. Literal
    addresses resolve to what they are, as in the real look-up. `connected` notes the hosts asked.
    """

    def __init__(self, server: BadServer, **names: list[str]):
        super().__init__()
        self._port, self.connected = server.port, []
        self._names = {name.replace("_", "."): addresses for name, addresses in names.items()}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.connected.append(request.url.host)
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        there = httpx.Request(request.method, url, headers=request.headers, extensions=request.extensions)
        return super().handle_request(there)

    def resolve(self, host, port, **options):
        if not host.endswith(".example"):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = self._names.get(host, [PUBLIC])
        if not addresses:
            raise socket.gaierror("Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in addresses]
