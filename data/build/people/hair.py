"""Head hair as strands (polylines: Mitsuba's `linearcurve`), grown from points on the skin's triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from people.body import Assets, vertex_normals

POINTS = 8  # points of a head-hair strand
BROW, TEMPLE = 2.5, -1.8  # head frame, cm: below y = BROW hair stays behind z = TEMPLE


@dataclass(frozen=True)
class Roots:
    """Points on triangles: (N, 3) vertex numbers and (N, 3) barycentric weights."""

    corners: np.ndarray
    weights: np.ndarray

    def at(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3): the points on a mesh with these vertices."""
        return np.einsum("nk,nkd->nd", self.weights, vertices[self.corners])

    def frames(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3, 3): rows are two edges and the normal scaled like them.

        Coordinates in these rows stay the same when the mesh moves: so directions go from the template to a
        posed face.
        """
        a, b, c = (vertices[self.corners[:, i]] for i in range(3))
        normal = np.cross(b - a, c - a)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12) ** 0.5
        return np.stack([b - a, c - a, normal], axis=1)


def scatter(rng, vertices: np.ndarray, triangles: np.ndarray, density: np.ndarray, count: int) -> Roots:
    """`count` points, area-weighted by the per-vertex density."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * density[triangles].mean(axis=1)
    chosen = rng.choice(len(triangles), size=count, p=area / area.sum())
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return Roots(triangles[chosen], np.stack([1 - u - v, u, v], axis=1))


def scalp_area(assets: Assets, hairline: float) -> np.ndarray:
    """Where head hair grows: (19158,) in [0, 1], smooth; `hairline` moves the front up, degrees."""
    d = assets.template - np.array([0.0, 7.45, 0.45])  # from the middle of the skull, decimetres
    radius = np.linalg.norm(d, axis=1)
    azimuth = np.arctan2(np.abs(d[:, 0]), d[:, 2])  # 0 = front, pi = back
    elevation = np.arcsin(np.clip(d[:, 1] / np.maximum(radius, 1e-9), -1, 1))
    knots_a = np.radians([0, 25, 45, 62, 80, 95, 115, 140, 180])
    knots_e = np.array([30, 30, 28, 11, -6, 8, -4, -30, -34])
    knots_e = knots_e + hairline * np.array([1, 1.2, 0.6, 0, 0, 0, 0, 0, 0])
    edge = np.interp(azimuth, knots_a, np.radians(knots_e))
    mask = 1 / (1 + np.exp(-(elevation - edge) / np.radians(1.6)))
    return mask * (1 - np.clip(assets.ears * 2, 0, 1)) * (radius < 1.6)


@dataclass(frozen=True)
class Cut:
    """A hair style: lengths in cm, how it is combed, how it curls."""

    length: float  # at the sides and the back
    top_length: float  # on the crown
    lift: float  # how steeply strands leave the scalp, and how high they lie above it
    comb: tuple[float, float, float]  # direction on top (x to the person's left, y up, z forward)
    gravity: float  # how fast strands turn downwards
    curl: float = 0.0  # radius of curls, cm
    curl_turns: float = 2.0
    count: int = 9000  # strands of a whole head; the part that is filmed gets 65 %
    fringe: float = 0.0  # 1 = hair in front falls over the forehead
    bun: bool = False


CUTS = {
    "short": Cut(2.2, 3.5, 0.35, (0.5, 0.1, -0.5), 0.25, count=8000),
    "crew": Cut(0.9, 1.4, 0.5, (0.1, 0.2, -0.3), 0.05, count=9000),
    "side-part": Cut(2.6, 6.5, 0.35, (1.0, 0.1, -0.45), 0.45, count=8000),
    "slick-back": Cut(5.0, 8.0, 0.30, (0.0, 0.05, -1.0), 0.3, count=8000),
    "bob": Cut(15.0, 20.0, 0.30, (0.75, 0.0, -0.35), 1.1, count=8000),
    "fringe-bob": Cut(14.0, 19.0, 0.30, (0.6, 0.0, 0.1), 1.1, count=8000, fringe=1.0),
    "long": Cut(30.0, 36.0, 0.30, (0.7, 0.0, -0.5), 1.2, count=8000),
    "wavy": Cut(26.0, 32.0, 0.45, (0.7, 0.0, -0.5), 1.0, curl=0.55, curl_turns=4, count=7000),
    "curly": Cut(9.0, 11.0, 0.9, (0.3, 0.5, -0.2), 0.35, curl=0.8, curl_turns=4, count=6000),
    "afro": Cut(5.0, 6.5, 1.0, (0.0, 0.6, -0.1), 0.0, curl=0.55, curl_turns=4, count=9000),
    "bun": Cut(12.0, 14.0, 0.12, (0.0, 0.15, -1.0), 0.0, count=8000, bun=True),
}


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, 3) -> the same directions at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _comb_field(cut: Cut, rest: np.ndarray, part: float) -> np.ndarray:
    """Preferred direction at scalp points `rest` (template, dm): parted on top, backwards at the sides."""
    x, y, z = rest.T
    side = np.sign(x - part)
    direction = np.tile(np.array(cut.comb, dtype=np.float64), (len(rest), 1))
    direction[:, 0] *= side
    front = np.clip((z - 0.75) / 0.4, 0, 1) * (np.abs(x) < 0.5)
    direction[:, 2] += cut.fringe * 1.6 * front
    direction[:, 1] -= cut.fringe * 0.9 * front
    direction[:, 0] *= 1 - 0.8 * cut.fringe * front
    low = np.clip((7.9 - y) / 0.4, 0, 1)[:, None]
    back = np.stack([0.15 * np.sign(x), -0.5 - cut.gravity * np.ones_like(x), -0.8 * np.ones_like(x)], axis=1)
    if cut.bun:
        return np.array([0.0, 7.95, -0.55]) - rest
    return direction * (1 - low) + back * low


