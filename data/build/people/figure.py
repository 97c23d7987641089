"""One person as Mitsuba 3 shapes: built once, then only what an expression moves is moved.

Importing this module selects Mitsuba's `scalar_rgb` variant, which every module of this package uses.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import mitsuba as mi
import numpy as np

from people.body import KEEP
from people.eyes import eyeball
from people.light import rgb
from people.paint import to_linear
from people.rig import Eye, Rig, rotation

mi.set_variant("scalar_rgb")
SHADES = (0.72, 1.0, 1.35)  # strands come in three near shades
MOUTH = tuple(name for name in KEEP if name not in ("body", "helper-tights"))
VERTEX_COLOUR = {"type": "mesh_attribute", "name": "vertex_color"}


def _mesh(
    name: str, vertices: np.ndarray, triangles: np.ndarray, bsdf: dict, colours: np.ndarray | None = None
):
    """A two-sided mesh; vertices (N, 3) in cm, colours (N, 3) linear RGB or None."""
    props = mi.Properties()
    props["bsdf"] = mi.load_dict({"type": "twosided", "b": bsdf})
    mesh = mi.Mesh(name, len(vertices), len(triangles), has_vertex_normals=True, props=props)
    if colours is not None:
        mesh.add_attribute("vertex_color", 3, colours.astype(np.float32).ravel())
    params = mi.traverse(mesh)
    params["faces"] = triangles.astype(np.uint32).ravel()
    params["vertex_positions"] = vertices.astype(np.float32).ravel()
    params.update()
    return mesh


def _curves(strands: np.ndarray, root: float, tip: float, colour: np.ndarray, folder: Path):
    """strands: (N, P, 3), joined by straight pieces. Radii taper from root to tip, cm."""
    n, p, _ = strands.shape
    radius = np.broadcast_to(np.linspace(root, tip, p)[None, :, None], (n, p, 1))
    rows = np.concatenate([strands, radius], axis=2)
    file = folder / "strands.txt"
    with file.open("w") as out:
        for strand in rows:
            out.write("\n".join(" ".join(f"{value:.4f}" for value in row) for row in strand))
            out.write("\n\n")
    return mi.load_dict({"type": "linearcurve", "filename": str(file), "bsdf": _hair_bsdf(colour)})


def _hair_bsdf(colour) -> dict:
    colour = rgb(np.clip(colour, 0, 1))
    return {"type": "principled", "base_color": colour, "roughness": 0.45, "specular": 0.35}


def _compact(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) vertex numbers -> the numbers in use, and the triangles in terms of those."""
    used, renumbered = np.unique(triangles, return_inverse=True)
    return used, renumbered.reshape(-1, 3)


