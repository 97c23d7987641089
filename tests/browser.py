"""A page in headless Chromium, over its debugging protocol: what a reader's browser would complain of."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-component-update",
    "--remote-debugging-port=0",
)  # fmt: skip
PHONE, DESK = 390, 1280  # px, widths
LOOK = """(() => ({
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
  images: document.images.length,
  width: document.documentElement.scrollWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
}))()"""


@dataclass(frozen=True)
class Seen:
    """What one look at a page found: console `errors`, `requests` that left it, and LOOK's answers."""

    errors: tuple[str, ...]
    requests: tuple[str, ...]
    broken: int
    images: int
    width: int
    paper: tuple[float, ...]
    ink: tuple[float, ...]


def chromium() -> str | None:
    """The browser's path, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page: Path, *, width: int = DESK, dark: bool = False, script: str = "", shot: Path | None = None):
    """(Seen, what `script` returns) of a page opened from its file at this width; `shot` takes a picture."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [chromium(), *FLAGS, f"--user-data-dir={home}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(home), process)
            return asyncio.run(_look(port, page.resolve().as_uri(), width, dark, script, shot))
        finally:
            process.kill()
            process.wait()


def _port(home: Path, process: subprocess.Popen, patience: float = 60.0) -> int:
    """The debugging port that the browser has chosen and written down."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        file = home / "DevToolsActivePort"
        if file.is_file() and file.read_text().strip():
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    raise RuntimeError("Chromium did not start")


async def _look(port: int, address: str, width: int, dark: bool, script: str, shot: Path | None):
    listed = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    target = next(one for one in json.loads(listed.body) if one["type"] == "page")
    tab = _Tab(await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**28))
    for domain in ("Runtime", "Log", "Network", "Page"):
        await tab.do(f"{domain}.enable")
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    await tab.do("Emulation.setEmulatedMedia", features=scheme)
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    await tab.do("Emulation.setDeviceMetricsOverride", **sizes)
    await tab.do("Page.navigate", url=address)
    await tab.until("Page.loadEventFired")
    found = (await tab.do("Runtime.evaluate", expression=LOOK, returnByValue=True))["result"]["value"]
    answer = None
    if script:
        asked = await tab.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        answer = asked["result"].get("value")
    if shot is not None:
        import base64

        picture = await tab.do("Page.captureScreenshot", captureBeyondViewport=True)
        shot.write_bytes(base64.b64decode(picture["data"]))
    colours = {
        key: tuple(float(part) for part in found[key].strip("rgba()").split(",")) for key in ("paper", "ink")
    }
    requests = tuple(url for url in tab.requests if not url.startswith(("data:", address)))
    return Seen(
        tuple(tab.errors), requests, *(found[key] for key in ("broken", "images", "width")), **colours
    ), answer


class _Tab:
    """One page's end of the protocol: calls, and what was said meanwhile."""

    def __init__(self, socket) -> None:
        self.socket, self.number, self.fired = socket, 0, set()
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def do(self, method: str, **params):
        self.number += 1
        await self.socket.write_message(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = await self._next()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    async def until(self, event: str) -> None:
        while event not in self.fired:
            await self._next()

    async def _next(self) -> dict:
        raw = await asyncio.wait_for(self.socket.read_message(), timeout=120)
        if raw is None:
            raise RuntimeError("the browser hung up")
        message = json.loads(raw)
        name, params = message.get("method", ""), message.get("params", {})
        self.fired.add(name)
        if name == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message
