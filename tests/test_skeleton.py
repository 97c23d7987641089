"""The checkout itself: environments in step, sizes, licence, the two commands."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from emolib import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MIB = 2**20


def requirements(lines):
    """Name -> version range; references of the project to its own extras are left out."""
    parsed = [Requirement(line) for line in lines if not line.startswith(("emolib", "-e"))]
    return {canonicalize_name(one.name): str(one.specifier) for one in parsed}


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }


@pytest.fixture(scope="module")
def tracked():
    """Files of the checkout, as git knows them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_conda_environment_has_the_ranges_of_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    wanted = [*PROJECT["dependencies"], *EXTRAS["notebooks"], *EXTRAS["dev"]]
    assert requirements(pip["pip"]) == requirements(wanted)
    assert pip["pip"][-1] == "-e ."


def test_every_requirement_is_pinned_within_its_range():
    pinned = pins()
    everything = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    for line in everything:
        requirement = Requirement(line)
        if requirement.name != "emolib":
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{line} but pinned {version}"


def test_torch_is_pinned_alike_everywhere_and_nothing_brings_cuda():
    assert pins()["torch"] == "2.13.0"
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert not [name for name in pins() if re.match(r"nvidia|cuda|triton|torchvision|torchaudio", name)]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    """Imports anywhere in emolib, by distribution, against hard dependencies and extras."""
    installed = metadata.packages_distributions()
    needed = {}
    for path in sorted((ROOT / "emolib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.split(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "emolib":
                    assert name in installed, f"{path.name} imports {name}, which is not installed"
                    needed.setdefault(canonicalize_name(installed[name][0]), set()).add(path)
    hard, notebooks = set(requirements(PROJECT["dependencies"])), set(requirements(EXTRAS["notebooks"]))
    shells = {ROOT / "emolib" / name for name in ("course", "playground")}
    for name, paths in needed.items():
        kept_apart = all(shells & set(path.parents) for path in paths)
        optional = {path.parent.name for path in paths} == {"judges"} and name in requirements(
            EXTRAS["photos"]
        )
        declared = name in hard or optional or (kept_apart and name in notebooks)
        assert declared, f"{name} is imported, but not declared"
    assert not hard - set(needed), "declared, but imported nowhere"


def test_extras_that_the_readme_and_makefile_name_exist():
    assert {"render", "dev", "findingemo", "notebooks", "photos"} == set(EXTRAS)
    assert PROJECT["scripts"] == {"emolib": "emolib.__main__:start"}


def test_version_is_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (\[?{re.escape(__version__)}\]?|Unreleased)", changelog, re.M)


def test_licence_and_ci_script_are_there():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert PROJECT["license"] == "Apache-2.0"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_the_two_commands_are_at_the_top_of_the_readme():
    top = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:8]
    assert any(line.startswith("make reports") for line in top)
    assert any(line.startswith("make test") for line in top)


def test_checkout_is_small(tracked):
    size = sum(path.stat().st_size for path in tracked)
    assert size < 60 * MIB, f"{size / MIB:.1f} MiB"


def test_no_python_file_is_long(tracked):
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in tracked if path.suffix == ".py"
    }
    assert len(lengths) > 10
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400}


def test_no_text_file_names_a_folder_of_one_machine(tracked):
    # Put together here so that this file does not match itself.
    places = "|".join(["home", "root", "work", "tmp", "mnt", "opt", "Users"])
    pattern = re.compile(rf"(?<![\w.~$<>}}/*-])/(?:{places})/\w")
    kinds = {".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".json", ".cfg", ".sh", ".html", ".css", ""}
    found = {}
    for path in tracked:
        if path.suffix in kinds:
            hit = pattern.search(path.read_text(encoding="utf-8"))
            if hit:
                found[str(path.relative_to(ROOT))] = hit[0]
    assert not found


def test_generated_files_are_not_tracked(tracked):
    names = [path.relative_to(ROOT).as_posix() for path in tracked]
    generated = re.compile(
        r"^reports/(?!data/.*\.json$|data/leaderboard/)|/cache/|__pycache__|\.pyc$|\.ipynb_checkpoints|^data/build/work|^\.venv"
    )
    assert not [name for name in names if generated.search(name)]


def test_weights_are_safetensors(tracked):
    assert not [
        path for path in tracked if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
    ]