class Figure:
    """One person's shapes, and how to move them."""

    def __init__(self, rig: Rig, offset=(0.0, 0.0, 0.0), tag: str = "p", long: bool = False):
        """`offset`: the head's place, cm; `tag` begins the shapes' names; `long`: clothes to the waist."""
        self.rig, self.tag, self.offset, self.long = rig, tag, np.asarray(offset, dtype=np.float64), long

    def world(self, points: np.ndarray) -> np.ndarray:
        """Head frame -> world frame, cm: turned, then put where the head is."""
        return self.rig.place(points) + self.offset

    def _placed(self, strands: np.ndarray) -> np.ndarray:
        """(N, P, 3) strands in world space."""
        return self.world(strands.reshape(-1, 3)).reshape(strands.shape)

    def _meshes(self, moving: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Compact (vertices, triangles) of the skin and of what is in the mouth, in world space."""
        result = {"body": (self.world(moving["skin"]), self.rig.surface.triangles)}
        for name in MOUTH:
            used, triangles = _compact(self.rig.assets.triangles[name])
            result[name] = (self.world(moving["vertices"][used]), triangles)
        return result

    def shapes(self, units: dict[str, float]) -> dict:
        """Everything of the person under these face units, as entries of a scene."""
        moving, parts = self.rig.moving(units), {}
        for name, (vertices, triangles) in self._meshes(moving).items():
            bsdf, colours = self._surface(name, moving, len(vertices))
            parts[name] = _mesh(name, vertices, triangles, bsdf, colours)
        for side, eye in zip("lr", self.rig.eyes(units), strict=True):
            parts[f"eye_{side}"] = eyeball(self._eye_pose(eye), self.rig.look.detail, self.rig.look.seed)
        parts["clothes"] = self._clothes()
        if self.rig.look.glasses:
            parts["glasses"] = self._glasses()
        parts.update(self._strands(moving))
        return {f"{self.tag}_{name}": shape for name, shape in parts.items()}

    def _surface(self, name: str, moving: dict, count: int) -> tuple[dict, np.ndarray | None]:
        """Material and vertex colours of a mesh of `count` vertices."""
        if name == "body":
            oil = self.rig.look.detail["complexion"]["oil"]
            skin = {"type": "principled", "base_color": VERTEX_COLOUR, "roughness": 0.58 - 0.2 * oil,
                    "specular": 0.26 + 0.16 * oil}  # fmt: skip
            return skin, moving["colours"]
        if "teeth" in name:  # brighter than physics: three bounces light too little of a mouth's inside
            enamel = {"type": "diffuse", "reflectance": VERTEX_COLOUR}
            return enamel, np.tile((1.30, 1.23, 1.08), (count, 1))
        tongue = rgb(to_linear((190, 92, 96)))
        return {"type": "principled", "base_color": tongue, "roughness": 0.4}, None

    def _clothes(self):
        vertices, triangles = self.rig.clothes(self.long)
        used, triangles = _compact(triangles)
        cloth = {"type": "diffuse", "reflectance": rgb(self.rig.look.detail["clothes"])}
        return _mesh("clothes", self.world(vertices[used]), triangles, cloth)

    def _glasses(self):
        vertices, triangles = self.rig.glasses()
        colour = rgb(self.rig.look.detail["glasses"]["colour"])
        return _mesh(
            "glasses", self.world(vertices), triangles, {"type": "plastic", "diffuse_reflectance": colour}
        )

    def _eye_pose(self, eye: Eye) -> mi.ScalarTransform4f:
        """Unit sphere -> eyeball; the sphere's +z pole goes onto the gaze."""
        z = self.rig.turn @ rotation(*self.rig.pose) @ eye.gaze
        x = np.cross([0, 1, 0], z)
        x /= np.linalg.norm(x)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1) * eye.radius
        matrix[:3, 3] = self.rig.place(eye.centre[None])[0]
        return mi.ScalarTransform4f().translate(self.offset.tolist()) @ mi.ScalarTransform4f(matrix)

    def _strands(self, moving: dict) -> dict:
        """Hair in three shades, brows, lashes and beard."""
        look, parts = self.rig.look, {}
        colour = np.array(look.detail["hair"])
        brow_colour = 0.62 * colour + 0.004 if look.hair_color != "grey" else 0.4 * colour
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if self.rig.hair is not None:
                for i, shade in enumerate(SHADES):
                    strands = self._placed(self.rig.hair[i :: len(SHADES)])
                    parts[f"hair{i}"] = _curves(strands, 0.075, 0.04, colour * shade, folder)
            parts["brows"] = _curves(self._placed(moving["brows"]), 0.024, 0.009, brow_colour, folder)
            parts["lashes"] = _curves(self._placed(moving["lashes"]), 0.02, 0.008, 0.25 * brow_colour, folder)
            if "beard" in moving:
                parts["beard"] = _curves(self._placed(moving["beard"]), 0.05, 0.03, colour * 0.9, folder)
        return parts

    def move(self, params, units: dict[str, float], pose=(0.0, 0.0, 0.0)) -> None:
        """Writes the geometry of another expression, and of how the head is held, into scene parameters."""
        turned, self.rig.pose = tuple(pose) != tuple(self.rig.pose), tuple(pose)
        moving = self.rig.moving(units)
        for name, (vertices, _) in self._meshes(moving).items():
            params[f"{self.tag}_{name}.vertex_positions"] = vertices.astype(np.float32).ravel()
        params[f"{self.tag}_body.vertex_color"] = moving["colours"].astype(np.float32).ravel()
        for side, eye in zip("lr", self.rig.eyes(units), strict=True):
            params[f"{self.tag}_eye_{side}.to_world"] = self._eye_pose(eye)
        strands = {name: moving[name] for name in ("brows", "lashes", "beard") if name in moving}
        if turned:
            strands.update(self._turned(params))
        for name, points in strands.items():
            key = f"{self.tag}_{name}.control_points"
            kept = np.array(params[key], dtype=np.float32).reshape(-1, 4)
            kept[:, :3] = self.world(points.reshape(-1, 3))
            params[key] = kept.ravel()

    def _turned(self, params) -> dict[str, np.ndarray]:
        """Moves the glasses with the head; returns the strands of head hair that have to follow."""
        if self.rig.look.glasses:
            vertices = self.world(self.rig.glasses()[0]).astype(np.float32)
            params[f"{self.tag}_glasses.vertex_positions"] = vertices.ravel()
        if self.rig.hair is None:
            return {}
        return {f"hair{i}": self.rig.hair[i :: len(SHADES)] for i in range(len(SHADES))}
