"""Brows, moustache and beard: short strands glued to the skin's triangles, so that they move with the face.

Sizes and places of brows are template positions (MakeHuman decimetres); strands are in the head frame, cm.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from people.body import Assets
from people.body import assets as base_mesh
from people.hair import Roots, scatter
from people.paint import beard_area


@dataclass(frozen=True)
class Fuzz:
    """Short hair that moves with the face: brows, moustache, beard."""

    roots: Roots
    direction: np.ndarray  # (N, 3) in the template's axes
    length: np.ndarray  # (N,) cm
    lift: float

    def strands(self, vertices: np.ndarray, template: np.ndarray) -> np.ndarray:
        """(N, 4, 3) points of the strands on the posed face `vertices`, cm."""
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
    """Both brows; thickness and density are about 1, arch is in [0, 1]."""
    template, body = assets.template, assets.triangles["body"]
    roots = _scatter_fine(rng, assets, body, lambda p: _brow_shape(p, thickness, arch), int(560 * density))
    rest = roots.at(template)
    outwards = np.sign(rest[:, 0])
    turn = np.clip((np.abs(rest[:, 0]) - 0.13) / 0.4, 0, 1)
    direction = np.stack([outwards * (0.6 + 0.4 * turn), 0.5 - 0.85 * turn, -0.5 * turn], axis=1)
    direction += rng.normal(0, 0.13, direction.shape)
    return Fuzz(roots, direction, rng.uniform(0.4, 0.85, len(rest)), lift=0.07)


def _brow_shape(p: np.ndarray, thickness: float, arch: float) -> np.ndarray:
    """(N,) bool: which template points (N, 3) lie in a brow."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    bend = np.interp(x, [0.13, 0.28, 0.42, 0.58], [7.495, 7.535 + 0.02 * arch, 7.545 + 0.025 * arch, 7.47])
    half = np.interp(x, [0.11, 0.15, 0.40, 0.57, 0.61], [0.0, 0.026, 0.023, 0.008, 0.0]) * thickness
    return np.abs(y - bend) < half


def _scatter_fine(rng, assets: Assets, triangles, accept, count: int) -> Roots:
    """Points in a shape finer than the triangles: of many about the brows those that `accept` takes."""
    template = assets.template
    x, y, z = template.T
    near = ((np.abs(x) < 0.75) & (y > 7.3) & (y < 7.8) & (z > 0.8)).astype(np.float64)
    corners, weights, total = [], [], 0
    for _ in range(40):
        roots = scatter(rng, template, triangles, near, count * 6)
        ok = accept(roots.at(template))
        corners.append(roots.corners[ok])
        weights.append(roots.weights[ok])
        total += int(ok.sum())
        if total >= count:
            break
    return Roots(np.concatenate(corners)[:count], np.concatenate(weights)[:count])


def beard(rng, assets: Assets, *, length: float, density: float, goatee: bool) -> Fuzz:
    """Beard and moustache; `length` in cm, density about 1; a goatee leaves the cheeks bare."""
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
    trimmed = np.where(moustache, np.minimum(tapered, 0.4), tapered)
    return Fuzz(roots, direction, trimmed * rng.uniform(0.7, 1.1, len(rest)), lift=0.3)


# The strip of upper lashes of MakeHuman's left eye: where lashes grow, and where they end, from nose to ear.
LASH_ROOTS = (14763, 14762, 14761, 14760, 14743, 14742, 14744, 14745, 14746, 14747, 14748, 14749)
LASH_TIPS = (14853, 14852, 14808, 14807, 14806, 14809, 14816, 14817, 14815, 14814, 14813, 14812, 14811, 14810)


@functools.cache
def _mirrored(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The vertices of the right lashes that mirror these of the left."""
    base = base_mesh()
    right = np.unique(base.triangles["helper-r-eyelashes-2"])
    gap = base.template[right][None] - (base.template[list(numbers)] * (-1, 1, 1))[:, None]
    return tuple(int(n) for n in right[(gap**2).sum(axis=2).argmin(axis=1)])


def lashes(vertices: np.ndarray, amount: float) -> np.ndarray:
    """(N, 4, 3) upper lashes of both eyes on the posed face, cm; `amount` in [0, 1]."""
    count = int(26 + 40 * amount)
    rng = np.random.default_rng(count)
    t = np.linspace(0.02, 0.98, count)
    both = []
    for mirror in (tuple, _mirrored):
        roots, tips = (vertices[list(mirror(numbers))] for numbers in (LASH_ROOTS, LASH_TIPS))
        root, tip = _along(roots, t), _along(tips, np.clip(t + rng.normal(0, 0.025, count), 0, 1))
        way = (tip - root) * (0.75 + 0.5 * amount * rng.uniform(0.5, 1, count)[:, None])
        s = np.linspace(0, 1, 4)[None, :, None]
        lift = np.array([0, 0.12, 0]) * (s**2 - s * 0.6)
        both.append(root[:, None] + way[:, None] * s + lift)
    return np.concatenate(both)


def _along(path: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points at shares `t` of the way along `path` (N, 3)."""
    at = np.linspace(0, 1, len(path))
    return np.stack([np.interp(t, at, path[:, i]) for i in range(3)], axis=1)
