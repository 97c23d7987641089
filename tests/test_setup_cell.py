"""Every notebook's setup cell, in an environment that has its own torch and numpy, as Colab does.

Offline, with stand-ins: packages that are nothing but their metadata, among them newer torch and numpy, which
pip would take if emolib asked for them. With EMOLIB_CLEAN_VENV=1 (network, gigabytes, minutes) for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
OWN = {"torch": "2.6.0", "numpy": "1.26.4"}  # what is there before: older than the newest, within our ranges
NEWER = {"torch": "99.0", "numpy": "99.0"}
BACKEND = """
import shutil, tomllib, zipfile
from pathlib import Path


def build_wheel(directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    needs = "".join(f"Requires-Dist: {one}\\n" for one in project["dependencies"])
    about = f"Metadata-Version: 2.1\\nName: emolib\\nVersion: 0.0.1\\n{needs}"
    name = "emolib-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(Path(directory, name), "w") as wheel:
        wheel.writestr("emolib/__init__.py", "")
        wheel.writestr("emolib-0.0.1.dist-info/METADATA", about)
        kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("emolib-0.0.1.dist-info/WHEEL", kind)
        wheel.writestr("emolib-0.0.1.dist-info/RECORD", "emolib/__init__.py,,\\n")
    return name
"""


def setup_cells():
    """The sources of the setup cells, each once, with the notebooks that have it."""
    found = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if "setup" in cell.metadata.get("tags", []):
                found.setdefault(cell.source, []).append(path.stem)
    return found


def stub(folder, name, version):
    """A wheel of a package that is nothing but its metadata and an empty module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", f"__version__ = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{module}.py,,\n")


def needed():
    """Names of what emolib, and the notebooks' setup cells, ask pip for."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line).name for line in project["dependencies"]] + ["findingemo-light"]


def versions(python):
    """{package: version} of everything that is installed there."""
    said = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {row["name"]: row["version"] for row in json.loads(said.stdout)}


def environment(folder):
    """The Python of a fresh virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(python, folder of a copied project, settings for pip): own torch and numpy, and no network."""
    home = tmp_path_factory.mktemp("colab")
    wheels, project = home / "wheels", home / "clone"
    wheels.mkdir()
    (project / "notebooks").mkdir(parents=True)
    for name in needed():
        stub(wheels, name, NEWER.get(name, "98.0"))
    for name, version in OWN.items():
        stub(wheels, name, version)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    head, _, rest = text.partition("[project]")
    system = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n\n"
    assert "build-system" in head
    (project / "pyproject.toml").write_text(f"{system}[project]{rest}", encoding="utf-8")
    (project / "backend.py").write_text(BACKEND, encoding="utf-8")
    python = environment(home / "venv")
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip["PIP_CONFIG_FILE"] = os.devnull  # this machine's own settings (an index, constraints) play no part
    asked = [f"{name}=={version}" for name, version in OWN.items()]
    run(python, ["-m", "pip", "install", "--quiet", *asked], home, pip)
    return python, project, pip


def run(python, arguments, folder, more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "EMOLIB"))}
    done = subprocess.run([python, *arguments], cwd=folder, env=kept | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_cells_install_emolib_and_leave_torch_and_numpy_alone(colab):
    python, project, pip = colab
    assert versions(python).keys() >= OWN.keys() and "emolib" not in versions(python)
    for source in setup_cells():
        run(python, ["-c", source], project / "notebooks", pip)
    after = versions(python)
    assert after["emolib"] == "0.0.1" and after["diffusers"] == "98.0"
    assert {name: after[name] for name in OWN} == OWN
    # Once emolib is there, the cell does not call pip: it would fail, as there is nothing to be found.
    nothing = pip | {"PIP_FIND_LINKS": str(project)}
    for source in setup_cells():
        run(python, ["-c", source], project / "notebooks", nothing)


def test_the_stand_ins_would_notice_an_upgrade(colab):
    """The bait works: a requirement that the versions there do not meet replaces them."""
    python, project, pip = colab
    said = run(python, ["-m", "pip", "install", "--dry-run", "torch>=2.7", "numpy>=2"], project, pip)
    assert "Would install" in said and "torch-99.0" in said and "numpy-99.0" in said


@pytest.mark.skipif(
    "EMOLIB_CLEAN_VENV" not in os.environ, reason="needs the network; set EMOLIB_CLEAN_VENV=1"
)
def test_for_real_with_lesson_00(tmp_path):
    python = environment(tmp_path / "venv")
    flags = os.environ.get("PIP_FLAGS", "").split()
    there = ["torch==2.12.0", "numpy<2.4", "ipython"]
    run(python, ["-m", "pip", "install", "--quiet", *flags, *there], tmp_path, {})
    before = versions(python)
    lesson = nbformat.read(NOTEBOOKS[0], as_version=4)
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    small = "people, num_inference_steps = 2, 4"
    sources = [
        f"{cell.source}\n{small}" if "parameters" in cell.metadata.get("tags", []) else cell.source
        for cell in code
        if "check" not in cell.metadata.get("tags", [])  # they are about the full size
    ]
    (tmp_path / "lesson.py").write_text("\n\n".join(sources), encoding="utf-8")
    numbers = ROOT / "reports" / "data" / "00.json"
    kept = numbers.read_bytes()  # the small run writes its own
    try:
        run(python, [str(tmp_path / "lesson.py")], ROOT / "notebooks", {"MPLBACKEND": "Agg"})
    finally:
        numbers.write_bytes(kept)
    after = versions(python)
    assert all(after[name] == before[name] for name in ("torch", "numpy"))
