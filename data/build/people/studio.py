"""The photographer's studio in Mitsuba 3: wall, camera, development, and the portrait of one person.

World frame: the head frame of `people.body` (centimetres, x to the person's left, y up, z towards the camera)
with the portrayed head at the origin.
"""

from __future__ import annotations

import drjit as dr
import mitsuba as mi
import numpy as np
import pyoidn

from emolib.data.framing import face_square
from people import landmarks
from people.backdrop import backdrop
from people.figure import Figure  # selects Mitsuba's variant
from people.light import lights
from people.rig import Rig

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
LIT = 0.85  # the light that a meter makes of any light, as radiance of a white face


def single_thread() -> None:
    """One render thread in this process: several processes of one thread each are faster than the reverse."""
    dr.set_thread_count(1)


def wall(picture: np.ndarray, half_width: float, half_height: float, depth: float) -> dict:
    """A wall at z = `depth` showing `picture` (H, W, 3), sRGB in [0, 1]; lengths in cm."""
    pose = mi.ScalarTransform4f().translate([0, -3, depth]).scale([half_width, half_height, 1])
    texture = {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": False, "filter_type": "bilinear"}
    return {"type": "rectangle", "to_world": pose, "bsdf": {"type": "diffuse", "reflectance": texture}}


def film(width: int, height: int, samples: int) -> dict:
    """A sensor's film in pixels and its sampler with `samples` paths a pixel."""
    return {
        "film": {"type": "hdrfilm", "width": width, "height": height, "rfilter": {"type": "box"},
                 "pixel_format": "rgb", "component_format": "float32"},
        "sampler": {"type": "multijitter", "sample_count": samples},
    }  # fmt: skip


def expose(scene, seed: int, sensor: int = 0) -> np.ndarray:
    """Renders, halves the size and denoises (Open Image Denoise) -> linear (H / 2, W / 2, 3)."""
    noisy = np.nan_to_num(np.array(mi.render(scene, sensor=sensor, seed=seed), dtype=np.float32))
    h, w, _ = noisy.shape
    halved = noisy[:, :, :3].reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3))
    return pyoidn.denoise(np.ascontiguousarray(halved), hdr=True)


def exposure(rig: Rig) -> float:
    """What a camera's automatic exposure does: darker skin gets more light, though not all the difference."""
    luminance = float(np.median(rig.colours[rig.assets.lips < 0.1] @ LUMINANCE))
    return float(np.clip((0.42 / luminance) ** 0.38, 0.9, 1.9))


def develop(image: np.ndarray, exposure: float) -> np.ndarray:
    """Linear radiance -> (H, W, 3) sRGB uint8; a soft shoulder above 0.8 keeps the highlights' colour."""
    x = np.clip(image * exposure, 0, None)
    x = np.where(x > 0.8, 0.8 + 0.2 * np.tanh((x - 0.8) / 0.4), x)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.power(np.maximum(x, 1e-9), 1 / 2.4) - 0.055)
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def meter(scene, samples: int, faces: list[tuple], size: np.ndarray) -> float:
    """How bright the light on the faces is: their mean radiance by that of their skin in a light of 1.

    `faces`: (rig, box [x0, y0, x1, y1] in pixels) each; `size`: of the picture, (width, height); `samples` is
    given back to the sampler, in which rendering with another count leaves that one.
    """
    quick = np.nan_to_num(np.array(mi.render(scene, sensor=0, spp=1, seed=1), dtype=np.float64))
    scene.sensors()[0].sampler().set_sample_count(samples)
    ratios = []
    for rig, box in faces:
        x0, y0, x1, y1 = np.clip(np.round(2 * np.array(box)), 0, 2 * np.tile(size, 2)).astype(int)
        radiance = np.minimum(quick[y0:y1, x0:x1, :3] @ LUMINANCE, 10)
        ratios.append(radiance.mean() / np.median(rig.colours[rig.assets.lips < 0.1] @ LUMINANCE))
    return float(np.mean(ratios))


def middle_of_face(figure, view) -> tuple[float, float, float, float]:
    """From the eyes to the mouth, in pixels of the view: [x0, y0, x1, y1]."""
    eyes, mouth = landmarks.frame_points(figure, view)
    return eyes[:, 0].min(), eyes[:, 1].mean(), eyes[:, 0].max(), mouth[:, 1].mean()


class Portrait:
    """The fixed scene of one person; `shoot(units)` renders an expression in it."""

    def __init__(self, rig: Rig, size: int = 128, samples: int = 4):
        """`size`: pixels of the square picture; `samples`: paths per sub-pixel (four to a pixel)."""
        look = rig.look
        self.seed, self.size, self.figure = look.seed, size, Figure(rig)
        self._aim(look.detail)
        depth = max(look.detail["defocus"], 0.6)
        picture = backdrop(look.background, look.detail["wall"], look.detail["backdrop_seed"], blur=depth)
        pose = mi.ScalarTransform4f().look_at(
            origin=self.origin.tolist(), target=(self.origin - [0, 0, 1]).tolist(), up=[0, 1, 0]
        )
        sensor = {"type": "perspective", "fov": float(self.fov), "to_world": pose}
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3},
            "sensor": {**sensor, **film(2 * size, 2 * size, samples)},
            "wall": wall(picture, 30, 30, -55),
            **lights(look.detail, look.detail["wall"]),
            **self.figure.shapes({}),
        }
        self.scene = mi.load_dict(scene)
        self.params = mi.traverse(self.scene)
        self.depth = mi.load_dict({"type": "aov", "aovs": "depth:depth"})
        faces = [(rig, middle_of_face(self.figure, self))]
        self.exposure = exposure(rig) * LIT / meter(self.scene, samples, faces, np.array([size, size]))

    def _aim(self, detail: dict) -> None:
        """Places the camera so that `face_square` of the face without expression fills the picture."""
        camera, distance = detail["camera"], detail["distance"]
        self.origin, self.fov = np.array([0.0, -2.4, distance]), 12.0
        for _ in range(3):
            square = face_square(*landmarks.frame_points(self.figure, self))
            centimetres = 2 * distance * np.tan(np.radians(self.fov / 2)) / self.size
            off = np.array([square.x, square.y]) - self.size / 2
            self.origin = self.origin + np.array([off[0], -off[1], 0]) * centimetres
            half = square.side * camera["zoom"] / 2 * centimetres
            self.fov = float(2 * np.degrees(np.arctan(half / distance)))
        self.origin = self.origin + np.array([*camera["shift"], 0.0])

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) -> pixel positions (N, 2), x to the right, y down."""
        relative = self.origin - points
        scale = self.size / 2 / np.tan(np.radians(self.fov / 2)) / relative[:, 2:]
        return self.size / 2 + relative[:, :2] * scale * np.array([-1.0, 1.0])

    def shoot(self, units: dict[str, float], pose=(0.0, 0.0, 0.0)) -> np.ndarray:
        """Face units, and degrees by which the head turns for them -> (size, size, 3) uint8."""
        self.figure.move(self.params, units, pose)
        self.params.update()
        return develop(expose(self.scene, self.seed), self.exposure)

    def mask(self) -> np.ndarray:
        """How much of each pixel the person fills as last filmed -> (size, size) uint8, 255: all of it."""
        depth = np.array(mi.render(self.scene, sensor=0, integrator=self.depth, spp=1, seed=1))[:, :, -1]
        before_wall = (depth < self.origin[2] + 35).astype(np.float32)  # the wall stands at -55
        share = before_wall.reshape(self.size, 2, self.size, 2).mean(axis=(1, 3))
        return (255 * share + 0.5).astype(np.uint8)
