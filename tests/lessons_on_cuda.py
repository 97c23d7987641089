"""Runs lessons on a virtual GPU with the smallest settings that run every cell.

Cells run in this process: starting a kernel, and importing torch in it, costs more than most lessons do.
"""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import torch
from virtual_cuda import forget_device, virtual_cuda

from emolib.course import run

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = {
    "00": {"people": 2, "num_inference_steps": 2, "strength": 0.5},
    "01": {"draws": 20},
    "02": {
        "pictures": 2,
        "steps": 1,
        "batch": 1,
        "evaluate_on": 1,
        "face_steps": 1,
        "new_steps": 1,
        "new_batch": 1,
        "people": 1,
        "samples": 1,
        "num_inference_steps": 1,
    },
    "03": {"people": 2, "strengths": [0.2, 0.6, 1.0], "num_inference_steps": 3, "seeds": 2, "strangers": 20},
    "04": {
        "people": 2,
        "targets": ["anger", "sadness"],
        "num_inference_steps": 3,
        "step_counts": [2, 4],
        "inner_steps": 2,
    },
    "05": {
        "fit_people": 4,
        "tune_people": 1,
        "people": 1,
        "scales": [1.0, 4.0],
        "num_inference_steps": 2,
        "train_people": 1,
        "epochs": 1,
        "pair_steps": 1,
    },
    "06": {
        "pictures": 2,
        "steps": 1,
        "batch": 1,
        "rank": 1,
        "tuned_steps": 1,
        "token_steps": 1,
        "people": 2,
        "samples": 1,
        "known_people": 3,
        "num_inference_steps": 1,
    },
    "08": {"people": 3, "edited": 2, "taught": 20, "num_inference_steps": 2},
    "09": {
        "picture": "person 89",
        "preview_steps": 1,
        "full_steps": 3,
        "frame_steps": 1,
        "strengths": [0.5, 1.0],
    },
}


for settings in SMALLEST.values():
    settings |= {"photo_steps": 2, "photo_model": "minisd"}  # "auto" would ask the Hub
del SMALLEST["01"]["photo_steps"]
for lesson in ("01", "05", "06"):
    del SMALLEST[lesson]["photo_model"]

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def run_lesson(lesson, dtype, home, monkeypatch):
    """Run every cell of a lesson in `home`, a folder for what it writes; what it reads is linked there."""
    for name in ("data", "emolib", "benchmarks", "notebooks", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "reports" / "data", home / "reports" / "data")
    monkeypatch.setenv("EMOLIB_HOME", str(home))
    monkeypatch.chdir(home / "notebooks")
    settings, names = SMALLEST[lesson[:2]], {"__name__": "__main__"}
    notebook = nbformat.read(f"{lesson}.ipynb", as_version=4)
    assert settings.keys() <= run.read_parameters(notebook).keys()
    with virtual_cuda(dtype), torch.enable_grad():  # a lesson may switch gradients off for good
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{lesson}[{i}]", "exec"), names)
            if run.has_tag(cell, "parameters"):
                names |= settings
    plt.close("all")
    forget_device()
