"""A finer face: Loop subdivision (Loop 1987) of the front of the body mesh, as one sparse matrix.

The body model's triangles are about half a centimetre wide; folds and lips need a tenth of that. What is
made here depends on the topology alone, so one matrix serves every person and expression.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from people.body import Assets, assets

LEVELS = 2
FRONT, LOW = 0.72, 6.05  # template decimetres: what lies before and above is made finer


@dataclass(frozen=True)
class Surface:
    """The fine skin: `matrix @ vertices` (V, 19158) gives its points; masks are those of `body.Assets`."""

    matrix: sparse.csr_matrix
    triangles: np.ndarray  # (T, 3)
    assets: Assets  # template and masks at the fine vertices
    spread: sparse.csr_matrix  # (V, T): which triangles meet at a vertex

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Area-weighted unit normals of the fine skin (V, 3)."""
        a, b, c = (points[self.triangles[:, i]] for i in range(3))
        normals = self.spread @ np.cross(b - a, c - a)
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def subdivide(count: int, triangles: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step of Loop's scheme on `count` vertices -> (matrix of all old and new vertices, triangles).

    The patch's border stays where it is, so that it fits what is not subdivided.
    """
    corners = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    opposite = np.concatenate([triangles[:, 2], triangles[:, 0], triangles[:, 1]])
    edges, index = np.unique(np.sort(corners, axis=1), axis=0, return_inverse=True)
    index, n = index.ravel(), len(edges)
    inner = np.bincount(index, minlength=n) == 2
    ends = np.where(inner, 3 / 8, 1 / 2)
    rows = [np.arange(n), np.arange(n), index[inner[index]]]
    columns = [edges[:, 0], edges[:, 1], opposite[inner[index]]]
    values = [ends, ends, np.full(len(rows[2]), 1 / 8)]
    middle = _matrix(values, rows, columns, (n, count))
    matrix = sparse.vstack([_smooth(count, edges, inner), middle]).tocsr()
    ab, bc, ca = (count + part for part in np.split(index, 3))
    a, b, c = triangles.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return matrix, np.concatenate([np.stack(part, axis=1) for part in parts])


def _matrix(values, rows, columns, shape) -> sparse.csr_matrix:
    parts = (np.concatenate(part) for part in (values, rows, columns))
    value, row, column = parts
    return sparse.coo_matrix((value, (row, column)), shape=shape).tocsr()


def _smooth(count: int, edges: np.ndarray, inner: np.ndarray) -> sparse.csr_matrix:
    """Loop's rule for the old vertices (Warren's weights): a mean with the neighbours, the border kept."""
    degree = np.bincount(edges.ravel(), minlength=count)
    fixed = np.zeros(count, dtype=bool)
    fixed[edges[~inner]] = True
    share = np.where(fixed | (degree < 3), 0, np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1))))
    rows, columns = edges.ravel(), edges[:, ::-1].ravel()
    everyone = np.arange(count)
    return _matrix([share[rows], 1 - share * degree], [rows, everyone], [columns, everyone], (count, count))


@functools.cache
def surface() -> Surface:
    """The fine skin of MakeHuman's base mesh."""
    base = assets()
    body = base.triangles["body"]
    corners = base.template[body]
    front = (corners[:, :, 2].max(axis=1) > FRONT) & (corners[:, :, 1].max(axis=1) > LOW)
    matrix, triangles = sparse.identity(len(base.template), format="csr"), body[front]
    for _ in range(LEVELS):
        step, triangles = subdivide(matrix.shape[0], triangles)
        matrix = step @ matrix
    used, numbers = np.unique(np.concatenate([body[~front], triangles]), return_inverse=True)
    matrix, triangles = matrix[used].tocsr(), numbers.reshape(-1, 3)
    masks = {n: matrix @ getattr(base, n) for n in ("lips", "eyelids", "ears", "mouth_inside")}
    fine = replace(base, template=matrix @ base.template, triangles={"body": triangles}, **masks)
    t = len(triangles)
    spread = sparse.coo_matrix(
        (np.ones(3 * t), (triangles.ravel(), np.repeat(np.arange(t), 3))), shape=(len(used), t)
    )
    return Surface(matrix, triangles, fine, spread.tocsr())
