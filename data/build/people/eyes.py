"""Eyeballs: where they look, and the picture painted on them."""

from __future__ import annotations

import mitsuba as mi
import numpy as np

from people.paint import to_linear


def eye_picture(colour, size: float, veined: float, seed: int) -> np.ndarray:
    """(256, 256, 3) linear RGB around the eyeball: row 0 is where it looks, columns go around it.

    Pupil, an iris of fibres with a dark rim, sclera that darkens and reddens towards the lids. `colour`: of
    the iris, linear; `size`: about 1; `veined`: in [0, 1], from clear to yellowish and veined.
    """
    rng = np.random.default_rng([seed, 6])
    degrees, turn = np.meshgrid(np.linspace(0, 180, 256), np.linspace(0, 2 * np.pi, 256), indexing="ij")
    iris, pupil = 24 * size, 9 * size
    clear = to_linear((232, 226, 221)) * (1 - 0.16 * veined * np.array([0.2, 0.6, 1.5]))
    edge = np.clip((degrees - 34) / 40, 0, 1)[..., None]
    picture = clear * (1 - edge) + clear * np.array([0.70, 0.48, 0.44]) * edge
    veins = np.clip(_waves(rng, turn, 14, 9) - 1.3, 0, 1) * np.clip((degrees - 32) / 25, 0, 1)
    picture = picture * (1 - veined * veins[..., None] * np.array([0.15, 0.5, 0.5]))
    fibres = 0.8 + 0.16 * _waves(rng, turn, 60, 12) + 0.45 * np.exp(-(((degrees - 15) / 5) ** 2))
    inside = 1 / (1 + np.exp((degrees - iris) / 0.7))[..., None]
    picture = picture * (1 - inside) + np.asarray(colour) * np.clip(fibres, 0.4, 2)[..., None] * inside
    rim = np.exp(-(((degrees - iris + 1.2) / 2.2) ** 2))[..., None]
    hole = 1 / (1 + np.exp((degrees - pupil) / 0.5))[..., None]
    return np.clip(picture * (1 - 0.7 * rim) * (1 - hole) + 0.003 * hole, 0, 1).astype(np.float32)


def _waves(rng, turn: np.ndarray, highest: int, count: int) -> np.ndarray:
    """Random values around the eye, about normal(0, 1)."""
    k = rng.integers(2, highest, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    return np.cos(turn[..., None] * k + phase).sum(axis=-1) / (count / 2) ** 0.5


def eyeball(pose, detail: dict, seed: int):
    """The eye as a Mitsuba sphere whose +z pole `pose` turns to where it looks; wet."""
    picture = mi.Bitmap(eye_picture(detail["iris"], detail["iris_size"], detail["sclera"], seed))
    texture = {"type": "bitmap", "bitmap": picture, "raw": True, "wrap_mode": "clamp"}
    bsdf = {"type": "roughplastic", "diffuse_reflectance": texture, "alpha": 0.04, "nonlinear": True}
    return mi.load_dict({"type": "sphere", "to_world": pose, "bsdf": bsdf})
