"""Renders the scenes: `PYTHONPATH=data/build python -m people.scenes --out data/build/work/scenes`.

2-4 people behind a table, each with an emotion of their own. For every person the face is filmed again under a target
emotion; the counterfactual picture in which exactly this person changes is the source picture with that person's pixels
exchanged, so all others are the source's bit for bit (what the new face would change in the light on its neighbours is left
out). One file a scene; a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from people.portraits import NINE, face_box, start_worker

FIRST_PERSON = 200_000  # identities in scenes appear nowhere else
HEIGHT, WIDTH = 256, 384
SPAN = {2: 66.0, 3: 84.0, 4: 104.0}  # cm across the picture
HEADROOM = {2: 18.0, 3: 22.0, 4: 26.0}  # cm above the eyes of the front row
CAMERA = 190.0  # cm from the camera to the people


def layout(rng, n: int) -> list[tuple[float, float, float]]:
    """Where each head is, cm: neighbours stand at different heights and depths, none hides another's face."""
    step = {2: 30.0, 3: 26.0, 4: 25.0}[n]
    odd = rng.integers(2)
    places = []
    for k in range(n):
        back = (k + odd) % 2 if n > 2 else 0
        x = (k - (n - 1) / 2) * step + rng.normal(0, 0.8)
        places.append(
            (float(x), float(7.0 * back + rng.normal(0, 1.5)), float(-16.0 * back + rng.normal(0, 2)))
        )
    return places


