"""House rules for every numbered notebook (design, section 5, rules 11 to 14)."""

import ast
import re
from pathlib import Path
from statistics import median_low

import nbformat
import pytest

from emolib.course import pages, run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebook yet")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tagged(notebook, tag):
    return [i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


def lines(cell):
    return len(cell.source.splitlines())


def test_is_a_valid_numbered_notebook(path, notebook):
    assert run.NUMBERED.fullmatch(path.name), "named NN_words.ipynb, or the runner passes it by"
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_is_committed_without_outputs_or_widget_state(path, notebook):
    assert "widgets" not in notebook.metadata
    assert "vnd.jupyter.widget" not in path.read_text(encoding="utf-8")
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert not [cell for cell in notebook.cells if cell.get("attachments")]


def test_opens_with_a_title(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", prose(notebook), flags=re.S), re.M)) == 1


def test_has_one_setup_cell(notebook):
    assert len(tagged(notebook, "setup")) == 1  # test_setup_cell says what it does


def test_has_one_parameters_cell_of_flat_literals_after_setup(path, notebook):
    cells = tagged(notebook, "parameters")
    assert len(cells) == 1
    assert cells[0] > tagged(notebook, "setup")[0]
    run.fit_parameters(path, {})
    values = run.read_parameters(notebook).values()
    assert values and not [value for value in values if isinstance(value, (dict, set, bytes))]


def test_imports_come_after_the_parameters(notebook):
    start = tagged(notebook, "parameters")[0]
    assert "emolib" in "".join(cell.source for cell in code_cells(notebook))
    for cell in notebook.cells[:start]:
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", []):
            assert "import" not in cell.source
    assert "versions" in "".join(cell.source for cell in notebook.cells[start:])


def test_cells_are_short(path, notebook):
    cells = [cell for cell in code_cells(notebook) if "photographs" not in cell.metadata.get("tags", [])]
    sizes = [lines(cell) for cell in code_cells(notebook) if "setup" not in cell.metadata.get("tags", [])]
    assert max(sizes) <= 25
    assert median_low(sizes) <= 6
    assert len(cells) <= 45
    words = len(re.sub(r"```.*?```|\$\$.*?\$\$", "", prose(notebook), flags=re.S).split())
    assert words <= 3000
    if not path.stem.startswith(("00", "09")):  # the quickstart and the playground may be shorter
        assert len(cells) >= 25 and words >= 1500


@pytest.mark.parametrize("part", ["you will learn", "needs", "what we measured", "exercises", "references"])
def test_has_the_parts_of_a_lesson(notebook, part):
    assert part in prose(notebook).lower()


def test_closes_with_the_same_on_photographs(notebook):
    closing = tagged(notebook, "photographs")
    first, last = closing[0] - 1, closing[-1] + 1
    assert notebook.cells[first].source.startswith("## The same on photographs")
    assert 3 <= last - first + 1 <= 6 and first > max(tagged(notebook, "check"))
    assert notebook.cells[last + 1].source.startswith("## What we measured")
    assert run.read_parameters(notebook)["photographs"] == ""


def test_answers_are_folded(notebook):
    exercises = re.split(r"^#+ exercises", prose(notebook), flags=re.M | re.I)[-1]
    assert "<details>" in exercises and "<summary>" in exercises
    assert prose(notebook).count("<details") == prose(notebook).count("</details>")


def test_check_cells_assert(notebook):
    checks = [notebook.cells[i].source for i in tagged(notebook, "check")]
    assert checks
    for source in checks:
        asserts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
        assert asserts or "assert_" in source, f"a check cell that cannot fail: {source[:60]}"


def test_writes_what_it_measured(path, notebook):
    assert f"{path.stem[:2]}.json" in "".join(cell.source for cell in code_cells(notebook))


def test_code_is_plain_python_with_relative_paths(notebook):
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and i not in tagged(notebook, "setup"):
            ast.parse(cell.source)  # no magics, no shell
            assert not re.search(r"""['"]/(?!content\b)\w+/""", cell.source)


def test_every_formula_can_be_typeset(path, notebook):
    bare = nbformat.v4.new_notebook(cells=[cell for cell in notebook.cells if cell.cell_type == "markdown"])
    notes = pages.render_page(bare, path.parent, path.stem).notes
    assert not [note for note in notes if note.startswith("cannot typeset")]