def head_hair(
    rng, assets: Assets, vertices: np.ndarray, cut: Cut, *, hairline: float, part: float
) -> np.ndarray:
    """(N, POINTS, 3) strands in the head frame, cm, grown on the neutral face and kept for every expression.

    `vertices` is the neutral face in the head frame; `hairline` moves the front up, degrees; `part` is the
    parting's place, template decimetres to the person's left.
    """
    body = assets.triangles["body"]
    seen = 1 / (1 + np.exp(-(assets.template[:, 2] + 0.1) / 0.05))  # the back of the head is never filmed
    roots = scatter(rng, vertices, body, scalp_area(assets, hairline) * seen, int(0.65 * cut.count))
    start, rest = roots.at(vertices), roots.at(assets.template)
    normals = vertex_normals(vertices, body)
    root_normal = _unit(np.einsum("nk,nkd->nd", roots.weights, normals[roots.corners]))
    length, free = _lengths(rng, start, rest, cut)
    comb = _unit(_comb_field(cut, rest, part) + rng.normal(0, 0.10, rest.shape))
    layer = rng.uniform(0.10, 0.75, len(rest)) * (0.5 + cut.lift)  # gives the hair its volume
    scalp = np.concatenate([body, assets.triangles["helper-tights"]])
    direction = root_normal * cut.lift + comb * (1 - cut.lift * 0.6)
    strands = _grow(
        start - 0.15 * root_normal, direction, comb, length, layer, free, cut.gravity, vertices, scalp
    )
    if cut.curl:
        strands = strands + _curls(rng, strands, root_normal, cut)
    return strands


def _lengths(rng, start: np.ndarray, rest: np.ndarray, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """Each strand's length (N,), cm, and whether it may fall over the forehead (N,).

    `start`: roots in the head frame, cm; `rest`: the same on the template, dm.
    """
    crown = np.clip((rest[:, 1] - 7.7) / 0.5, 0, 1)
    length = (cut.length + (cut.top_length - cut.length) * crown) * rng.uniform(0.82, 1.06, len(rest))
    free = (cut.fringe > 0) & (rest[:, 2] > 0.85) & (np.abs(rest[:, 0]) < 0.45)
    if cut.fringe:
        to_brows = np.clip((start[:, 1] - 3.0) * rng.uniform(0.9, 1.15, len(rest)), 0.8, 7)
        length = np.where(free, to_brows, length)
    return length, free


def _grow(start, direction, comb, length, layer, free, gravity: float, vertices, triangles) -> np.ndarray:
    """Strands (N, POINTS, 3), cm, grown step by step: combed, pulled down, kept off the skin.

    start, direction, comb: (N, 3), where strands begin, set out and are combed to; length, layer: (N,), cm,
    the latter above the skin (vertices, triangles); free: (N,), those that may hang in front of the face.
    """
    near = np.unique(triangles)
    skin, outwards = vertices[near], vertex_normals(vertices, triangles)[near]
    tree = cKDTree(skin)
    step = (length / (POINTS - 1))[:, None]
    points = [start]
    for k in range(1, POINTS):
        p = points[-1] + step * _unit(direction)
        _, index = tree.query(p)
        height = np.einsum("nd,nd->n", p - skin[index], outwards[index])
        p = p + outwards[index] * np.clip(layer - height, 0, None)[:, None]
        p[:, 2] = np.where(~free & (p[:, 1] < BROW), np.minimum(p[:, 2], TEMPLE), p[:, 2])
        points.append(p)
        fall = np.clip(k / 2.5, 0, 1) * gravity
        direction = 0.55 * (p - points[-2]) / step + 0.45 * comb * (1 - 0.3 * fall)
        direction[:, 1] -= fall
    return np.stack(points, axis=1)


def _curls(rng, strands: np.ndarray, normal: np.ndarray, cut: Cut) -> np.ndarray:
    """Displacements (N, POINTS, 3), cm, that wind each strand around its way."""
    t = np.linspace(0, 1, POINTS)[None, :, None]
    phase = rng.uniform(0, 6.28, (len(strands), 1, 1))
    other = _unit(np.cross(normal, rng.normal(size=normal.shape)))
    angle = phase + 6.28 * cut.curl_turns * t * 0.5
    wave = np.cos(angle) * normal[:, None] + np.sin(angle) * other[:, None]
    return cut.curl * np.minimum(t * 3, 1) * wave