class Stage:
    """The Mitsuba scene of one picture of several people."""

    def __init__(self, rigs: list, places: list, units: list[dict], seed: int, samples: int):
        import mitsuba as mi

        from people import studio
        from people.backdrop import backdrop

        self.mi, self.studio, self.rigs, self.seed, self.size = (
            mi,
            studio,
            rigs,
            seed,
            np.array([WIDTH, HEIGHT]),
        )
        rng = np.random.default_rng([13, seed])
        n, look = len(rigs), rigs[0].look
        span = SPAN[n]
        target = np.array([0.0, HEADROOM[n] - span * HEIGHT / WIDTH / 2, 0.0])
        self.origin = target + np.array([0, 0, CAMERA])
        self.fov = float(2 * np.degrees(np.arctan(span / 2 / CAMERA)))
        self.figures = [
            studio.Figure(rig, offset=place, tag=f"p{k}", long=True)
            for k, (rig, place) in enumerate(zip(rigs, places, strict=True))
        ]
        picture = backdrop(
            "cluttered", look.detail["wall"], look.detail["backdrop_seed"], size=(1152, 768), blur=2.0
        )
        pose = mi.ScalarTransform4f().look_at(
            origin=self.origin.tolist(), target=target.tolist(), up=[0, 1, 0]
        )
        self.boxes = [self._window(figure) for figure in self.figures]
        sensors = {"sensor": self._sensor(pose, samples, None)}
        for k, box in enumerate(self.boxes):
            sensors[f"sensor{k}"] = self._sensor(pose, samples, box)
        shapes: dict = {}
        for figure, setting in zip(self.figures, units, strict=True):
            shapes.update(figure.shapes(setting))
        wood = studio.to_linear(
            np.array([(120, 78, 48), (190, 160, 120), (70, 52, 44), (200, 200, 198)][rng.integers(4)])
        )
        table = mi.ScalarTransform4f().translate([0, -36, 12]).scale([110, 12, 20])
        self.scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "path", "max_depth": 3},
                **sensors,
                "wall": studio.wall(picture, 96, 64, -75),
                "table": {
                    "type": "cube",
                    "to_world": table,
                    "bsdf": {"type": "diffuse", "reflectance": studio.rgb(wood)},
                },
                **studio.lights(look.detail["light"]),
                **shapes,
            }
        )
        self.params = mi.traverse(self.scene)
        self.exposure = float(np.mean([studio.exposure(rig) for rig in rigs]))

    def _sensor(self, pose, samples: int, box) -> dict:
        film = self.studio.film(2 * WIDTH, 2 * HEIGHT, samples)
        if box is not None:
            x0, y0, x1, y1 = (2 * v for v in box)
            film["film"].update(crop_offset_x=x0, crop_offset_y=y0, crop_width=x1 - x0, crop_height=y1 - y0)
        return {"type": "perspective", "fov": self.fov, "fov_axis": "x", "to_world": pose, **film}

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) -> pixel positions (N, 2)."""
        relative = self.origin - points
        scale = WIDTH / 2 / np.tan(np.radians(self.fov / 2)) / relative[:, 2:]
        return np.array([WIDTH, HEIGHT]) / 2 + relative[:, :2] * scale * np.array([-1.0, 1.0])

    def _window(self, figure) -> list[int]:
        """The part of the picture that an expression can change: the head and neck with a margin."""
        rig = figure.rig
        body = np.unique(rig.assets.triangles["body"])
        xy = self.project(figure.world(rig.neutral[body[rig.assets.template[body, 1] > 5.9]]))
        low = np.clip(np.floor(xy.min(axis=0)) - 6, 0, None)
        high = np.minimum(np.ceil(xy.max(axis=0)) + 8, [WIDTH, HEIGHT])
        return [int(low[0]), int(low[1]), int(high[0]), int(high[1])]

    def picture(self, sensor: int) -> np.ndarray:
        return self.studio.develop(self.studio.expose(self.scene, self.seed, sensor), self.exposure)

    def owners(self) -> np.ndarray:
        """(HEIGHT, WIDTH) uint8: who is seen in each pixel, person k as k + 1, nobody as 0."""
        mi = self.mi
        probe = mi.load_dict({"type": "aov", "aovs": "i:shape_index"})
        layers = np.array(mi.render(self.scene, sensor=0, integrator=probe, spp=1, seed=self.seed))
        index = np.nan_to_num(layers[::2, ::2, -1], nan=-1).round().astype(int)
        table = np.zeros(len(self.scene.shapes()) + 1, dtype=np.uint8)
        for i, shape in enumerate(self.scene.shapes()):
            tag = shape.id().split("_")[0]
            if tag[:1] == "p" and tag[1:].isdigit():
                table[i] = int(tag[1:]) + 1
        return np.where(index >= 1, table[np.clip(index - 1, 0, len(table) - 1)], 0).astype(
            np.uint8
        )  # counts from 1

    def move(self, k: int, units: dict) -> None:
        self.figures[k].move(self.params, units)
        self.params.update()


def _grown(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, iterations=2)


def render_scene(number: int, folder: Path, samples: int) -> str:
    """One scene: the source, one counterfactual per person, and the one in which everybody changes -> one npz."""
    from people import expressions, look, rig

    rng = np.random.default_rng([17, number])
    n = 2 + number % 3
    rigs = [rig.Rig(look.sample(FIRST_PERSON + 10 * number + k)) for k in range(n)]
    emotions = [str(e) for e in rng.choice(NINE, n)]
    targets = [str(rng.choice([e for e in NINE if e != source])) for source in emotions]
    before = [expressions.sample(rng, e) for e in emotions]
    after = [expressions.sample(rng, e) for e in targets]
    stage = Stage(rigs, layout(rng, n), [b[0] for b in before], FIRST_PERSON + number, samples)
    source, owners = stage.picture(0), stage.owners()
    pictures, everybody, people = [source], source.copy(), []
    for k in range(n):
        stage.move(k, after[k][0])
        x0, y0, x1, y1 = stage.boxes[k]
        crop, changed = stage.picture(k + 1), stage.owners()
        mine = _grown((owners == k + 1) | (changed == k + 1)) & np.isin(owners, (0, k + 1))
        counterfactual = source.copy()
        window = mine[y0:y1, x0:x1, None]
        counterfactual[y0:y1, x0:x1] = np.where(window, crop, source[y0:y1, x0:x1])
        everybody[y0:y1, x0:x1] = np.where(window, crop, everybody[y0:y1, x0:x1])
        pictures.append(counterfactual)
        stage.move(k, before[k][0])
        person = stage.rigs[k].look
        people.append({"identity": person.seed, "emotion": emotions[k], "target": targets[k], "gender": person.gender,
                       "hair_color": person.hair_color, "box": face_box(stage.figures[k], stage)})  # fmt: skip
    pictures.append(everybody)
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
    parser.add_argument(
        "--samples", type=int, default=4, help="paths per sub-pixel (four sub-pixels a pixel)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(args.scenes) if not (args.out / f"{i:04d}.npz").exists()]
    print(f"{args.scenes} scenes, {args.scenes - len(todo)} done before", flush=True)
    start, failed = time.time(), 0
    with ProcessPoolExecutor(args.workers, initializer=start_worker) as pool:
        jobs = {pool.submit(render_scene, number, args.out, args.samples): number for number in todo}
        for done, job in enumerate(as_completed(jobs), 1):
            if job.exception() is not None:
                failed += 1
                print(f"scene {jobs[job]}: {job.exception()!r}", flush=True)
            if done % 5 == 0 or done == len(todo):
                rate = (time.time() - start) / done
                print(
                    f"{done}/{len(todo)}  {rate:.1f} s a scene, {rate * (len(todo) - done) / 60:.0f} min left",
                    flush=True,
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
