"""The front page of a made-up course, and every page there is, as a browser sees them."""

import base64
import io
import json
from pathlib import Path

import browser
import nbformat
import pytest
from board_standins import write_board
from bs4 import BeautifulSoup
from PIL import Image

from emolib.course import front, pages
from emolib.runtime import InputError, write_json

REPORTS = Path(__file__).resolve().parents[1] / "reports"
PAGES = sorted(REPORTS.glob("*.html"))
needs_chromium = pytest.mark.skipif(browser.chromium() is None, reason="no Chromium on this machine")


def write_site(out, data):
    """index.html of one lesson with a figure, and that lesson's page."""
    figure = {"image/png": _png()}
    cells = [nbformat.v4.new_markdown_cell("# 00 · Faces & more"), nbformat.v4.new_code_cell("1")]
    cells[1].outputs = [nbformat.v4.new_output("display_data", data=figure)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    made = {"index.html": front.render_front([("00_faces.html", notebook)], data)}
    made["00_faces.html"] = pages.render_page(notebook, out, "Faces & more").html
    for name, text in made.items():
        (out / name).write_text(text, encoding="utf-8")


def _png(colour="teal"):
    buffer = io.BytesIO()
    Image.new("RGB", (640, 200), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    home = tmp_path_factory.mktemp("site")
    data = home / "data"
    write_board(data / "leaderboard")
    rows = [{"name": "edits <recognised>", "value": 0.92, "low": 0.83, "high": 0.97, "n": 64}]
    write_json(data / "00.json", {"lesson": "00", "headline": rows[0]["name"], "measured": rows})
    write_site(home, data)
    return home


def soup_of(site):
    return BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser")


def test_a_lesson_has_its_figure_cost_and_headline_number(site):
    (card,) = soup_of(site).select(".card")
    assert card.find("a")["href"] == "00_faces.html"
    assert card.find("h2").get_text() == "00 · Faces & more"
    assert card.find("img")["src"].startswith("data:image/webp")
    assert card.select_one(".number").get_text() == "edits <recognised>: 0.92 [0.83, 0.97], n = 64"
    assert "min" in card.get_text()


def test_the_leaderboard_has_every_method_with_its_interval(site):
    table = soup_of(site).select_one(".board")
    assert [th.get_text() for th in table.select("tbody th")] == ["nothing", "img2img", "ddim", "truth"]
    names = [small.get_text() for small in table.select("thead th small")]
    assert names == ["emo_a", "same_person", "truth_psnr", "sharpness", "joint"]  # beats_nothing is not there
    cell = table.select("tbody tr")[1].select("td")[0]
    assert cell.find("b").get_text() == "0.95" and cell.find("small").get_text() == "[0.85, 1.00]"
    assert cell.find("i")["style"] == "left:85.0%;width:15.0%" and cell["title"] == "n = 16"
    assert table.select("tbody tr")[3].select("td")[2].get_text().startswith("∞")
    assert "At <32> px" in soup_of(site).get_text()


def test_complaints_and_comparisons(site):
    soup = soup_of(site)
    verdicts = [td.get_text() for td in soup.select(".answers td:nth-child(2)")]
    assert len(verdicts) == 7 and set(verdicts) <= {"solved", "open", "not solved", "not measured"}
    assert verdicts[3] == verdicts[5] == verdicts[6] == "not measured"  # no scenes, no lesson 02, no asyrp
    (compare,) = soup.select(".compare")
    options = compare.select("option")
    assert [o.get_text() for o in options] == ["true answer ✓", "img2img ✗", "ddim"]
    assert compare.select("img")[1]["src"] == options[1]["value"] != compare.select("img")[0]["src"]


def test_without_a_leaderboard_there_is_none(tmp_path):
    write_site(tmp_path, tmp_path / "nothing")
    assert not soup_of(tmp_path).select("h2#leaderboard, script, .number, .compare")


def test_a_board_of_bounds_alone_has_no_answers(tmp_path):
    write_board(tmp_path / "leaderboard")
    file = tmp_path / "leaderboard" / "leaderboard.json"
    board = json.loads(file.read_text())
    board["methods"] = {name: board["methods"][name] for name in ("nothing", "truth")}
    file.write_text(json.dumps(board))
    soup = BeautifulSoup(front.render_front([], tmp_path), "html.parser")
    assert soup.select(".board") and not soup.select(".answers, .compare, script")


def test_a_headline_of_one_person_has_no_interval(tmp_path):
    row = {"name": "seen", "value": 0.5, "low": None, "high": None, "n": 4}
    write_json(tmp_path / "00.json", {"headline": "seen", "measured": [row]})
    assert front.describe_headline(tmp_path / "00.json") == "seen: 0.5 [?, ?], n = 4"


def test_a_tagged_cell_gives_the_lessons_picture():
    cells = [nbformat.v4.new_code_cell(str(i)) for i in range(2)]
    for cell, colour in zip(cells, ("teal", "red"), strict=True):
        cell.outputs = [nbformat.v4.new_output("display_data", data={"image/png": _png(colour)})]
    notebook = nbformat.v4.new_notebook(cells=cells)

    def shade():
        with Image.open(
            io.BytesIO(base64.b64decode(pages.find_cover(notebook).partition(",")[2]))
        ) as picture:
            return picture.convert("RGB").getpixel((9, 9))

    assert shade()[0] < 20
    cells[1].metadata["tags"] = ["cover"]
    assert shade()[0] > 230


def test_a_lesson_without_a_headline_shows_none(tmp_path):
    assert front.describe_headline(tmp_path / "00.json") is None
    (tmp_path / "00.json").write_text('{"measured": []}')
    assert front.describe_headline(tmp_path / "00.json") is None
    (tmp_path / "00.json").write_text("{")
    with pytest.raises(InputError, match="00.json"):
        front.describe_headline(tmp_path / "00.json")


def test_the_numbers_that_ship_fill_the_page():
    """A lesson that no longer names its headline, or a board without a column, is missed here."""
    notebooks = sorted((REPORTS.parent / "notebooks").glob("*.ipynb"))
    lessons = [(f"{path.stem}.html", nbformat.read(path, as_version=4)) for path in notebooks]
    soup = BeautifulSoup(front.render_front(lessons, REPORTS / "data"), "html.parser")
    assert len(soup.select(".card .number")) == len(notebooks) > 5
    assert [small.get_text() for small in soup.select(".board thead small")] == list(front.COLUMNS)
    verdicts = {td.get_text() for td in soup.select(".answers td:nth-child(2)")}
    assert len(soup.select(".answers tbody tr")) == 7 and verdicts <= {"solved", "open", "not solved"}
    assert soup.select(".compare option")


def check(page, *, width, dark):
    seen, _ = browser.look(page, width=width, dark=dark)
    assert seen.errors == () and seen.requests == () and seen.broken == 0
    assert seen.width <= width, "the page scrolls sideways"
    light, ink = sum(seen.paper[:3]), sum(seen.ink[:3])
    assert (light < ink) == dark and abs(light - ink) > 300
    return seen


@needs_chromium
def test_a_browser_has_nothing_to_complain_of(site):
    assert check(site / "index.html", width=browser.DESK, dark=False).images == 3
    check(site / "00_faces.html", width=browser.PHONE, dark=True)


@needs_chromium
def test_the_slider_and_the_choice_work_from_a_file(site):
    script = """(() => {
      const box = document.querySelector(".compare"), range = box.querySelector("input");
      range.value = 80; range.dispatchEvent(new Event("input"));
      const pick = box.querySelector("select");
      pick.selectedIndex = 2; pick.dispatchEvent(new Event("change"));
      const after = box.querySelector(".after");
      return [getComputedStyle(after).clipPath, after.src === pick.value];
    })()"""
    seen, (clip, changed) = browser.look(site / "index.html", width=browser.PHONE, script=script)
    assert changed and "80%" in clip and seen.errors == () and seen.width <= browser.PHONE


@needs_chromium
def test_the_check_finds_what_is_wrong(tmp_path):
    page = tmp_path / "bad.html"
    bad = "<img src='https://example.org/x.png'><img src='data:image/png;base64,AA'>"
    bad += "<p style='width:900px'>x</p>"
    page.write_text(f"<!DOCTYPE html><body>{bad}<script>console.error('no'); missing()</script>")
    seen, _ = browser.look(page, width=browser.PHONE)
    assert len(seen.errors) >= 2 and "https://example.org/x.png" in seen.requests
    assert seen.broken == 2 and seen.width > browser.PHONE


@needs_chromium
@pytest.mark.skipif(not PAGES, reason="no page was made yet; `make reports` makes them")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_page_of_the_reports(page):
    assert page.stat().st_size <= pages.PAGE_LIMIT
    check(page, width=browser.PHONE, dark=True)
    check(page, width=browser.DESK, dark=False)
