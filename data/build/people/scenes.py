"""Renders the scenes: `PYTHONPATH=data/build python -m people.scenes --out data/build/work/scenes`.

2-4 people behind a table, each with an emotion of their own. For every person the face is filmed again under
a target emotion; the counterfactual picture in which exactly this person changes is the source picture with
that person's pixels exchanged, so all others are the source's bit for bit (what the new face would change in
the light on its neighbours is left out). One file a scene; a killed run goes on where it was.
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
from people.portraits import NINE, face_box, start_worker

FIRST_PERSON = 200_000  # identities in scenes appear nowhere else


def layout(rng, n: int) -> list[tuple[float, float, float]]:
    """Where each head is, cm (x to the people's left, y up, z to the camera): none hides another's face.

    Of three or more, every other one stands behind and higher.
    """
    step = {2: 30.0, 3: 20.0, 4: 17.0}[n]
    odd = rng.integers(2)
    places = []
    for k in range(n):
        back = (k + odd) % 2 if n > 2 else 0
        x = (k - (n - 1) / 2) * step + rng.normal(0, 0.8)
        y, z = {3: 10.0, 4: 16.0}.get(n, 0) * back + rng.normal(0, 1.5), -16.0 * back + rng.normal(0, 2)
        places.append((float(x), float(y), float(z)))
    return places


def exchanged(owners: np.ndarray, changed: np.ndarray, k: int) -> np.ndarray:
    """(H, W) bool: the pixels that person k's new expression takes, with a margin of 2 px, from no one else.

    `owners` and `changed`: who is seen in each pixel before and after (person k is k + 1, nobody 0).
    """
    from scipy.ndimage import binary_dilation

    grown = binary_dilation((owners == k + 1) | (changed == k + 1), iterations=2)
    return grown & np.isin(owners, (0, k + 1))


def paste(picture: np.ndarray, crop: np.ndarray, mine: np.ndarray, box: list[int]) -> np.ndarray:
    """A copy of `picture` (H, W, 3) with the pixels `mine` of `box` [x0, y0, x1, y1] taken from `crop`."""
    x0, y0, x1, y1 = box
    result = picture.copy()
    result[y0:y1, x0:x1] = np.where(mine[y0:y1, x0:x1, None], crop, picture[y0:y1, x0:x1])
    return result


def felt(rng, emotion: str) -> tuple[dict[str, float], tuple[float, float, float]]:
    """One expression of an emotion: face units, and how the head is turned for it (degrees)."""
    from people import expressions

    units, intensity, _ = expressions.sample(rng, emotion)
    return units, expressions.sample_pose(rng, emotion, intensity)


def render_scene(number: int, folder: Path, samples: int) -> str:
    """One scene: the source, a counterfactual per person, and one in which everybody changes -> one npz."""
    from people import look, rig, stage

    rng = np.random.default_rng([17, number])
    n = 2 + number % 3
    rigs = [rig.Rig(look.sample(FIRST_PERSON + 10 * number + k)) for k in range(n)]
    emotions = [str(e) for e in rng.choice(NINE, n)]
    targets = [str(rng.choice([e for e in NINE if e != source])) for source in emotions]
    before, after = ([felt(rng, e) for e in names] for names in (emotions, targets))
    scene = stage.Stage(rigs, layout(rng, n), before, FIRST_PERSON + number, samples)
    source, owners = scene.picture(0), scene.owners()
    exchanges, people = [], []
    for k in range(n):
        # Both faces are filmed by the same sensor: what the change leaves alone looks the same in both.
        old, box = scene.picture(k + 1), face_box(scene.figures[k], scene)
        scene.move(k, *after[k])
        new, changed = scene.picture(k + 1), owners.copy()
        x0, y0, x1, y1 = scene.boxes[k]
        changed[y0:y1, x0:x1] = scene.owners(k + 1)
        mine = exchanged(owners, changed, k)
        source = paste(source, old, mine, scene.boxes[k])
        exchanges.append((new, mine, scene.boxes[k]))
        scene.move(k, *before[k])
        person = rigs[k].look
        people.append({"identity": person.seed, "emotion": emotions[k], "target": targets[k],
                       "gender": person.gender, "hair_color": person.hair_color, "box": box})  # fmt: skip
    everybody = source
    for exchange in exchanges:
        everybody = paste(everybody, *exchange)
    pictures = [source, *(paste(source, *exchange) for exchange in exchanges), everybody]
    versions = ["source", *(f"person{k}" for k in range(n)), "all"]
    part = folder / f".{number:04d}.part.npz"
    meta = json.dumps({"scene": number, "versions": versions, "people": people})
    np.savez_compressed(part, pictures=np.stack(pictures), mask=owners, meta=np.array(meta))
    os.replace(part, folder / f"{number:04d}.npz")
    return f"{number:04d}.npz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/build/work/scenes"))
    parser.add_argument("--scenes", type=int, default=105)
    parser.add_argument("--samples", type=int, default=4, help="paths per sub-pixel (four to a pixel)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(args.scenes) if not (args.out / f"{i:04d}.npz").exists()]
    print(f"{args.scenes} scenes, {args.scenes - len(todo)} done before", flush=True)
    render = partial(render_scene, folder=args.out, samples=args.samples)
    failed = render_all(render, todo, noun="scene", workers=args.workers, start_worker=start_worker, every=5)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
