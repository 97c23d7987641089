"""Run the numbered notebooks in order and write them as pages: `python -m emolib.course`, or `make reports`.

Every notebook runs in the folder it lies in, in a kernel of the Python that runs this.
`OUT/executed/` keeps the notebooks as they ran, `OUT/*.html` the pages, `OUT/index.html` lists them.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from emolib import runtime
from emolib.course import front, pages
from emolib.runtime import InputError, first_line

NUMBERED = re.compile(r"\d\d_\w+\.ipynb")
EVERY = 10.0  # seconds between progress lines
KERNEL_ENV = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONPATH": f"{Path(__file__).resolve().parents[2]}{os.pathsep}${{PYTHONPATH}}",
    "PYTHONHASHSEED": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class NotebookFailed(RuntimeError):
    """A cell raised, or the kernel died; the message is plain text for a terminal."""


class OwnKernel(AsyncKernelManager):
    """A kernel of the running Python: an installed one called python3 may belong to another environment."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, env=KERNEL_ENV, display_name="Python 3", language="python")


def find(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks of `folder` in order, or those whose name begins with one of `only`."""
    known = sorted(path for path in folder.glob("*.ipynb") if NUMBERED.fullmatch(path.name))
    if not known:
        raise InputError(
            f"no numbered notebook (like 00_name.ipynb) in {str(folder)!r}; name another --notebooks"
        )
    for start in only:
        if not any(path.stem.startswith(start) for path in known):
            runtime.one_of(start, [path.stem for path in known], "notebook")
    return [path for path in known if not only or path.stem.startswith(tuple(only))]


def read(path: Path) -> nbformat.NotebookNode:
    """Open a notebook as version 4. Raises InputError if it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a notebook: {first_line(error)}") from None


def parameters_of(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Names and default values in the cell tagged `parameters`, which holds literals only; {} without one."""
    found: dict[str, object] = {}
    for cell in notebook.cells:
        if "parameters" not in cell.metadata.get("tags", []):
            continue
        for statement in ast.parse(cell.source).body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if isinstance(statement, ast.AnnAssign):
                target = statement.target
            if not isinstance(target, ast.Name):
                raise ValueError(
                    f"the parameters cell holds more than `name = literal`: {ast.unparse(statement)}"
                )
            found[target.id] = ast.literal_eval(statement.value)
    return found


def check_parameters(path: Path, given: dict[str, object]) -> None:
    """Raise InputError if the notebook has no parameter of a given name, or its default is of another type.

    papermill itself only warns of an unknown name, and then runs with the defaults."""
    try:
        known = parameters_of(read(path))
    except (SyntaxError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path.name}: {error}") from None
    for name, value in given.items():
        if not known:
            raise InputError(f"{path.name} has no parameters cell, so {name!r} cannot be set")
        default = known[runtime.one_of(name, known, f"parameter of {path.name}")]
        numbers = isinstance(default, float) and type(value) is int
        if default is not None and type(value) is not type(default) and not numbers:
            kind = type(default).__name__
            raise InputError(
                f"{path.name}: parameter {name!r} takes {kind} (like {default!r}), not {value!r}"
            )


def execute(path: Path, target: Path, given: dict[str, object]) -> nbformat.NotebookNode:
    """Run one notebook, saving it to `target` as it goes; what ran is there when NotebookFailed is raised."""
    source = read(path)
    progress = _Progress(path.stem, sum(1 for cell in source.cells if _runs(cell)) + bool(given))
    try:
        done = execute_notebook(
            path,
            target,
            parameters=given,
            cwd=path.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=300,  # seconds until the kernel answers; a busy machine takes long
            kernel_manager_class=OwnKernel,
            on_cell_executed=progress.step,
        )
    except PapermillExecutionError as error:
        raise NotebookFailed(_failure(path, source, given, error)) from None
    except DeadKernelError:
        where = f"after {progress.done} of {progress.total} code cells"
        raise NotebookFailed(f"{path.name} failed: the kernel died {where} (out of memory?)") from None
    if progress.done < progress.total:  # exit() in a cell ends a run without an error
        raise NotebookFailed(f"{path.name} stopped after {progress.done} of {progress.total} code cells")
    return done


def _runs(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _failure(path: Path, source: nbformat.NotebookNode, given: dict, error: PapermillExecutionError) -> str:
    """What failed and where, as plain text; the cell is counted from 1 among all cells of the file."""
    tagged = [i for i, cell in enumerate(source.cells) if "parameters" in cell.metadata.get("tags", [])]
    # papermill puts a cell with the given values right after the one tagged `parameters`
    number = error.cell_index + 1 - (1 if given and tagged and error.cell_index > tagged[0] else 0)
    traceback = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(error.traceback))
    return f"{path.name} failed in cell {number} (In [{error.exec_count}]):\n\n{traceback}"


class _Progress:
    """A line of plain text now and then, e.g. `00_quickstart: 12/30 cells, 45 s`."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.start = self.last = time.monotonic()
        print(f"{name}: {total} cells", flush=True)

    def step(self, cell: nbformat.NotebookNode, **_: object) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last > EVERY or self.done == self.total:
            self.last = now
            print(f"{self.name}: {self.done}/{self.total} cells, {now - self.start:.0f} s", flush=True)


def write_page(path: Path, executed: nbformat.NotebookNode, out: Path) -> None:
    """Write the page of an executed notebook, and the index anew."""
    target = out / f"{path.stem}.html"
    page = pages.render_page(executed, path.parent, pages.find_title(executed, path.stem))
    with runtime.atomic_write(target) as temporary:
        temporary.write_text(page.html, encoding="utf-8")
    for note in page.notes:
        print(f"{path.stem}: {note}", flush=True)
    write_index(path.parent, out)


def check_size(target: Path) -> None:
    """Raise NotebookFailed if a page is larger than `pages.PAGE_LIMIT`."""
    size = target.stat().st_size
    if size > pages.PAGE_LIMIT:
        limit = pages.PAGE_LIMIT / 1e6
        raise NotebookFailed(
            f"{target} has {size / 1e6:.1f} MB; the limit is {limit:g} MB: fewer or smaller figures"
        )


def write_index(folder: Path, out: Path) -> None:
    """List every notebook of `folder` that has a page in `out`, from this run or an earlier one."""
    lessons = []
    for path in find(folder):
        executed = out / "executed" / path.name
        if executed.is_file() and (out / f"{path.stem}.html").is_file():
            lessons.append((f"{path.stem}.html", read(executed)))
    with runtime.atomic_write(out / "index.html") as temporary:
        temporary.write_text(
            front.render_front(lessons, folder.parent / "reports" / "data"), encoding="utf-8"
        )


def run(folder: Path, out: Path, only: Sequence[str] = (), given: dict[str, object] | None = None) -> None:
    """Run notebooks and write their pages and the index, until the first that fails.

    Raises InputError before anything runs (no such notebook or parameter), NotebookFailed when one fails."""
    given = given or {}
    chosen = find(folder, only)
    for path in chosen:
        check_parameters(path, given)
    (out / "executed").mkdir(parents=True, exist_ok=True)
    for path in chosen:
        target = out / "executed" / path.name
        try:
            execute(path, target, given)
        except NotebookFailed:
            write_page(path, read(target), out)  # the part that ran
            raise
        write_page(path, read(target), out)
        check_size(out / f"{path.stem}.html")


def literal(text: str) -> object:
    """A value from the command line: a Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0, 1 if a notebook failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m emolib.course", description="Run the lessons as notebooks."
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="how the wanted names begin, e.g. 01"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("reports"), help="folder for pages (default: reports)"
    )
    parser.add_argument("--notebooks", type=Path, help="folder of the notebooks (default: the repository's)")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a notebook parameter"
    )
    options = parser.parse_args(arguments)
    try:
        folder = options.notebooks or runtime.repo_path("notebooks")
        given = {name: literal(value) for name, value in options.p}
        run(folder.resolve(), options.out.resolve(), options.only, given)
    except InputError as error:
        print(f"emolib: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"pages: {options.out / 'index.html'}")
    return 0
