"""Lessons on a virtual GPU, with the smallest settings that run every cell."""

import shutil
from pathlib import Path

import pytest

from emolib.course import run

ROOT = Path(__file__).resolve().parents[1]
HOOK = Path(__file__).parent / "virtual_device"
SMALLEST = {
    "00": {"people": 2, "num_inference_steps": 2, "strength": 0.5},
    "05": {
        "fit_people": 4,
        "tune_people": 2,
        "people": 2,
        "scales": [1.0, 4.0],
        "num_inference_steps": 3,
        "train_people": 2,
        "epochs": 1,
        "pair_steps": 2,
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A repository that may be written to: what lessons read is linked, what they write is here."""
    home = tmp_path_factory.mktemp("home")
    for name in ("data", "emolib", "benchmarks", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    (home / "reports" / "data").mkdir(parents=True)
    for path in (ROOT / "reports" / "data").iterdir():
        link = shutil.copy if path.is_file() else lambda source, target: target.symlink_to(source)
        link(path, home / "reports" / "data" / path.name)
    return home


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize("lesson", sorted(SMALLEST))
def test_a_lesson_runs_on_cuda(lesson, dtype, home, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_HOME", str(home))
    monkeypatch.setenv("EMOLIB_VIRTUAL_CUDA", dtype)
    monkeypatch.setenv("PYTHONPATH", f"{HOOK}:{ROOT}")
    (path,) = (home / "notebooks").glob(f"{lesson}_*.ipynb")
    run.run_lesson(path, tmp_path / path.name, SMALLEST[lesson])
