"""How fast edits are scored: `emolib evaluate` against the plain way, alternating runs on the same pictures.

The plain way is what released evaluation scripts do: a loop for each metric that opens its files again, a
pass of the judge for each number that needs one, torchmetrics for PSNR, SSIM, MS-SSIM and, with the judge's
features as a custom module, FID and KID. Both ways compute the same columns from the same PNG files; ours
adds identity, diversity, intervals, breakdowns, its cache and the tables. Loading the judge is counted for
neither. CPU seconds stand beside wall seconds, because they say the same on a busy machine. Writes
reports/data/scoring.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import image as theirs
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
from torchmetrics.image.kid import KernelInceptionDistance

from emolib import images as pictures
from emolib import runtime
from emolib.evaluation import run, store, tasks
from emolib.judges import emotion as judges
from emolib.metrics import control, emotion, preservation, quality

METHODS = {"near": 0.8, "half": 0.5, "far": 0.2}  # name -> share of the way to the truth
BETAS = tuple(beta / sum(preservation.BETAS[:3]) for beta in preservation.BETAS[:3])  # as many as it takes


class Row(NamedTuple):
    """One edit: its files and what was asked."""

    source: Path
    edit: Path
    truth: Path
    change: tasks.Change


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """(CPU, wall) seconds."""
        return time.process_time() - self._start[1], time.perf_counter() - self._start[0]


class Features(torch.nn.Module):
    """The judge's features as torchmetrics wants them: uint8 in, (B, D) out."""

    def __init__(self, judge: judges.Judge) -> None:
        super().__init__()
        self.judge, self.num_features = judge, judge.describe(torch.zeros(1, 3, 96, 96))[1].shape[1]

    def forward(self, images: Tensor) -> Tensor:
        return self.judge.describe(images.float() / 127.5 - 1)[1]


def opened(path: Path) -> Tensor:
    return pictures.to_tensor(pictures.open_image(path))


def pair(row: Row, reference: str) -> tuple[Tensor, Tensor]:
    """Edit and reference on [0, 1]."""
    return opened(row.edit) / 2 + 0.5, opened(getattr(row, reference)) / 2 + 0.5


def mask(row: Row, *, outside: bool = False) -> Tensor:
    found = preservation.box_mask([row.change.people[0].box], 96, 96)
    return ~found if outside else found


def of_pixels() -> dict[str, Callable[[Row], Tensor]]:
    """Columns that need no judge: name -> number of one edit."""
    psnr, ssim = theirs.peak_signal_noise_ratio, theirs.structural_similarity_index_measure
    ms_ssim = theirs.multiscale_structural_similarity_index_measure

    def background_ssim(row: Row) -> Tensor:
        full = ssim(*pair(row, "source"), data_range=1.0, return_full_image=True)[1]
        return 100 * preservation.masked_ssim(full.mean(1), mask(row, outside=True))

    def masked(measure: Callable, reference: str, outside: bool) -> Callable[[Row], Tensor]:
        return lambda r: measure(opened(r.edit), opened(getattr(r, reference)), mask(r, outside=outside))

    return {
        "psnr": lambda r: psnr(*pair(r, "source"), data_range=1.0),
        "ssim": lambda r: ssim(*pair(r, "source"), data_range=1.0),
        "ms_ssim of 3 scales": lambda r: ms_ssim(*pair(r, "source"), data_range=1.0, betas=BETAS),
        "background_psnr": masked(preservation.masked_psnr, "source", True),
        "background_mse_e4": lambda r: 1e4 * masked(preservation.masked_error, "source", True)(r),
        "background_ssim_e2": background_ssim,
        "sharpness": lambda r: preservation.sharpness_ratio(opened(r.edit), opened(r.source)),
        "shift": lambda r: preservation.alignment_shift(opened(r.edit), opened(r.source)),
        "truth_psnr": lambda r: psnr(*pair(r, "truth"), data_range=1.0),
        "truth_ssim": lambda r: ssim(*pair(r, "truth"), data_range=1.0),
        "truth_face_psnr": masked(preservation.masked_psnr, "truth", False),
        "beats_nothing": lambda r: preservation.beats_doing_nothing(
            opened(r.edit), opened(r.source), opened(r.truth)
        ),
    }


