"""A person ready to be filmed: every part's geometry in the head frame, for any expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from people import body, expressions, folds, fuzz, hair, paint
from people.look import Look
from people.surface import surface


@dataclass(frozen=True)
class Eye:
    """An eyeball in the head frame, cm."""

    centre: np.ndarray  # (3,)
    radius: float
    gaze: np.ndarray  # unit vector


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) from degrees: yaw turns to the person's left, pitch up, roll towards their left shoulder."""
    y, p, r = np.radians([yaw, -pitch, -roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def tube(
    path: np.ndarray, radius: float, sides: int = 8, closed: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A tube along a polyline (N, 3) -> (vertices (N * sides, 3), triangles); `closed` joins the ends."""
    n = len(path)
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    up = np.cross(ahead, np.array([0.31, 0.11, 0.94]))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    side = np.cross(ahead, up)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(angle)[None, :, None] * up[:, None] + np.sin(angle)[None, :, None] * side[:, None]
    vertices = (path[:, None] + radius * ring).reshape(-1, 3)
    triangles = []
    for i in range(n if closed else n - 1):
        a, b = i * sides, ((i + 1) % n) * sides
        for j in range(sides):
            k = (j + 1) % sides
            triangles += [(a + j, b + j, b + k), (a + j, b + k, a + k)]
    return vertices, np.array(triangles)


def merge(meshes) -> tuple[np.ndarray, np.ndarray]:
    """Several (vertices, triangles) as one."""
    vertices, triangles, offset = [], [], 0
    for v, t in meshes:
        vertices.append(v)
        triangles.append(t + offset)
        offset += len(v)
    return np.concatenate(vertices), np.concatenate(triangles)


class Rig:
    """Geometry of one `Look`, head frame, cm: fixed parts, and in `moving(units)` what expressions change."""

    def __init__(self, look: Look):
        self.look, self.assets = look, body.assets()
        self.person = body.Person(look.phenotype, look.local)
        self.neutral = self.person.neutral
        rng = np.random.default_rng([7, look.seed])
        detail = look.detail
        self.surface = surface()
        self.colours = self._shaded(paint.skin_colours(self.assets, detail), self.assets)
        fine = self.surface.assets
        skin = paint.complexion(fine, paint.skin_colours(fine, detail), detail)
        self.skin_colours = self._shaded(skin, fine)
        self.relief = paint.relief(fine, detail)
        self.hair = None
        if look.cut:
            cut = hair.CUTS[look.cut]
            self.hair = hair.head_hair(
                rng, self.assets, self.neutral, cut, hairline=detail["hairline"], part=detail["part"]
            )
        self.brows = fuzz.brows(
            rng, self.assets, thickness=detail["brow_thickness"], arch=detail["brow_arch"], density=1.0
        )
        self.beard = None
        if look.beard:
            self.beard = fuzz.beard(
                rng, self.assets, length=detail["beard_length"], density=1.0, goatee=detail["goatee"]
            )
        self.turn = rotation(look.yaw, look.pitch, look.roll)
        self.pose = (0.0, 0.0, 0.0)  # yaw, pitch, roll of the expression, degrees, beyond the person's own

    def _shaded(self, colours: np.ndarray, assets: body.Assets) -> np.ndarray:
        """Tints the skin under hair and beard so that gaps between strands do not shine through."""
        detail, strands = self.look.detail, np.array(self.look.detail["hair"])
        if self.look.cut:
            mask = 0.8 * hair.scalp_area(assets, detail["hairline"])[:, None]
            colours = colours * (1 - mask) + 0.8 * strands * mask
        if self.look.beard:
            area = paint.beard_area(assets)
            if detail["goatee"]:
                area = area * (np.abs(assets.template[:, 0]) < 0.27)
            mask = 0.55 * area[:, None]
            colours = colours * (1 - mask) + strands * mask
        return colours

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the head frame, turned about the top of the neck as the head is held.

        `pose` turns the head only: what lies lower follows less and less, the shoulders not at all.
        """
        pivot = np.array([0.0, -6.0, -7.0])
        if any(self.pose):
            height = points[:, 1] + 0.5 * (points[:, 2] + 3)
            share = np.clip((height + 15) / 7, 0, 1)[:, None]
            share = share**2 * (3 - 2 * share)
            turned = (points - pivot) @ rotation(*self.pose).T + pivot
            points = points * (1 - share) + turned * share
        return (points - pivot) @ self.turn.T + pivot

    def eyes(self, units: dict[str, float]) -> list[Eye]:
        """Left and right eyeball, looking where the units and the person's own gaze send them."""
        vertices, result = self.neutral, []
        horizontal, vertical = self.look.detail["gaze"]
        for name, side, inner in (("helper-l-eye", "Left", -1), ("helper-r-eye", "Right", 1)):
            points = vertices[np.unique(self.assets.triangles[name])]
            low, high = points.min(axis=0), points.max(axis=0)
            inwards = units.get(f"eyeLookIn{side}", 0) - units.get(f"eyeLookOut{side}", 0)
            upwards = units.get(f"eyeLookUp{side}", 0) - units.get(f"eyeLookDown{side}", 0)
            yaw, pitch = horizontal + 30 * inner * inwards, vertical + 24 * upwards  # degrees
            yaw -= 0.75 * self.look.yaw  # people look near the camera even when the head is turned
            pitch -= 0.75 * self.look.pitch
            gaze = rotation(yaw, pitch, 0) @ np.array([0, 0, 1.0])
            result.append(Eye((low + high) / 2, float((high - low)[:2].mean() / 2), gaze))
        return result

    def moving(self, units: dict[str, float]) -> dict[str, np.ndarray]:
        """What these face units move, head frame, cm: "vertices" (19158, 3), the fine "skin" (V, 3) and its
        "colours" (V, 3), and the strands "brows", "lashes" and "beard" (if any)."""
        vertices, units = self.shape(units), self.worn(units)
        skin, colours = self.skin(vertices, units)
        template = self.assets.template
        parts = {"vertices": vertices, "skin": skin, "colours": colours}
        parts["brows"] = self.brows.strands(vertices, template)
        parts["lashes"] = fuzz.lashes(vertices, self.look.detail["lashes"])
        if self.beard:
            parts["beard"] = self.beard.strands(vertices, template)
        return parts

    def shape(self, units: dict[str, float]) -> np.ndarray:
        """(19158, 3) vertices of the body model under these face units, head frame, cm."""
        units = self.worn(units)
        return folds.mouth(self.person(expressions.geometry(units)) + folds.push(units), units)

    def skin(self, vertices: np.ndarray, units: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """The fine skin over these vertices (V, 3), folded as the units say, and its colours (V, 3)."""
        detail = self.look.detail
        smooth = self.surface.matrix @ vertices
        strength = folds.strengths(units, detail["age"], np.array(detail["folds"][: len(folds.FOLDS)]))
        height, shade = folds.fold(strength)
        skin = smooth + self.surface.normals(smooth) * (height + self.relief)[:, None]
        return skin, self.skin_colours * (1 - shade[:, None] * np.array([0.30, 0.38, 0.40]))

    def worn(self, units: dict[str, float]) -> dict[str, float]:
        """The units as this face shows them: one side a little stronger, upper lids following the gaze."""
        units, sided = dict(units), self.look.detail["sided"]
        for side, sign in (("Left", 1), ("Right", -1)):
            for name in units:
                if name.endswith(side) and not name.startswith("eye"):
                    units[name] = min(units[name] * (1 + sign * sided), 1.1)
            down = units.get(f"eyeLookDown{side}", 0)
            if down:
                units[f"eyeBlink{side}"] = min(units.get(f"eyeBlink{side}", 0) + 0.25 * down, 1)
        return units

    def clothes(self, long: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A sweater: MakeHuman's tights helper pushed out along its normals; `long` reaches the waist.

        It ends between the collar-bones and below the chin.
        """
        triangles = self.assets.triangles["tights-long" if long else "helper-tights"]
        corners = self.assets.template[triangles]
        low = corners[:, :, 1].max(axis=1) < 5.6 + 0.45 * self.look.detail["neckline"]
        triangles = triangles[low | (np.abs(corners[:, :, 0]).max(axis=1) > 0.95)]
        normals = body.vertex_normals(self.neutral, triangles)
        return self.neutral + 0.6 * self.look.detail["collar"] * normals + 0.25 * normals, triangles

    def glasses(self) -> tuple[np.ndarray, np.ndarray]:
        """Two rims, a bridge and two temples, fitted to the eyes and the brow's depth."""
        style, vertices = self.look.detail["glasses"], self.neutral
        left, right = self.eyes({})
        front = vertices[self.assets.triangles["body"]][:, :, 2]
        lash = vertices[np.unique(self.assets.triangles["helper-l-eyelashes-2"])]
        depth = float(max(lash[:, 2].max() + 0.9, np.percentile(front, 97) - 1.5))
        angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        meshes, outer = [], []
        for eye, sign in ((left, 1), (right, -1)):
            power = 1.0 if style["round"] else 0.45
            x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * (2.15 if style["round"] else 2.45)
            y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * (2.05 if style["round"] else 1.65)
            centre = np.array([eye.centre[0] + sign * 0.15, eye.centre[1] - 0.1, depth])
            rim = centre + np.stack([x, y, -0.05 * np.abs(x)], axis=1)
            meshes.append(tube(rim, style["thickness"]))
            outer.append(centre + np.array([sign * 2.4, 0.5, -0.1]))
        inner = [np.array([s * 0.95, left.centre[1] + 0.1, depth]) for s in (-1, 1)]
        middle = np.array([0, left.centre[1] + 0.35, depth + 0.15])
        meshes.append(tube(np.stack([inner[0], middle, inner[1]]), style["thickness"] * 0.9, closed=False))
        ears = vertices[np.where(self.assets.ears > 0.5)[0]]
        for corner, sign in zip(outer, (1, -1), strict=True):
            mine = ears[ears[:, 0] * sign > 0]
            hook = np.array(
                [sign * (np.abs(mine[:, 0]).min() + 0.4), mine[:, 1].max() - 0.9, mine[:, 2].mean()]
            )
            start = np.array([hook[0], corner[1], corner[2] - 0.8])
            meshes.append(tube(np.stack([corner, start, hook]), style["thickness"] * 0.8, closed=False))
        return merge(meshes)
