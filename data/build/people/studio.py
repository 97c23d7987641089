"""The photographer's studio in Mitsuba 3: light, wall, camera, development, and the portrait of one person.

World frame: the head frame of `people.body` (centimetres, x to the person's left, y up, z towards the camera)
with the portrayed head at the origin.
"""

from __future__ import annotations

import drjit as dr
import mitsuba as mi
import numpy as np
import pyoidn

from people.backdrop import backdrop
from people.figure import Figure, rgb  # selects Mitsuba's variant
from people.rig import Rig

FRAME = 18.8  # cm of face plane across the picture: brow to chin spans about three quarters of the height
DISTANCE = 105.0  # cm from camera to face
LOOK_AT = np.array([0.0, -2.4, 1.0])


def single_thread() -> None:
    """One render thread in this process: several processes of one thread each are faster than the reverse."""
    dr.set_thread_count(1)


def lights(light: dict) -> dict:
    """A constant sky, a weaker light from the other side, a soft key light, after `Look.detail["light"]`.

    They are loaded here and not with the scene: Mitsuba orders what it loads itself differently from run to
    run, and the order of the lights decides the pattern of the noise.
    """
    warm = np.array([1 + light["warmth"], 1.0, 1 - light["warmth"]])

    def panel(azimuth, elevation, power, size, distance):  # degrees, radiance, half width and distance in cm
        a, e = np.radians([azimuth, elevation])
        position = distance * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        pose = mi.ScalarTransform4f().look_at(origin=position.tolist(), target=[0, -3, 0], up=[0, 1, 0.01])
        return {
            "type": "rectangle",
            "to_world": pose @ mi.ScalarTransform4f().scale(size),
            "emitter": {"type": "area", "radiance": rgb(power * warm)},
        }

    sky = {"type": "constant", "radiance": rgb(light["fill"] * np.array([0.97, 1.0, 1.03]))}
    other = panel(-light["azimuth"] * 1.3 + 10, 25, 0.35 * light["key"], 45, 190)
    key = panel(light["azimuth"], light["elevation"], light["key"], 45, 170)
    return {name: mi.load_dict(one) for name, one in (("sky", sky), ("rim", other), ("key", key))}


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
    """Renders, denoises (Open Image Denoise) and halves the size -> linear (H / 2, W / 2, 3)."""
    noisy = np.nan_to_num(np.array(mi.render(scene, sensor=sensor, seed=seed), dtype=np.float32))
    clean = pyoidn.denoise(np.ascontiguousarray(noisy[:, :, :3]), hdr=True)
    h, w, _ = clean.shape
    return clean.reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3))


def exposure(rig: Rig) -> float:
    """What a camera's automatic exposure does: darker skin gets more light, though not all the difference."""
    luminance = float(np.median(rig.colours[rig.assets.lips < 0.1] @ (0.2126, 0.7152, 0.0722)))
    return float(np.clip((0.42 / luminance) ** 0.38, 0.9, 1.9))


def develop(image: np.ndarray, exposure: float) -> np.ndarray:
    """Linear radiance -> (H, W, 3) sRGB uint8; a soft shoulder above 0.8 keeps the highlights' colour."""
    x = np.clip(image * exposure, 0, None)
    x = np.where(x > 0.8, 0.8 + 0.2 * np.tanh((x - 0.8) / 0.4), x)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.power(np.maximum(x, 1e-9), 1 / 2.4) - 0.055)
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)


class Portrait:
    """The fixed scene of one person; `shoot(units)` renders an expression in it."""

    def __init__(self, rig: Rig, size: int = 96, samples: int = 4):
        """`size`: pixels of the square picture; `samples`: paths per sub-pixel (four to a pixel)."""
        look = rig.look
        camera = look.detail["camera"]
        target = LOOK_AT + np.array([*camera["shift"], 0.0])
        self.origin = target + np.array([0, 0, DISTANCE])
        self.fov = 2 * np.degrees(np.arctan(FRAME * camera["zoom"] / 2 / DISTANCE))
        self.figure = Figure(rig)
        picture = backdrop(look.background, look.detail["wall"], look.detail["backdrop_seed"])
        pose = mi.ScalarTransform4f().look_at(
            origin=self.origin.tolist(), target=target.tolist(), up=[0, 1, 0]
        )
        sensor = {"type": "perspective", "fov": float(self.fov), "to_world": pose}
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3},
            "sensor": {**sensor, **film(2 * size, 2 * size, samples)},
            "wall": wall(picture, 24, 24, -55),
            **lights(look.detail["light"]),
            **self.figure.shapes({}),
        }
        self.scene = mi.load_dict(scene)
        self.params = mi.traverse(self.scene)
        self.exposure = exposure(rig)
        self.seed, self.size = look.seed, size

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) -> pixel positions (N, 2), x to the right, y down."""
        relative = self.origin - points
        scale = self.size / 2 / np.tan(np.radians(self.fov / 2)) / relative[:, 2:]
        return self.size / 2 + relative[:, :2] * scale * np.array([-1.0, 1.0])

    def shoot(self, units: dict[str, float]) -> np.ndarray:
        """Face units -> (size, size, 3) uint8."""
        self.figure.move(self.params, units)
        self.params.update()
        return develop(expose(self.scene, self.seed), self.exposure)
