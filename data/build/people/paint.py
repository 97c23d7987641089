"""Skin as a colour per vertex: base tone, lips, cheeks, lids, brows' shadow, stubble. Linear RGB."""

from __future__ import annotations

import numpy as np

from people.body import Assets

# sRGB skin tones from pale to very dark, ordered; a person's tone is interpolated between neighbours.
TONES = np.array(
    [
        (246, 219, 203),
        (235, 200, 178),
        (222, 180, 152),
        (200, 153, 121),
        (170, 120, 88),
        (134, 89, 62),
        (100, 64, 45),
        (74, 47, 35),
    ]
)


def to_linear(srgb) -> np.ndarray:
    """sRGB in [0, 255] -> linear RGB in [0, 1] (IEC 61966-2-1)."""
    c = np.asarray(srgb, dtype=np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def skin_tone(position: float, warmth: float) -> np.ndarray:
    """position in [0, 1] along TONES; warmth shifts red against blue by a few per cent. Linear RGB."""
    x = np.clip(position, 0, 1) * (len(TONES) - 1)
    low = min(int(x), len(TONES) - 2)
    tone = to_linear(TONES[low] + (x - low) * (TONES[low + 1] - TONES[low]))
    return tone * np.array([1 + 0.06 * warmth, 1, 1 - 0.06 * warmth])


def _blob(template: np.ndarray, centre, radius: float) -> np.ndarray:
    """Smooth mask around a point of the template and its mirror image."""
    left = np.linalg.norm(template - np.array(centre), axis=1)
    right = np.linalg.norm(template - np.array(centre) * (-1, 1, 1), axis=1)
    return np.exp(-((np.minimum(left, right) / radius) ** 2))


def beard_area(assets: Assets) -> np.ndarray:
    """Where a beard grows: cheeks below the sideburns, jaw, chin, upper lip; not lips, not neck.

    (19158,) in [0, 1]; the numbers below are template positions, decimetres.
    """
    x, y, z = assets.template.T
    jaw = 1 / (1 + np.exp((y - (6.62 + 0.75 * np.clip(np.abs(x) - 0.28, 0, 1))) / 0.035))
    moustache = np.exp(-(((y - 6.80) / 0.045) ** 2)) * (np.abs(x) < 0.34) * (z > 1.3)
    below_chin = 1 / (1 + np.exp(-(y - 6.22 + 0.35 * np.clip(z - 1.0, -1, 1)) / 0.04))
    front = 1 / (1 + np.exp(-(z - 0.62) / 0.05))
    bare = np.clip(2 * np.maximum(assets.lips, assets.mouth_inside), 0, 1)
    return np.clip(np.maximum(jaw, moustache), 0, 1) * below_chin * front * (1 - bare)


def skin_colours(assets: Assets, look: dict) -> np.ndarray:
    """(19158, 3) linear RGB. `look` is `Look.detail`: its skin, warmth, lip_red, eye_shadow, blush, stubble,
    freckle_seed and age are read.
    """
    template = assets.template
    base = skin_tone(look["skin"], look["warmth"])
    colours = np.tile(base, (len(template), 1))
    rng = np.random.default_rng(look["freckle_seed"])
    waves = rng.normal(size=(6, 3)) * 9
    mottle = np.cos(template @ waves.T + rng.uniform(0, 6.28, 6)).mean(axis=1)
    colours *= (1 + 0.05 * mottle)[:, None]

    def blend(mask, factor, amount):  # multiplies the colour by `factor` where the mask is
        nonlocal colours
        m = np.clip(mask * amount, 0, 1)[:, None]
        colours = colours * (1 - m) + colours * np.asarray(factor) * m

    blend(_blob(template, (0.47, 6.98, 1.33), 0.24), (1.05, 0.80, 0.80), look["blush"])  # cheeks
    blend(_blob(template, (0.0, 6.98, 1.75), 0.14), (1.03, 0.86, 0.85), look["blush"])  # nose tip
    blend(assets.ears, (1.03, 0.88, 0.88), 0.5)
    under_eye = _blob(template, (0.30, 7.20, 1.40), 0.12)
    blend(under_eye, (0.86, 0.80, 0.84), 0.25 + 0.45 * look["age"])
    blend(assets.eyelids, (0.86, 0.74, 0.74), 0.6 + look.get("eye_shadow", 0.0))
    blend(beard_area(assets), (0.62, 0.62, 0.66), look["stubble"])
    red, lipstick = look["lip_red"], 0.35 * base + 0.65 * to_linear((176, 44, 56))
    lip = base * np.array([1.02, 0.62, 0.64]) * (1 - red) + red * lipstick
    mask = np.clip(assets.lips * 2.2 - 0.6, 0, 1)[:, None] * (0.75 + 0.25 * red)
    colours = colours * (1 - mask) + lip * mask
    inside = np.clip(assets.mouth_inside, 0, 1)[:, None]
    colours = colours * (1 - inside) + to_linear((120, 40, 40)) * inside
    return np.clip(colours, 0.004, 0.95)


def _noise(rng, template: np.ndarray, wave: float) -> np.ndarray:
    """Smooth random values, about normal(0, 1), that change over `wave` decimetres."""
    way = rng.normal(size=(14, 3)) * (2 * np.pi / wave / 3**0.5)
    return np.cos(template @ way.T + rng.uniform(0, 2 * np.pi, 14)).sum(axis=1) / 7**0.5


def complexion(assets: Assets, colours: np.ndarray, look: dict) -> np.ndarray:
    """Uneven colour on (N, 3) skin colours: redness, blotches, freckles or moles, a beard's shadow in dots.

    `assets` are those of the same points as `colours`; `look` is `Look.detail`.
    """
    rng = np.random.default_rng([look["freckle_seed"], 2])
    t, fine = assets.template, look["complexion"]
    red = np.array([1.06, 0.88, 0.87])
    flush = np.clip(0.5 + 0.5 * _noise(rng, t, 0.55), 0, 1) * fine["redness"]
    around_nose = np.maximum(_blob(t, (0.16, 6.93, 1.5), 0.09), _blob(t, (0.0, 6.35, 1.5), 0.13))
    flush = np.clip(flush + 0.9 * fine["redness"] * around_nose, 0, 1)[:, None]
    colours = colours * (1 - flush + flush * red)
    mottle = 0.6 * _noise(rng, t, 0.16) + 0.4 * _noise(rng, t, 0.06)
    colours = colours * (1 + fine["mottle"] * mottle)[:, None]
    spots = fine["freckles"] * np.clip(_noise(rng, t, 0.075) - 1.1, 0, 1.2)
    spots = spots * np.exp(-(((t[:, 1] - 7.0) / 0.28) ** 2)) * (t[:, 2] > 0.9)
    spots = np.clip(spots, 0, 0.6)[:, None] * (1 - np.clip(assets.lips * 2, 0, 1))[:, None]
    colours = colours * (1 - spots + spots * np.array([0.72, 0.52, 0.42]))
    return np.clip(colours, 0.004, 0.95)


def relief(assets: Assets, look: dict) -> np.ndarray:
    """The skin's own unevenness, pores and small lumps: (N,) cm along the normals."""
    rng = np.random.default_rng([look["freckle_seed"], 3])
    t, rough = assets.template, look["complexion"]["relief"]
    lumps = 0.014 * _noise(rng, t, 0.10) + 0.010 * _noise(rng, t, 0.045) + 0.008 * _noise(rng, t, 0.028)
    lips = np.clip(assets.lips * 2, 0, 1)
    grooves = 0.012 * np.cos(t[:, 0] * 2 * np.pi / 0.022 + 1.5 * _noise(rng, t, 0.1)) * lips
    return rough * (lumps * (1 - lips) * (t[:, 2] > 0.75) * (1 - assets.ears)) + grooves
