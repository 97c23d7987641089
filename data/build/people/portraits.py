"""Renders the portraits: `PYTHONPATH=data/build python -m people.portraits --out data/build/work/portraits`.

One file per identity (`000012.npz`, written when all its emotions are done), so a killed run goes on where it
was. Two processes with one thread each use two cores best. Deterministic: identity = seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np

from people.pool import render_all

NINE = ("neutral", "amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
NEW = ("surprise", "contempt")
FIRST_CONCEPT = 100_000  # identities that are also rendered under NEW have seeds from here on


def start_worker() -> None:
    """Prepares a process for rendering on one core, without messages."""
    import torch

    torch.set_num_threads(1)
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    mi.set_log_level(mi.LogLevel.Error)
    from people import studio

    studio.single_thread()


def face_box(figure, view) -> list[int]:
    """Brow to chin, ear to ear, in pixels of the view (a Portrait or a Stage): [x0, y0, x1, y1].

    The face without expression, cut to the picture.
    """
    rig = figure.rig
    template = rig.assets.template
    face = np.unique(rig.assets.triangles["body"])
    face = face[(template[face, 1] > 6.15) & (template[face, 1] < 7.75) & (template[face, 2] > 0.9)]
    xy = view.project(figure.world(rig.neutral[face]))
    low, high = np.clip(xy.min(axis=0), 0, view.size), np.clip(xy.max(axis=0), 0, view.size)
    return [int(low[0]), int(low[1]), int(np.ceil(high[0])), int(np.ceil(high[1]))]


def render_identity(seed: int, folder: Path, size: int, samples: int) -> str:
    """Every emotion of one identity -> one npz: pictures (E, size, size, 3) uint8 and the records as JSON."""
    from people import expressions, landmarks, look, rig, studio

    portrait = studio.Portrait(rig.Rig(look.sample(seed)), size=size, samples=samples)
    figure, rng = portrait.figure, np.random.default_rng([11, seed])
    pictures, records = [], []
    for emotion in NINE + (NEW if seed >= FIRST_CONCEPT else ()):
        units, intensity, variant = expressions.sample(rng, emotion)
        pose = expressions.sample_pose(rng, emotion, intensity)
        pictures.append(portrait.shoot(units, pose))
        points = landmarks.in_picture(figure, portrait, units)
        record = {"emotion": emotion, "intensity": intensity, "variant": variant, "units": units}
        turned = landmarks.head_pose(figure.rig)
        records.append({**record, "pose": turned, "landmarks": points.round(2).tolist()})
    figure.rig.pose = (0.0, 0.0, 0.0)
    target, part = folder / f"{seed:06d}.npz", folder / f".{seed:06d}.part.npz"
    meta = json.dumps({"seed": seed, "records": records, "face_box": face_box(figure, portrait)})
    np.savez_compressed(part, pictures=np.stack(pictures), meta=np.array(meta))
    os.replace(part, target)
    return target.name


def plan(identities: int, concepts: int) -> list[int]:
    """Seeds in the order of rendering: the few of `concepts` first, so that a short run has both kinds."""
    return [*range(FIRST_CONCEPT, FIRST_CONCEPT + concepts), *range(identities)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/build/work/portraits"))
    parser.add_argument("--identities", type=int, default=1000)
    parser.add_argument(
        "--concepts", type=int, default=64, help="more of them, also in surprise and contempt"
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=4, help="paths per sub-pixel (four to a pixel)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = plan(args.identities, args.concepts)
    todo = [seed for seed in wanted if not (args.out / f"{seed:06d}.npz").exists()]
    print(f"{len(wanted)} identities, {len(wanted) - len(todo)} done before", flush=True)
    render = partial(render_identity, folder=args.out, size=args.size, samples=args.samples)
    failed = render_all(render, todo, noun="identity", workers=args.workers, start_worker=start_worker)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
