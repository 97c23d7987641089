"""Hair, brows and beards as strands (B-spline curves), grown from points that stay glued to the skin's triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from people.body import Assets, vertex_normals
from people.paint import beard_area

POINTS = 8  # control points of a head-hair strand


@dataclass(frozen=True)
class Roots:
    """Points on triangles: (N, 3) vertex numbers and (N, 3) barycentric weights."""

    corners: np.ndarray
    weights: np.ndarray

    def at(self, vertices: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nkd->nd", self.weights, vertices[self.corners])

    def frames(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3, 3): rows are two edges and the normal scaled like them; maps template directions to posed ones."""
        a, b, c = (vertices[self.corners[:, i]] for i in range(3))
        e1, e2 = b - a, c - a
        n = np.cross(e1, e2)
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12) ** 0.5
        return np.stack([e1, e2, n], axis=1)


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
    """Smooth scalp mask in [0, 1] on the template; `hairline` moves the front up, degrees."""
    d = assets.template - np.array([0.0, 7.45, 0.45])
    radius = np.linalg.norm(d, axis=1)
    azimuth = np.arctan2(np.abs(d[:, 0]), d[:, 2])  # 0 = front, pi = back
    elevation = np.arcsin(np.clip(d[:, 1] / np.maximum(radius, 1e-9), -1, 1))
    knots_a = np.radians([0, 25, 45, 62, 80, 95, 115, 140, 180])
    knots_e = np.array([30, 30, 28, 11, -6, 8, -4, -30, -34]) + hairline * np.array(
        [1, 1.2, 0.6, 0, 0, 0, 0, 0, 0]
    )
    edge = np.interp(azimuth, knots_a, np.radians(knots_e))
    mask = 1 / (1 + np.exp(-(elevation - edge) / np.radians(1.6)))
    return mask * (1 - np.clip(assets.ears * 2, 0, 1)) * (radius < 1.6)


@dataclass(frozen=True)
class Cut:
    """A hair style: lengths in cm, how it is combed, how it curls."""

    length: float
    top_length: float  # length on the crown
    lift: float  # how far strands stand off the scalp before they lie
    comb: tuple[float, float, float]  # direction on top (x to the person's left, y up, z forward)
    gravity: float
    curl: float = 0.0  # radius of curls, cm
    curl_turns: float = 2.0
    count: int = 9000
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
    """(N, POINTS, 3) control points in the head frame, cm, grown on the neutral face and kept for every expression."""
    body = assets.triangles["body"]
    mask = scalp_area(assets, hairline)
    seen = 1 / (1 + np.exp(-(assets.template[:, 2] + 0.1) / 0.05))  # the back of the head is never filmed
    roots = scatter(rng, vertices, body, mask * seen, int(0.65 * cut.count))
    start, rest = roots.at(vertices), roots.at(assets.template)
    normals = vertex_normals(vertices, body)
    root_normal = np.einsum("nk,nkd->nd", roots.weights, normals[roots.corners])
    root_normal /= np.maximum(np.linalg.norm(root_normal, axis=1, keepdims=True), 1e-9)
    crown = np.clip((rest[:, 1] - 7.7) / 0.5, 0, 1)
    length = (cut.length + (cut.top_length - cut.length) * crown) * rng.uniform(0.82, 1.06, len(rest))
    free = (
        (cut.fringe > 0) & (rest[:, 2] > 0.85) & (np.abs(rest[:, 0]) < 0.45)
    )  # these may fall over the forehead
    if cut.fringe:
        length = np.where(
            free, np.clip((start[:, 1] - 3.0) * rng.uniform(0.9, 1.15, len(rest)), 0.8, 7), length
        )
    comb = _comb_field(cut, rest, part) + rng.normal(0, 0.10, rest.shape)
    comb /= np.maximum(np.linalg.norm(comb, axis=1, keepdims=True), 1e-9)

    near = np.unique(np.concatenate([body.ravel(), assets.triangles["helper-tights"].ravel()]))
    skin = vertex_normals(vertices, np.concatenate([body, assets.triangles["helper-tights"]]))
    tree = cKDTree(vertices[near])
    step = (length / (POINTS - 1))[:, None]
    layer = rng.uniform(0.10, 0.75, len(rest)) * (
        0.5 + cut.lift
    )  # cm above the scalp: gives the hair its volume
    points, direction = [start - 0.15 * root_normal], root_normal * cut.lift + comb * (1 - cut.lift * 0.6)
    brow, temple = 2.5, -1.8  # below the brows hair stays behind the temples
    for k in range(1, POINTS):
        direction = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
        p = points[-1] + step * direction
        _, index = tree.query(p)
        nearest, normal = vertices[near][index], skin[near][index]
        height = np.einsum("nd,nd->n", p - nearest, normal)
        p = p + normal * np.clip(layer - height, 0, None)[:, None]
        p[:, 2] = np.where(~free & (p[:, 1] < brow), np.minimum(p[:, 2], temple), p[:, 2])
        points.append(p)
        fall = np.clip(k / 2.5, 0, 1) * cut.gravity
        direction = 0.55 * (p - points[-2]) / step + 0.45 * comb * (1 - 0.3 * fall)
        direction[:, 1] -= fall
    strands = np.stack(points, axis=1)
    if cut.curl:
        strands = strands + _curls(rng, strands, root_normal, cut)
    return strands


