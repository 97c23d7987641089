"""emolib.course.run and emolib.course.pages on tiny notebooks made here."""

import base64
import io
import os
import re
import resource
import select
import signal
import subprocess
import sys
from functools import partial

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from emolib.course import pages, run
from emolib.runtime import InputError

FIGURE = "import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 1))\nplt.plot([0, size])\nplt.show()"


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def markdown(source):
    return nbformat.v4.new_markdown_cell(source)


def lesson(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def png(seed=0, side=64, mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two lessons, run once through the command line with a parameter; returns (exit code, output folder)."""
    root = tmp_path_factory.mktemp("good")
    text = "# Faces & *feelings*\n\nWith $\\bar\\alpha_t$ and\n\n$$x_t = \\sqrt{\\bar\\alpha_t}\\,x_0$$"
    text += "\n\ncost: `$5`"
    lesson(
        root / "notebooks",
        "00_first",
        markdown(text),
        code("size = 1\nname = 'a'", "parameters"),
        code(FIGURE),
        code("import os, sys\nprint(sys.executable, os.getcwd(), os.environ['MPLBACKEND'], size)"),
        code("print(os.environ['OMP_WAIT_POLICY'])"),
    )
    lesson(
        root / "notebooks", "01_second", markdown("# Second"), code("size = 1", "parameters"), code("size")
    )
    lesson(root / "notebooks", "scratch", code("raise SystemError('never run')"))
    status = run.main(["--notebooks", str(root / "notebooks"), "--out", str(root / "out"), "-p", "size", "7"])
    return status, root / "out"


def test_runs_in_order_and_writes_pages_and_index(good):
    status, out = good
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "00_first.html",
        "01_second.html",
        "executed",
        "index.html",
    ]
    index = BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert [link["href"] for link in index.select(".card a")] == ["00_first.html", "01_second.html"]
    assert [title.get_text() for title in index.select(".card h2")] == ["Faces & feelings", "Second"]
    assert all(re.fullmatch(r"(under )?\d+\.\d min", p.get_text()) for p in index.select(".card p"))
    assert len(index.select(".card img")) == 1


def test_runs_with_the_given_value_in_this_python_beside_the_notebook(good):
    executed = nbformat.read(good[1] / "executed" / "00_first.ipynb", as_version=4)
    said = executed.cells[-2].outputs[0].text.split()
    assert said[0] == sys.executable
    assert said[1].endswith("/notebooks")
    assert said[2:] == ["module://matplotlib_inline.backend_inline", "7"]
    assert executed.cells[-1].outputs[0].text.strip() == os.environ["OMP_WAIT_POLICY"]


def test_pages_load_nothing(good):
    for path in good[1].glob("*.html"):
        text = path.read_text(encoding="utf-8")
        soup = BeautifulSoup(text, "html.parser")
        policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        assert "default-src 'none'" in policy and "img-src data: blob:;" in policy and "http" not in policy
        assert not re.search(r"""(src|srcset|poster)=["'](?!data:)""", text)
        assert not re.search(r"<(link|iframe|object|embed|base)\b|url\(|@import", text)
        assert not soup.find_all("script")


def test_figures_become_webp_and_formulas_mathml(good):
    page = BeautifulSoup((good[1] / "00_first.html").read_text(encoding="utf-8"), "html.parser")
    pictures = page.select("main img")
    assert len(pictures) == 1
    data = base64.b64decode(pictures[0]["src"].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(data)).format == "WEBP"
    assert [formula["display"] for formula in page.find_all("math")] == ["inline", "block"]
    assert page.find("msqrt") is not None
    assert "$" not in page.find("main").get_text().replace("$5", "")


def test_side_by_side_runs_all_whichever_fails(tmp_path):
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    for name, source in (
        ("00_good", "1"),
        ("01_bad", "1 / 0"),
        ("02_good", "import os\nprint(os.environ['OMP_NUM_THREADS'])"),
    ):
        lesson(folder, name, markdown(f"# {name}"), code(source))
    assert run.main(["--notebooks", str(folder), "--out", str(out), "--jobs", "2"]) == 1
    index = BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert [link["href"] for link in index.select(".card a")] == [
        "00_good.html",
        "01_bad.html",
        "02_good.html",
    ]
    assert sorted(path.name for path in (out / "executed").iterdir()) == [
        f"{n}.ipynb" for n in ("00_good", "01_bad", "02_good")
    ]


def test_failing_cell_stops_the_run_and_is_named(tmp_path, capsys):
    folder = tmp_path / "notebooks"
    cells = [
        markdown("# Bad"),
        code("n = 1", "parameters"),
        code("print('so far')"),
        code("def f():\n    1 / 0\nf()"),
    ]
    lesson(folder, "00_bad", *cells, code("print('never')"))
    lesson(folder, "01_after", code("n = 1", "parameters"))
    assert run.main(["--notebooks", str(folder), "--out", str(tmp_path / "out"), "-p", "n", "2"]) == 1
    error = capsys.readouterr().err
    assert "00_bad.ipynb failed in cell 4 (In [4])" in error
    assert "----> 2     1 / 0" in error and "ZeroDivisionError: division by zero" in error
    assert "\x1b" not in error
    partial = (tmp_path / "out" / "00_bad.html").read_text(encoding="utf-8")
    assert "so far" in partial and "ZeroDivisionError" in partial
    assert "so far" in (tmp_path / "out" / "executed" / "00_bad.ipynb").read_text(encoding="utf-8")
    assert "failed" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "01_after.html").exists()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("import os; os._exit(3)", "kernel died after 1 of 3"),
        ("raise SystemExit", "stopped after 2 of 3 code cells"),
    ],
)
def test_a_run_that_ends_early_is_a_failure(tmp_path, capsys, last, message):
    lesson(tmp_path / "notebooks", "00_ends", code("1"), code(last), code("2"))
    assert run.main(["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "stepz",
            "1",
            "unknown parameter of 01_b.ipynb 'stepz'; did you mean 'steps'? known: steps, scale, who",
        ),
        ("steps", "many", "00_a.ipynb: parameter 'steps' takes int (like 1), not 'many'"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, capsys, name, value, message):
    folder = tmp_path / "notebooks"
    lesson(folder, "00_a", code("steps = 1\nstepz = 2", "parameters"))
    lesson(folder, "01_b", code("steps: int = 3\nscale = 1.5\nwho = None", "parameters"))
    assert run.main(["--notebooks", str(folder), "--out", str(tmp_path / "out"), "-p", name, value]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["not json", "[]", "null", '{"cells": null, "metadata": {}, "nbformat": 4}'])
def test_what_is_no_notebook_is_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "00_a.ipynb").write_text(text)
    assert run.main(["--notebooks", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "00_a.ipynb is not a notebook" in said and len(said.splitlines()) == 1


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    path = lesson(tmp_path / "notebooks", "00_a", code("1"))
    assert run.main(["--notebooks", str(path.parent), "--out", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    nbformat.validate(nbformat.read(path, as_version=4))


def test_a_disk_that_takes_no_more_is_one_line(tmp_path, capsys):
    lesson(tmp_path / "notebooks", "00_a", code("1"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        status = run.main(["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert status == 2 and "File too large" in said and len(said.splitlines()) == 1


def test_parameters_become_what_the_notebook_takes(tmp_path):
    cell = "steps = 3\nscale = 1.5\nwho = None\nflip = True\nname: str = 'a'\nsides = [1]"
    path = lesson(tmp_path, "00_a", code(cell, "parameters"))
    given = {"steps": "4", "scale": "2", "who": "x", "flip": "False", "name": "2024", "sides": "[2, 3]"}
    fitted = {"steps": 4, "scale": 2.0, "who": "x", "flip": False, "name": "2024", "sides": [2, 3]}
    assert run.fit_parameters(path, given) == fitted
    assert run.fit_parameters(path, {"name": "'3'", "who": "3"}) == {"name": "3", "who": 3}
    with pytest.raises(InputError, match="takes bool"):
        run.fit_parameters(path, {"flip": "1"})
    with pytest.raises(InputError, match="unknown parameter of 01_b.ipynb"):
        run.fit_parameters(lesson(tmp_path, "01_b", code("steps = 3")), {"steps": "1"})
    with pytest.raises(InputError, match="02_c.ipynb: the parameters cell holds more"):
        run.fit_parameters(lesson(tmp_path, "02_c", code("import os", "parameters")), {})


def test_choosing_notebooks(tmp_path, capsys):
    for name in ("01_b", "00_a", "draft", "1_x"):
        lesson(tmp_path, name)
    assert [path.name for path in run.find_lessons(tmp_path)] == ["00_a.ipynb", "01_b.ipynb"]
    assert [path.name for path in run.find_lessons(tmp_path, ["01"])] == ["01_b.ipynb"]
    with pytest.raises(InputError, match="unknown notebook '07'; known: 00_a, 01_b"):
        run.find_lessons(tmp_path, ["00", "07"])
    assert run.main(["--notebooks", str(tmp_path / "none")]) == 2
    assert "no numbered notebook" in capsys.readouterr().err


def test_an_interrupt_of_a_running_cell_is_one_line_and_ends_the_kernel(tmp_path):
    """The cell itself says when to interrupt: it has written its process's number."""
    cell = "import os, time\nopen('started', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    folder = lesson(tmp_path / "notebooks", "00_a", code(cell)).parent
    command = [sys.executable, "-m", "emolib.course", "--notebooks", folder, "--out", tmp_path / "out"]
    os.mkfifo(folder / "started")
    started = os.open(folder / "started", os.O_RDONLY | os.O_NONBLOCK)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs are deaf
    with subprocess.Popen(command, preexec_fn=heeded, **pipes) as process:
        assert select.select([started], [], [], 300)[0]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert said == "emolib: interrupted\n" and process.returncode in (130, -signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(int(os.read(started, 20)), 0)
    os.close(started)


def picture_output(data):
    return nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(data).decode()})


def test_a_page_over_the_limit_is_named(tmp_path, monkeypatch):
    cell = code("")
    cell.outputs = [picture_output(png())]
    target = lesson(tmp_path, "00_a", cell)
    (tmp_path / "out" / "executed").mkdir(parents=True)
    lesson(tmp_path / "out" / "executed", "00_a", cell)
    monkeypatch.setattr(pages, "PAGE_LIMIT", 5_000)
    run.write_page(target, tmp_path / "out")
    with pytest.raises(run.NotebookFailed, match=r"00_a\.html has .* MB; the limit is 0\.005 MB"):
        run.check_size(tmp_path / "out" / "00_a.html")


def test_what_a_page_would_load_is_cut(tmp_path):
    (tmp_path / "near.png").write_bytes(png())
    source = (
        "<details><summary>Answer</summary>\n\ninside $x$\n\n</details>\n\n[![Open in Colab](https://example.org/badge.svg)](https://example.org/x)\n\n![near](near.png)\n\n"
        "<script src='https://example.org/a.js'></script><link href='a.css'><b>bold</b>"
    )
    cell = code("")
    frame = "<iframe src='https://example.org'></iframe><video><source src='a.mp4'></video>kept"
    cell.outputs = [nbformat.v4.new_output("display_data", data={"text/html": frame})]
    page = pages.render_page(nbformat.v4.new_notebook(cells=[markdown(source), cell]), tmp_path, "x")
    soup = BeautifulSoup(page.html, "html.parser")
    assert "inside" in soup.find("details").get_text() and soup.find("details").find("math")
    assert soup.find("a", string="Open in Colab")["href"] == "https://example.org/x"
    assert [picture["src"][:16] for picture in soup.find_all("img")] == ["data:image/webp;"]
    assert "kept" in soup.get_text() and "bold" in soup.get_text()
    assert not soup.find_all(["script", "link", "iframe", "source"])
    assert [note.split()[2] for note in page.notes] == ["script", "link", "iframe", "source"]


def test_a_progress_line_that_wiped_itself_out_leaves_no_box(tmp_path):
    cell = code("")
    said = ("\rtraining: 50%", "\r             \r", "a warning\n")
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text=text) for text in said[:2]]
    other = code("")
    other.outputs = [nbformat.v4.new_output("stream", name="stderr", text=said[2])]
    page = pages.render_page(nbformat.v4.new_notebook(cells=[cell, other]), tmp_path, "x")
    boxes = BeautifulSoup(page.html, "html.parser").select(".output_stderr")
    assert [box.get_text().strip() for box in boxes] == ["a warning"]


def test_pictures_are_made_smaller_and_stay_the_same_picture():
    flat = np.zeros((64, 64, 4), np.uint8)
    flat[16:48, 16:48] = (200, 30, 60, 255)
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    small = pages.shrink(source)
    assert len(small) < len(source)
    seen = Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))).convert("RGBA")
    assert np.array_equal(np.asarray(seen)[20:40, 20:40], flat[20:40, 20:40])
    assert np.asarray(seen)[0, 0, 3] == 0
    svg = "data:image/svg+xml;base64,AAAA"
    assert pages.shrink(svg) == svg


def test_formulas():
    assert pages.typeset(r"\epsilon_\theta(x_t, t)").startswith("<math")
    assert "<mo>arg</mo>" in pages.typeset(r"\arg\min_\phi \|x\|", "block")
    assert "&#x1D4A9;" in pages.typeset(r"\mathcal N(0, 1)")
    for raised in (r"\lVert a \rVert_1", r"\Big(\frac{a}{b}\Big)^{\top}", r"\big\|a\big\|^2", "(a + b)^2"):
        assert re.search(r"<msu[bp]><mrow>", pages.typeset(raised)), "the bracket pair is raised as a whole"
    for left in (r"\left(a\right)^2", r"\bigl(a\bigr)^2", r"\left\lVert a \right\rVert^2"):
        assert pages.RAISED.sub("", left) == left
    for wrong in (r"\undefinedthing{a}", r"\left( a", r"\frac{1}{2"):
        with pytest.raises(ValueError, match="cannot typeset"):
            pages.typeset(wrong)
    page = pages.render_page(nbformat.v4.new_notebook(cells=[markdown(r"so $\undefinedthing{a}$")]), ".", "x")
    assert r"<code>\undefinedthing{a}</code>" in page.html
    assert page.notes == (r"cannot typeset \undefinedthing in '\\undefinedthing{a}'",)


@pytest.mark.parametrize(("seconds", "words"), [(0, "under 0.1 min"), (6, "0.1 min"), (93, "1.6 min")])
def test_cost_in_words(seconds, words):
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": seconds}})
    assert pages.describe_cost(notebook) == words
