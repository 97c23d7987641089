"""The Mitsuba scene of one picture of several people.

World frame as in `people.studio`, with the eyes of the front row at about y = 0, z = 0.
"""

from __future__ import annotations

import mitsuba as mi
import numpy as np

from people import studio
from people.backdrop import backdrop
from people.figure import Figure
from people.light import lights, rgb
from people.paint import to_linear

HEIGHT, WIDTH = 384, 576  # pixels
SPAN = {2: 62.0, 3: 70.0, 4: 70.0}  # cm across the picture, by the number of people
HEADROOM = {2: 18.0, 3: 24.0, 4: 31.0}  # cm above the eyes of the front row
CAMERA = 190.0  # cm from the camera to the people
WOODS = np.array([(120, 78, 48), (190, 160, 120), (70, 52, 44), (200, 200, 198)])  # sRGB of tables


class Stage:
    """People before a wall, behind a table; sensor 0 films all of it, sensors 1, 2, ... a head each."""

    def __init__(self, rigs: list, places: list, felt: list[tuple], seed: int, samples: int):
        """`places`: of the heads, cm; `felt`: everybody's face units, and how the head is turned for them.

        Light and wall are the first person's.
        """
        self.seed, self.samples, self.size = seed, samples, np.array([WIDTH, HEIGHT])
        look, span = rigs[0].look, SPAN[len(rigs)]
        target = np.array([0.0, HEADROOM[len(rigs)] - span * HEIGHT / WIDTH / 2, 0.0])
        self.origin = target + np.array([0, 0, CAMERA])
        self.fov = float(2 * np.degrees(np.arctan(span / 2 / CAMERA)))
        self.figures = [
            Figure(rig, offset=place, tag=f"p{k}", long=True)
            for k, (rig, place) in enumerate(zip(rigs, places, strict=True))
        ]
        self.boxes = [self._window(figure) for figure in self.figures]
        wall, backdrop_seed = look.detail["wall"], look.detail["backdrop_seed"]
        picture = backdrop("cluttered", wall, backdrop_seed, size=(1152, 768), blur=2.0)
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3},
            **self._sensors(target, samples),
            "wall": studio.wall(picture, 96, 64, -75),
            "table": self._table(),
            **lights(look.detail, wall),
        }
        for figure in self.figures:
            scene.update(figure.shapes({}))
        self.scene = mi.load_dict(scene)
        self.params = mi.traverse(self.scene)
        faces = [(figure.rig, studio.middle_of_face(figure, self)) for figure in self.figures]
        for k, (units, pose) in enumerate(felt):
            self.move(k, units, pose)
        light = studio.meter(self.scene, samples, faces, self.size)
        self.exposure = float(np.mean([studio.exposure(rig) for rig in rigs])) * studio.LIT / light

    def _sensors(self, target: np.ndarray, samples: int) -> dict:
        """The camera for the whole picture, and for each head the same one with its film cut to the head."""
        pose = mi.ScalarTransform4f().look_at(
            origin=self.origin.tolist(), target=target.tolist(), up=[0, 1, 0]
        )
        sensors = {}
        for name, box in (("", [0, 0, WIDTH, HEIGHT]), *((str(k), box) for k, box in enumerate(self.boxes))):
            x0, y0, x1, y1 = (2 * v for v in box)
            film = studio.film(2 * WIDTH, 2 * HEIGHT, samples)
            if name:
                film["film"].update(
                    crop_offset_x=x0, crop_offset_y=y0, crop_width=x1 - x0, crop_height=y1 - y0
                )
            camera = {"type": "perspective", "fov": self.fov, "fov_axis": "x", "to_world": pose}
            sensors[f"sensor{name}"] = {**camera, **film}
        return sensors

    def _table(self) -> dict:
        wood = to_linear(WOODS[np.random.default_rng([13, self.seed]).integers(4)])
        pose = mi.ScalarTransform4f().translate([0, -36, 12]).scale([110, 12, 20])
        return {"type": "cube", "to_world": pose, "bsdf": {"type": "diffuse", "reflectance": rgb(wood)}}

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) -> pixel positions (N, 2), x to the right, y down."""
        relative = self.origin - points
        scale = WIDTH / 2 / np.tan(np.radians(self.fov / 2)) / relative[:, 2:]
        return np.array([WIDTH, HEIGHT]) / 2 + relative[:, :2] * scale * np.array([-1.0, 1.0])

    def _window(self, figure: Figure) -> list[int]:
        """What an expression can change, [x0, y0, x1, y1] in pixels: the head and neck with a margin."""
        rig = figure.rig
        body = np.unique(rig.assets.triangles["body"])
        head = rig.neutral[body[rig.assets.template[body, 1] > 5.9]]
        if rig.hair is not None:
            head = np.concatenate([head, rig.hair.reshape(-1, 3)])
        xy = self.project(figure.world(head))
        low = np.clip(np.floor(xy.min(axis=0)) - 16, 0, None)
        high = np.minimum(np.ceil(xy.max(axis=0)) + 16, [WIDTH, HEIGHT])
        return [int(low[0]), int(low[1]), int(high[0]), int(high[1])]

    def picture(self, sensor: int) -> np.ndarray:
        """What a sensor sees, uint8: (HEIGHT, WIDTH, 3) for sensor 0, the size of `boxes[k]` for k + 1."""
        return studio.develop(studio.expose(self.scene, self.seed, sensor), self.exposure)

    def owners(self, sensor: int = 0) -> np.ndarray:
        """(H, W) uint8, sized as `picture(sensor)`: who is in each pixel; person k is k + 1, nobody is 0."""
        probe = mi.load_dict({"type": "aov", "aovs": "i:shape_index"})
        layers = np.array(mi.render(self.scene, sensor=sensor, integrator=probe, spp=1, seed=self.seed))
        # Rendering with `spp` leaves that count in the sampler, which Mitsuba shares between equal sensors.
        self.scene.sensors()[sensor].sampler().set_sample_count(self.samples)
        index = np.nan_to_num(layers[::2, ::2, -1], nan=-1).round().astype(int)  # counts from 1
        table = np.zeros(len(self.scene.shapes()) + 1, dtype=np.uint8)
        for i, shape in enumerate(self.scene.shapes()):
            tag = shape.id().split("_")[0]
            if tag[:1] == "p" and tag[1:].isdigit():
                table[i] = int(tag[1:]) + 1
        return np.where(index >= 1, table[np.clip(index - 1, 0, len(table) - 1)], 0).astype(np.uint8)

    def move(self, k: int, units: dict[str, float], pose=(0.0, 0.0, 0.0)) -> None:
        """Gives person k another expression; `pose` turns the head for it, degrees."""
        self.figures[k].move(self.params, units, pose)
        self.params.update()