def _curls(rng, strands: np.ndarray, normal: np.ndarray, cut: Cut) -> np.ndarray:
    t = np.linspace(0, 1, POINTS)[None, :, None]
    phase = rng.uniform(0, 6.28, (len(strands), 1, 1))
    other = np.cross(normal, rng.normal(size=normal.shape))
    other /= np.maximum(np.linalg.norm(other, axis=1, keepdims=True), 1e-9)
    angle = phase + 6.28 * cut.curl_turns * t * 0.5
    wave = np.cos(angle) * normal[:, None] + np.sin(angle) * other[:, None]
    return cut.curl * np.minimum(t * 3, 1) * wave


@dataclass(frozen=True)
class Fuzz:
    """Short hair that moves with the face: brows, moustache, beard."""

    roots: Roots
    direction: np.ndarray  # (N, 3) in the template's axes
    length: np.ndarray  # (N,) cm
    lift: float

    def strands(self, vertices: np.ndarray, template: np.ndarray) -> np.ndarray:
        """(N, 4, 3) control points on the posed face."""
        frame_t, frame = self.roots.frames(template), self.roots.frames(vertices)
        local = np.linalg.solve(np.swapaxes(frame_t, 1, 2), self.direction[:, :, None])[:, :, 0]
        direction = np.einsum("nk,nkd->nd", local, frame)
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
        normal = frame[:, 2] / np.maximum(np.linalg.norm(frame[:, 2], axis=1, keepdims=True), 1e-9)
        start = self.roots.at(vertices)
        t = np.linspace(0, 1, 4)[None, :, None]
        along = direction[:, None] * t * self.length[:, None, None]
        off = normal[:, None] * (-0.03 + self.lift * np.sqrt(t) * np.minimum(1, self.length)[:, None, None])
        return start[:, None] + along + off


def brows(rng, assets: Assets, *, thickness: float, arch: float, density: float) -> Fuzz:
    """Both brows. thickness about 1, arch about 0-1, density about 1."""
    template, body = assets.template, assets.triangles["body"]
    roots = _scatter_fine(rng, assets, body, lambda p: _brow_shape(p, thickness, arch), int(420 * density))
    rest = roots.at(template)
    outwards = np.sign(rest[:, 0])
    turn = np.clip((np.abs(rest[:, 0]) - 0.13) / 0.4, 0, 1)
    direction = np.stack([outwards * (0.6 + 0.4 * turn), 0.5 - 0.85 * turn, -0.5 * turn], axis=1)
    direction += rng.normal(0, 0.08, direction.shape)
    return Fuzz(roots, direction, rng.uniform(0.4, 0.75, len(rest)), lift=0.07)


def _brow_shape(p: np.ndarray, thickness: float, arch: float) -> np.ndarray:
    x, y = np.abs(p[:, 0]), p[:, 1]
    bend = np.interp(x, [0.13, 0.28, 0.42, 0.58], [7.485, 7.53 + 0.02 * arch, 7.55 + 0.03 * arch, 7.475])
    half = np.interp(x, [0.11, 0.15, 0.40, 0.57, 0.61], [0.0, 0.029, 0.025, 0.008, 0.0]) * thickness
    return np.abs(y - bend) < half


def _scatter_fine(rng, assets: Assets, triangles, accept, count: int) -> Roots:
    """Points inside a shape finer than the triangles: rejection sampling near where the shape is."""
    template = assets.template
    x, y, z = template.T
    near = ((np.abs(x) < 0.75) & (y > 7.3) & (y < 7.8) & (z > 0.8)).astype(np.float64)
    kept_c, kept_w, total = [], [], 0
    for _ in range(40):
        roots = scatter(rng, template, triangles, near, count * 6)
        ok = accept(roots.at(template))
        kept_c.append(roots.corners[ok])
        kept_w.append(roots.weights[ok])
        total += int(ok.sum())
        if total >= count:
            break
    return Roots(np.concatenate(kept_c)[:count], np.concatenate(kept_w)[:count])


def beard(rng, assets: Assets, *, length: float, density: float, goatee: bool) -> Fuzz:
    """Beard and moustache; `length` in cm."""
    template = assets.template
    area = beard_area(assets)
    if goatee:
        area = area * (np.abs(template[:, 0]) < 0.27)
    roots = scatter(rng, template, assets.triangles["body"], area, int(4500 * density))
    rest = roots.at(template)
    direction = np.stack([0.35 * rest[:, 0], -1.0 * np.ones(len(rest)), 0.15 * np.ones(len(rest))], axis=1)
    direction += rng.normal(0, 0.22, direction.shape)
    tapered = length * np.clip(0.45 + (6.75 - rest[:, 1]) * 1.6, 0.35, 1.3)
    moustache = rest[:, 1] > 6.68
    return Fuzz(
        roots,
        direction,
        np.where(moustache, np.minimum(tapered, 0.4), tapered) * rng.uniform(0.7, 1.1, len(rest)),
        0.3,
    )
