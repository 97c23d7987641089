"""The playground in a real browser: JupyterLab on loopback, Chromium without a network.

`pytest tests/test_playground_browser.py --screenshot docs/playground.webp` makes the README's picture.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
pytest.importorskip("anywidget", reason="needs anywidget: pip install -e '.[notebooks]'")

ROOT = Path(__file__).resolve().parents[1]
LONG = 300_000  # ms: loading torch and a model on a busy machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
# What the page shows of each person: mean grey and a checksum of the pixels in their face box.
FACES = """() => {
  const image = document.querySelector('.stage > img[alt="after the edit"]');
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const paper = canvas.getContext('2d');
  paper.drawImage(image, 0, 0);
  return [...document.querySelectorAll('.face')].map((face) => {
    const [x, y, w, h] = ['left', 'top', 'width', 'height'].map((side, i) =>
      Math.round(parseFloat(face.style[side]) / 100 * (i % 2 ? canvas.height : canvas.width)));
    return [...paper.getImageData(x, y, w, h).data].reduce((sum, v, i) => (sum * 31 + v + i) % 1000000007, 7);
  });
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


BADGE = "https://colab.research.google.com/"


def is_fault(line):
    """An error in the console, other than that the badge "Open in Colab" cannot be fetched here."""
    return line.type == "error" and not line.location["url"].startswith(BADGE)


@pytest.fixture
def page(browser):
    """A page 1360 x 1000 that collects what goes wrong in `page.wrong`."""
    context = browser.new_context(viewport={"width": 1360, "height": 1000}, device_scale_factor=1.5)
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda line: page.wrong.append(line.text) if is_fault(line) else None)
    yield page
    context.close()


def lesson(folder, preview, full):
    """The lesson up to its playground, with so many steps."""
    notebook = nbformat.read(ROOT / "notebooks" / "09_playground.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(notebook.cells) if "Playground(" in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    given = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    given.source += f"\npreview_steps, full_steps = {preview}, {full}"
    nbformat.write(notebook, folder / "lesson.ipynb")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, request):
    """The address of the lesson in a JupyterLab of its own."""
    folder = tmp_path_factory.mktemp("lab")
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
    }
    for name, values in settings.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    lesson(folder, *((12, 20) if request.config.getoption("--screenshot") else (2, 3)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(folder / name.lower()) for name in places}
    home = folder / "home"  # a clone of its own, to save into
    home.mkdir()
    (home / "data").symlink_to(ROOT / "data")
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "EMOLIB_HOME": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    token = secrets.token_hex(8)
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={folder}",
    ]
    options += [f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, folder / "log")
            yield f"http://127.0.0.1:{port}/lab/tree/lesson.ipynb?token={token}", home
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address, server, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except OSError:
            time.sleep(0.5)  # a server starts in its own time
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def settled(page):
    """Wait until the page shows, in full quality, what its controls ask for; returns what it shows."""
    page.wait_for_function(
        "() => { const s = document.querySelector('.stage'); return s && s.dataset.settled === 'true'"
        " && [...s.querySelectorAll('img')].every((i) => i.complete) }",
        timeout=LONG,
    )
    return page.evaluate(FACES)


def drag(page, locator, start, end):
    box = locator.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=8)
    page.mouse.up()


def run_all(page, address, log, tries=2, seconds=150):
    """Open the lesson, run every cell and return the playground.

    A click that came before the kernel was ready is made again. A page without a playground in time is
    loaded anew once, as one would; then, or at a cell's error, the test fails with what the page shows.
    """
    play, error = (
        page.locator(".emolib-playground"),
        page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)"),
    )
    kernel = page.locator(".jp-Dialog .jp-mod-accept")  # JupyterLab asks for it if it is not there yet
    begun = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(tries):
        page.goto(address, timeout=LONG)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=LONG)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not error.count():
            if kernel.is_visible():
                kernel.click()
            elif not begun.count():
                page.get_by_role("menuitem", name="Run", exact=True).click()
                page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            with contextlib.suppress(playwright.TimeoutError):
                play.wait_for(timeout=10_000)
                return play
        shown = page.locator(".jp-Notebook").inner_text()[-4000:]
        said = f"console: {page.wrong}\nserver: {log.read_text()[-2000:]}"
        print(f"no playground; the page shows:\n{shown}\n{said}")
        if error.count():
            break
    pytest.fail(f"no playground; the page shows:\n{shown}\n{said}")


