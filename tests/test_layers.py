"""The shape of the package: imports go downward, layer 0 stays light, the judge knows no contestant."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "emolib"

# Design: module or subpackage -> floor. A room imports rooms of lower floors; three stand side by side in the
# middle (editors, training, judges) and do not know each other; shells are what a person calls.
FLOORS = (
    ("runtime",),
    ("emotions",),
    ("images",),
    ("data",),
    ("diffusion", "metrics"),
    ("interventions",),
    ("editors", "training", "judges"),
    ("evaluation",),
    ("playground",),
    ("cli", "course"),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
KNOW_DIFFUSERS = ("diffusion", "interventions", "training", "editors")


def modules():
    """Every module file with its first name under emolib, e.g. (…/data/manifest.py, "data")."""
    found = [path for path in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in path.parts]
    return [(path, path.relative_to(PACKAGE).with_suffix("").parts[0]) for path in found]


def imports(path):
    """Absolute dotted names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{_base(node, path)}.{alias.name}" for alias in node.names}
    return names


def _base(node, path):
    if not node.level:
        return node.module
    package = path.relative_to(ROOT).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def internal(path):
    """First names under emolib that a module imports."""
    names = (name.split(".") for name in imports(path) if name.startswith("emolib."))
    return {parts[1] for parts in names if not parts[1].startswith("__")}


MODULES = modules()
IDS = [str(path.relative_to(PACKAGE)) for path, _ in MODULES]


def test_every_module_has_a_layer():
    unknown = {first for _, first in MODULES} - set(FLOOR) - {"__init__"}
    assert not unknown, f"put {sorted(unknown)} into the table above, and into the design"


@pytest.mark.parametrize(("path", "first"), MODULES, ids=IDS)
def test_imports_go_downward(path, first):
    others = internal(path) - {first}
    assert first != "__init__" or not others, "nothing is re-exported"
    above = {other for other in others if FLOOR[other] >= FLOOR[first]}
    assert not above, f"{path.name} (of {first}) must not import {sorted(above)}"


def reached(start):
    """Module files that those in the folder `start` import, directly or through others."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path, _ in MODULES}
    waiting, seen = [path for path in files.values() if start in path.parents], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        named = {name for name in imports(path) if name.startswith("emolib.")}
        named |= {name.rpartition(".")[0] for name in named}
        waiting += [files[name] for name in named & set(files) if files[name] not in seen]
    return seen


def test_no_judge_imports_a_contestant():
    seen = {path.relative_to(PACKAGE).parts[0] for path in reached(PACKAGE / "judges")}
    assert {"judges", "images.py", "emotions", "data"} <= seen
    assert not seen & {"editors", "training", "interventions", "diffusion", "evaluation"}


def test_no_module_imports_itself_through_others():
    graph = {}
    for path, first in MODULES:
        graph.setdefault(first, set()).update(internal(path) - {first})
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    assert done == set(graph)


@pytest.mark.parametrize(("path", "first"), MODULES, ids=IDS)
def test_only_the_layers_that_know_diffusers_import_it(path, first):
    if first not in KNOW_DIFFUSERS or path.name == "sampling.py":
        assert not [name for name in imports(path) if name.split(".")[0] == "diffusers"]


def test_sampling_needs_torch_alone():
    path = PACKAGE / "diffusion" / "sampling.py"
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert foreign == {"torch"}


def test_package_files_hold_no_re_exports():
    for path in PACKAGE.rglob("__init__.py"):
        assert not imports(path) - {"__future__.annotations", "os"}, (
            f"{path.relative_to(ROOT)} imports something"
        )


def in_a_fresh_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_layer_0_loads_no_torch():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, first in MODULES
        if first in ("runtime", "emotions") and path.name != "__init__.py"
    ]
    assert {"emolib.runtime", "emolib.emotions.sets"} <= set(names)
    load = f"for name in {names}: importlib.import_module(name)"
    code = f"import importlib, sys\n{load}\nprint('torch' in sys.modules)"
    assert in_a_fresh_python(code).strip() == "False"


def test_importing_emolib_is_quick_and_loads_little():
    code = (
        "import sys, time; before = set(sys.modules); start = time.perf_counter(); import emolib\n"
        "print(time.perf_counter() - start, *sorted(set(sys.modules) - before))"
    )
    runs = [in_a_fresh_python(code).split() for _ in range(5)]
    assert min(float(run[0]) for run in runs) < 0.1
    assert runs[0][1:] == ["emolib"]
