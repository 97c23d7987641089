"""Renders the portraits: `PYTHONPATH=data/build python -m people.portraits --out data/build/work/portraits`.

One file per identity (`000012.npz`, written when all its emotions are done), so a killed run goes on where it
was; after a change of an emotion's prototypes only that emotion is rendered anew. Two processes with one
thread each use two cores best. Deterministic: identity = seed.
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


def draw_expressions(seed: int) -> list[dict]:
    """What each picture of an identity shows, in order; every emotion has a chance of its own."""
    from people import expressions

    drawn = []
    for number, emotion in enumerate(NINE + (NEW if seed >= FIRST_CONCEPT else ())):
        rng = np.random.default_rng([11, seed, number])
        units, intensity, variant = expressions.sample(rng, emotion)
        turn = list(expressions.sample_pose(rng, emotion, intensity))
        drawn.append({"emotion": emotion, "intensity": intensity, "variant": variant, "units": units,
                      "mesh": expressions.geometry(units), "turn": turn})  # fmt: skip
    return drawn


def read_rendered(file: Path) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """What a former run rendered of an identity: record, picture and mask each; nothing without a file."""
    if not file.exists():
        return []
    with np.load(file) as kept:
        return list(
            zip(json.loads(str(kept["meta"]))["records"], kept["pictures"], kept["masks"], strict=True)
        )


def stale(drawn: list[dict], rendered: list[tuple[dict, np.ndarray, np.ndarray]]) -> list[int]:
    """Which of the drawn expressions are not rendered, or were drawn otherwise when they were."""
    records = [{name: record[name] for name in drawn[0]} for record, _, _ in rendered]
    return [i for i, expression in enumerate(drawn) if records[i : i + 1] != [expression]]


def render_identity(seed: int, folder: Path, size: int, samples: int) -> str:
    """Every emotion of one identity -> one npz: `pictures` (E, size, size, 3) and `masks` (E, size, size),
    uint8, the share of a pixel that the person fills; `meta`: the records as JSON.

    What a former run rendered of the same expressions is kept.
    """
    from people import landmarks, look, rig, studio

    portrait = studio.Portrait(rig.Rig(look.sample(seed)), size=size, samples=samples)
    figure, drawn = portrait.figure, draw_expressions(seed)
    target, part = folder / f"{seed:06d}.npz", folder / f".{seed:06d}.part.npz"
    rendered = read_rendered(target)
    anew = stale(drawn, rendered)
    results = []
    for number, expression in enumerate(drawn):
        if number not in anew:
            results.append(rendered[number])
            continue
        units = expression["units"]
        picture = portrait.shoot(units, expression["turn"])
        points = landmarks.in_picture(figure, portrait, units).round(2).tolist()
        record = {**expression, "pose": landmarks.head_pose(figure.rig), "landmarks": points}
        results.append((record, picture, portrait.mask()))
    figure.rig.pose = (0.0, 0.0, 0.0)
    records, pictures, masks = zip(*results, strict=True)
    meta = json.dumps({"seed": seed, "records": records, "face_box": face_box(figure, portrait)})
    np.savez_compressed(part, pictures=np.stack(pictures), masks=np.stack(masks), meta=np.array(meta))
    os.replace(part, target)
    return target.name


def plan(identities: int, concepts: int) -> list[int]:
    """Seeds in the order of rendering: those of `concepts` spread among the others, so that a short run has
    people of every split."""
    rest = [(i / identities, i) for i in range(identities)]
    few = [(i / concepts, FIRST_CONCEPT + i) for i in range(concepts)]
    return [seed for _, seed in sorted(rest + few)]


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
    rendered = {seed: read_rendered(args.out / f"{seed:06d}.npz") for seed in wanted}
    todo = [seed for seed in wanted if stale(draw_expressions(seed), rendered[seed])]
    print(f"{len(wanted)} identities, {len(wanted) - len(todo)} done before", flush=True)
    render = partial(render_identity, folder=args.out, size=args.size, samples=args.samples)
    failed = render_all(render, todo, noun="identity", workers=args.workers, start_worker=start_worker)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