def test_in_jupyterlab(lab, page, request):
    address, home = lab
    play = run_all(page, address, log=home.parent / "log")
    play.scroll_into_view_if_needed()
    one = settled(page)
    assert len(one) == 3

    # The strength slider changes person 1, and nobody else.
    drag(page, play.locator("input.strength"), 0.74, 0.5)
    two = settled(page)
    assert two[0] != one[0] and two[1:] == one[1:]

    # Another person, picked by a click on the face.
    play.get_by_role("button", name="person 2").click()
    three = settled(page)
    assert three[1] != two[1] and three[::2] == two[::2]
    assert "person 2" in play.locator(".bars h4").inner_text()

    # The wheel by keyboard, the divider by mouse.
    felt = play.locator("select.emotion").input_value()
    play.locator("svg.wheel").press("ArrowRight")
    four = settled(page)
    playwright.expect(play.locator("select.emotion")).not_to_have_value(felt)
    assert four[1] != three[1] and four[::2] == three[::2]
    knob = play.locator(".knob")
    before = knob.bounding_box()["x"]
    drag(page, play.locator(".divider"), 0.5, 6)
    assert knob.bounding_box()["x"] > before + 50

    # A broken upload is one line, and the playground lives on.
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    play.locator("input.upload").set_input_files(broken)
    error = play.locator(".error")
    playwright.expect(error).to_contain_text("broken.png: not a picture", timeout=LONG)
    assert "\n" not in error.inner_text()
    play.locator("select.emotion").select_option("amusement")
    five = settled(page)
    playwright.expect(error).to_be_empty()
    assert five[1] != four[1] and five[::2] == four[::2]

    # The strip, the picture for the README, and a saved recipe.
    play.locator(".strip button").nth(4).wait_for(timeout=LONG)
    picture(page, play, request.config.getoption("--screenshot"))
    play.locator("button.save").click()
    playwright.expect(play.locator(".state")).to_contain_text("emolib edit --from", timeout=LONG)
    assert len(list((home / "outputs" / "playground").glob("*.json"))) == 1
    assert page.wrong == []


def picture(page, play, path):
    if path:
        page.mouse.move(0, 0)
        page.wait_for_timeout(8000)  # the strip follows the picture, the bars their transition
        Image.open(io.BytesIO(play.screenshot())).convert("RGB").save(path, quality=90)


def test_the_exported_page_needs_no_kernel_and_no_network(page, tmp_path):
    from playground_standins import still_page

    page.context.set_offline(True)
    loads = []
    page.on("request", lambda request: loads.append(request.url))
    path = tmp_path / "page.html"
    path.write_text(still_page(), encoding="utf-8")
    page.goto(path.as_uri())
    layers = page.locator(".stage .layers img")
    first = layers.first.get_attribute("src")
    slider = page.locator("input.strength")
    slider.press("End")
    playwright.expect(layers.first).not_to_have_attribute("src", first)
    slider.press("Home")
    playwright.expect(layers).to_have_count(0)  # strength 0 is the source
    slider.press("ArrowRight")
    playwright.expect(layers.first).to_have_attribute("src", first)
    page.get_by_role("button", name="person 2").click()
    playwright.expect(layers).to_have_count(2)
    page.locator("svg.wheel").press("ArrowRight")
    playwright.expect(page.locator("select.emotion")).to_have_value("anger")
    assert [url for url in loads if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.wrong == []
