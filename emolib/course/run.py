"""Run the numbered notebooks in order and write them as pages: `python -m emolib.course`, or `make reports`.

Every notebook runs in the folder it lies in, in a kernel of the Python that runs this.
`OUT/executed/` keeps the notebooks as they ran, `OUT/*.html` the pages, `OUT/index.html` lists them.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        return KernelSpec(argv=argv, env=KERNEL_ENV, display_name="Python 3", language="python")


def find_lessons(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Find the numbered notebooks of `folder` in order, or those whose name begins with one of `only`."""
    lessons = sorted(path for path in folder.glob("*.ipynb") if NUMBERED.fullmatch(path.name))
    if not lessons:
        raise InputError(
            f"no numbered notebook (like 00_name.ipynb) in {str(folder)!r}; name another --notebooks"
        )
    for start in only:
        if not any(path.stem.startswith(start) for path in lessons):
            runtime.one_of(start, [path.stem for path in lessons], "notebook")
    return [path for path in lessons if not only or path.stem.startswith(tuple(only))]


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook as version 4. InputError if it is not one."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        # of JSON that is something else, nbformat says so by any of these
        raise InputError(f"{path} is not a notebook: {first_line(error)}") from None
    return notebook


def has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    """Say whether a cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def read_parameters(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Read names and defaults from the cell tagged `parameters`; {} without one.

    ValueError or SyntaxError: it holds more than `name = literal`."""
    defaults = {}
    for cell in notebook.cells:
        for statement in ast.parse(cell.source).body if has_tag(cell, "parameters") else ():
            match statement:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
                    defaults[name] = ast.literal_eval(value)
                case _:
                    raise ValueError(
                        f"the parameters cell holds more than `name = literal`: {ast.unparse(statement)}"
                    )
    return defaults


def fit_parameters(path: Path, given: Mapping[str, str]) -> dict[str, object]:
    """Turn texts, as given on the command line, into values of the notebook's parameters.

    A text is a Python literal, or itself; where the default is a string, "2024" is itself too. InputError: no
    such parameter, or its default is of another type. papermill itself only warns of an unknown name, and
    then runs with the defaults."""
    try:
        defaults = read_parameters(read_notebook(path))
    except (SyntaxError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{path.name}: {error}") from None
    values = {}
    for name, text in given.items():
        default = defaults[runtime.one_of(name, defaults, f"parameter of {path.name}")]
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if isinstance(default, str) and not isinstance(value, str):
            value = text
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not type(default):
            kind = type(default).__name__
            raise InputError(
                f"{path.name}: parameter {name!r} takes {kind} (like {default!r}), not {value!r}"
            )
        values[name] = value
    return values


def run_lesson(path: Path, target: Path, values: dict[str, object]) -> None:
    """Run one notebook into `target`; the part that ran is there when NotebookFailed is raised."""
    source, failure = read_notebook(path), ""
    filled = [cell for cell in source.cells if cell.cell_type == "code" and cell.source.strip()]
    total = len(filled) + bool(values)
    start, cells = time.monotonic(), runtime.progress(range(total), path.stem)
    part = target.with_name(f".{target.name}")  # another run's front page reads whole notebooks only
    try:
        execute_notebook(
            path,
            part,
            parameters=values,
            cwd=path.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=300,  # seconds until the kernel answers; a busy machine takes long
            kernel_manager_class=OwnKernel,
            on_cell_executed=lambda **_: cells.update(),
        )
    except PapermillExecutionError as error:
        failure = _describe_failure(path, source, values, error)
    except DeadKernelError:
        failure = f"{path.name}: the kernel died after {cells.n} of {total} code cells (out of memory?)"
    finally:
        cells.close()
        if part.exists():
            part.replace(target)
    if failure or cells.n < total:  # exit() in a cell ends a run without an error
        raise NotebookFailed(failure or f"{path.name} stopped after {cells.n} of {total} code cells")
    print(f"{path.stem}: {total} code cells, {time.monotonic() - start:.0f} s", flush=True)


def _describe_failure(
    path: Path, source: nbformat.NotebookNode, values: dict, error: PapermillExecutionError
) -> str:
    """Say what failed and where, as plain text; the cell is counted from 1 among all cells of the file."""
    tagged = [i for i, cell in enumerate(source.cells) if has_tag(cell, "parameters")]
    # papermill puts a cell with the given values right after the one tagged `parameters`
    number = error.cell_index + 1 - (1 if values and tagged and error.cell_index > tagged[0] else 0)
    traceback = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(error.traceback))
    return f"{path.name} failed in cell {number} (In [{error.exec_count}]):\n\n{traceback}"