def of_the_judge(judge: judges.Judge) -> dict[str, Callable[[Row], Tensor]]:
    """Columns that ask the judge, each anew."""

    def target(row: Row) -> Tensor:
        return torch.tensor([judge.labels.index(row.change.name)])

    def recoloured(row: Row) -> Tensor:
        return quality.match_colours(opened(row.edit), opened(row.source))

    def gained(edit: Tensor, row: Row) -> Tensor:
        return emotion.emotion_score(judge(edit).probs, judge(opened(row.source)).probs, target(row))

    def esmi(row: Row) -> Tensor:
        change = (opened(row.edit) - opened(row.source)).abs().mean(1)
        kl = [emotion.kl_divergence(target(row), judge(opened(p)).probs) for p in (row.source, row.edit)]
        return torch.from_numpy(control.esmi(*kl, (change * mask(row)).sum((1, 2)), change.sum((1, 2))))

    return {
        "emo_a": lambda r: emotion.top_k(judge(opened(r.edit)).probs, target(r), 1),
        "emo_s": lambda r: gained(opened(r.edit), r),
        "p_target": lambda r: emotion.target_probability(judge(opened(r.edit)).probs, target(r)),
        "top_2": lambda r: emotion.top_k(judge(opened(r.edit)).probs, target(r), 2),
        "valence": lambda r: emotion.valence_hit(judge(opened(r.edit)).probs, target(r), judge.labels),
        "kl": lambda r: emotion.kl_divergence(target(r), judge(opened(r.edit)).probs),
        "valence_error": lambda r: (judge(opened(r.edit)).valence - r.change.affect[0]).abs(),
        "arousal_error": lambda r: (judge(opened(r.edit)).arousal - r.change.affect[1]).abs(),
        "emo_s_colour": lambda r: gained(recoloured(r), r),
        "esmi": esmi,
    }


def plain(rows: list[Row], judge: judges.Judge) -> dict[str, float]:
    """Every column in a loop of its own, every file opened for it."""
    found = {
        name: float(np.nanmean([float(measure(row)) for row in rows]))
        for name, measure in (of_the_judge(judge) | of_pixels()).items()
    }
    for name, metric in (
        ("frechet", FrechetInceptionDistance(feature=Features(judge))),
        ("kid", KernelInceptionDistance(feature=Features(judge), subset_size=len(rows), subsets=1)),
    ):
        for row in rows:
            for path, real in ((row.truth, True), (row.edit, False)):
                metric.update(((opened(path) + 1) * 127.5).round().to(torch.uint8), real=real)
        value = metric.compute()
        found[name] = float(value if name == "frechet" else value[0])
    return found


def prepare(folder: Path, people: int) -> dict[str, list[Row]]:
    """Write sources, truths and every method's edits (towards the truth, some noise) as PNG; their rows."""
    found: dict[str, list[Row]] = {}
    todo = tasks.load_tasks("emofaces:val", people=people)
    for method, share in METHODS.items():
        own, listed = folder / method, []
        own.mkdir(parents=True)
        for task in todo.tasks:
            source = pictures.to_tensor(task.picture())
            pictures.save_image(source, own / f"{task.id}.png")
            noise = 0.05 * torch.randn(source.shape, generator=runtime.generator(0, task.id))
            for change in task.changes:
                truth, name = pictures.to_tensor(change.truth()), f"{task.id}-{change.name}"
                edit = torch.lerp(source, truth, share) + noise
                files = Row(own / f"{task.id}.png", own / f"{name}.png", own / f"{name}-truth.png", change)
                pictures.save_image(truth, files.truth)
                pictures.save_image(edit, files.edit)
                listed.append({"source": task.id, "target": change.name, "path": files.edit.name})
                found.setdefault(method, []).append(files)
        about = {"method": method, "judges_used": [], "edits": listed}
        (own / store.MANIFEST).write_text(json.dumps(about))
    return found