def write_page(path: Path, out: Path) -> None:
    """Write the page of a notebook that was run, and the front page anew."""
    executed, target = read_notebook(out / "executed" / path.name), out / f"{path.stem}.html"
    page = pages.render_page(executed, path.parent, pages.find_title(executed, path.stem))
    with runtime.atomic_write(target) as temporary:
        temporary.write_text(page.html, encoding="utf-8")
    for note in page.notes:
        print(f"{path.stem}: {note}", flush=True)
    write_front(path.parent, out)


def check_size(page: Path) -> None:
    """Raise NotebookFailed if a page is larger than `pages.PAGE_LIMIT`."""
    size, limit = page.stat().st_size / 1e6, pages.PAGE_LIMIT / 1e6
    if size > limit:
        raise NotebookFailed(f"{page} has {size:.1f} MB; the limit is {limit:g} MB: fewer or smaller figures")


def write_front(folder: Path, out: Path) -> None:
    """List every notebook of `folder` that has a page in `out`, from this run or an earlier one."""
    lessons = []
    for path in find_lessons(folder):
        executed = out / "executed" / path.name
        if executed.is_file() and (out / f"{path.stem}.html").is_file():
            lessons.append((f"{path.stem}.html", read_notebook(executed)))
    with runtime.atomic_write(out / "index.html") as temporary:
        text = front.render_front(lessons, folder.parent / "reports" / "data")
        temporary.write_text(text, encoding="utf-8")


def run_lessons(
    folder: Path, out: Path, only: Sequence[str] = (), given: Mapping[str, str] | None = None
) -> None:
    """Run notebooks and write their pages and the front page, until the first that fails.

    `given` are texts for their parameters, see `fit_parameters`. InputError before anything runs: no such
    notebook or parameter, or nothing can be written in `out`. NotebookFailed when one fails."""
    values = {path: fit_parameters(path, given or {}) for path in find_lessons(folder, only)}
    runtime.check_output(out / "executed", folder=True)
    (out / "executed").mkdir(parents=True, exist_ok=True)
    for path in values:
        try:
            run_lesson(path, out / "executed" / path.name, values[path])
        except NotebookFailed:
            write_page(path, out)  # the part that ran
            raise
        write_page(path, out)
        check_size(out / f"{path.stem}.html")


def run_side_by_side(options: argparse.Namespace) -> int:
    """Run lessons `options.jobs` at a time, each by this command in a process with one thread; return the
    largest exit code. All are run, whichever fails. The seconds that they print are no measurement."""
    folder = options.notebooks or runtime.repo_path("notebooks")
    command = [sys.executable, "-m", "emolib.course", "--out", options.out, "--notebooks", folder]
    command += [part for pair in options.p for part in ("-p", *pair)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}

    def run_one(path: Path) -> int:
        return subprocess.run([*command, "--only", path.stem], env=environment).returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        codes = list(pool.map(run_one, find_lessons(folder, options.only)))
    write_front(Path(folder).resolve(), Path(options.out).resolve())
    return max(codes)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m emolib.course`."""
    parser = argparse.ArgumentParser("python -m emolib.course", description="Run the lessons as notebooks.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="how the names begin, e.g. 01")
    parser.add_argument("--out", type=Path, default="reports", help="folder for pages (default: reports)")
    parser.add_argument("--notebooks", type=Path, help="folder of the notebooks (default: the repository's)")
    beside = "lessons to run at a time, a core each (default: 1)"
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=beside)
    what = "set a notebook parameter; where its default is text, the value is taken as text"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=what)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, 1 if a notebook failed, 2 for bad input or a full disk."""
    options = build_parser().parse_args(arguments)
    try:
        if options.jobs > 1:
            return run_side_by_side(options)
        folder = options.notebooks or runtime.repo_path("notebooks")
        run_lessons(folder.resolve(), options.out.resolve(), options.only, dict(options.p))
    except (InputError, OSError) as error:
        print(f"emolib: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"pages: {options.out / 'index.html'}")
    return 0