def frechet_alone(n: int, d: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds of the Frechet distance of two sets (n, d): ours, and torchmetrics' eigenvalues."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, d)), rng.normal(0.1, 1.1, size=(n, d))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    mine, other = [], []
    for _ in range(rounds):
        clock = Clock()
        value = quality.frechet(quality.gaussian(a), quality.gaussian(b))
        mine.append(clock.stop()[0])
        clock = Clock()
        reference = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item()
        other.append(clock.stop()[0])
    fast, slow = 1e3 * statistics.median(mine), 1e3 * statistics.median(other)
    gap = abs(value / reference - 1)
    return {"n": n, "d": d, "ours_ms": fast, "torchmetrics_ms": slow, "factor": slow / fast, "gap": gap}


def measure(folder: Path, people: int, rounds: int) -> tuple[dict, dict, dict]:
    """({way: [(CPU, wall) seconds of each run]}, plain numbers, our numbers) of all methods."""
    judge, seconds = judges.load_judge("heldout", device="cpu"), {"plain": [], "ours": [], "ours again": []}
    rows, out = prepare(folder / "edits", people), folder / "out"
    submissions = tuple(str(folder / "edits" / method) for method in METHODS)
    settings = run.Settings(
        "emofaces:val", submissions, out, people=people, others=(), baseline=next(iter(METHODS))
    )
    run.prepare(settings)  # fits Fisherfaces, which stay in the cache
    for _ in range(rounds):
        clock = Clock()
        slow = {method: plain(some, judge) for method, some in rows.items()}
        seconds["plain"].append(clock.stop())
        shutil.rmtree(out / "cache" / "measured", ignore_errors=True)
        for name in ("ours", "ours again"):
            prepared = run.prepare(settings)
            clock = Clock()
            run.execute(prepared)
            seconds[name].append(clock.stop())
    board = json.loads((out / "leaderboard.json").read_text())
    return seconds, slow, {name: method["all"] for name, method in board["methods"].items()}


def factor(
    seconds: dict[str, list[tuple[float, float]]], place: int
) -> dict[str, tuple[float, float, float]]:
    """Plain over ours, and over ours again: median, least and largest of the rounds."""
    plain = [run[place] for run in seconds["plain"]]
    found = {}
    for name in ("ours", "ours again"):
        ratios = [slow / run[place] for slow, run in zip(plain, seconds[name], strict=True)]
        found[name] = statistics.median(ratios), min(ratios), max(ratios)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--people", type=int, default=6, help="8 edits each and method (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=runtime.repo_path("reports", "data", "scoring.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        seconds, slow, fast = measure(Path(temporary), args.people, args.rounds)
    names = [name for name in next(iter(slow.values())) if name in next(iter(fast.values()))]
    gaps = {
        name: max(
            abs(slow[m][name] - fast[m][name]["value"]) / max(abs(slow[m][name]), 1e-9) for m in METHODS
        )
        for name in names
    }
    found = {
        "about": {
            "methods": len(METHODS),
            "edits": len(METHODS) * 8 * args.people,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
            "versions": runtime.versions(),
        },
        "columns": len(next(iter(slow.values()))),
        "seconds": {
            name: {"cpu": [c for c, _ in runs], "wall": [w for _, w in runs]}
            for name, runs in seconds.items()
        },
        "factor": {kind: factor(seconds, place) for place, kind in enumerate(("cpu", "wall"))},
        "largest_relative_difference": {max(gaps, key=gaps.get): max(gaps.values())},
        "frechet": [frechet_alone(n, d, args.rounds) for n, d in ((200, 1024), (500, 1024), (800, 256))],
    }
    runtime.write_json(args.out, found)
    print(json.dumps({name: found[name] for name in ("factor", "frechet")}, indent=1))
    print(args.out)


if __name__ == "__main__":
    runtime.script(main)
