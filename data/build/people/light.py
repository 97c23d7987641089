"""Light as photographs have it: a procedural room or sky around the person, and a lamp, window or flash."""

from __future__ import annotations

import mitsuba as mi
import numpy as np

WIDTH, HEIGHT = 128, 64  # pixels of the surroundings, all around and from top to bottom
LAMPS = {  # panel's half size and distance, cm; its power and that of the surroundings; azimuth's factor
    "window": (55.0, 170.0, 1.1, 0.75, 1.25),
    "soft": (45.0, 170.0, 1.0, 1.0, 1.0),
    "flash": (9.0, 95.0, 7.0, 0.8, 0.12),
    "back": (30.0, 80.0, 1.1, 1.7, None),
    "overcast": (80.0, 200.0, 0.22, 1.9, 0.8),
}


def rgb(colour) -> dict:
    """Linear RGB as Mitsuba takes it."""
    return {"type": "rgb", "value": [float(c) for c in colour]}


def surroundings(kind: str, wall, seed: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) linear light from every direction, mean about 1; column 0 lies behind the person."""
    rng = np.random.default_rng([seed, 4])
    azimuth = (np.arange(WIDTH) + 0.5) / WIDTH * 360 - 180  # 0 is where the person faces, + their left
    azimuth = np.tile(azimuth, (HEIGHT, 1))
    elevation = np.tile(90 - (np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT * 180, (1, WIDTH))
    picture = _sky(rng, azimuth, elevation) if kind == "overcast" else _room(rng, azimuth, elevation, wall)
    area = np.cos(np.radians(elevation))
    return picture / (picture.mean(axis=2) * area).sum() * area.sum()


def _room(rng, azimuth, elevation, wall) -> np.ndarray:
    """Walls near `wall`'s colour, a light ceiling, a darker floor, one to three windows or lamps."""
    paint = 0.35 + 0.5 * np.asarray(wall)
    up = 1 / (1 + np.exp(-(elevation - 40) / 4))[..., None]
    down = 1 / (1 + np.exp((elevation + 28) / 5))[..., None]
    picture = (1 - up - down) * paint + up * rng.uniform(0.7, 1.3) + down * np.array([0.30, 0.24, 0.19])
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-140, 140), rng.uniform(5, 45)
        wide, tall = rng.uniform(10, 34), rng.uniform(10, 24)
        colour = rng.uniform(3, 10) * np.array([[1.1, 1.0, 0.82], [0.9, 1.0, 1.12]][rng.integers(2)])
        gap = np.abs((azimuth - x + 180) % 360 - 180)
        inside = 1 / (1 + np.exp((gap - wide) / 1.5)) / (1 + np.exp((np.abs(elevation - y) - tall) / 1.5))
        picture = picture + inside[..., None] * colour
    return picture


def _sky(rng, azimuth, elevation) -> np.ndarray:
    """Clouds brighter overhead and on the sun's side, ground of grass or stone."""
    side = np.cos(np.radians(azimuth - rng.uniform(-120, 120)))
    bright = 1 + 1.2 * np.clip(np.sin(np.radians(elevation)), 0, 1) + 0.9 * np.clip(side, 0, 1) ** 3
    sky = bright[..., None] * np.array([0.92, 1.0, 1.1])
    ground = rng.uniform(0.2, 0.5) * np.array([[0.8, 1.0, 0.6], [1.0, 0.97, 0.9]][rng.integers(2)])
    low = 1 / (1 + np.exp((elevation + 2) / 3))[..., None]
    return sky * (1 - low) + ground * low


def lights(detail: dict, wall) -> dict:
    """Surroundings, a lamp and a weak light from the other side, after `Look.detail`.

    They are loaded here and not with the scene: Mitsuba orders what it loads itself differently from run to
    run, and the order of the lights decides the pattern of the noise.
    """
    light, kind = detail["light"], detail["lamp"]
    half, distance, power, fill, turned = LAMPS[kind]
    warm = np.array([1 + light["warmth"], 1.0, 1 - light["warmth"]])
    side = 1 if light["azimuth"] >= 0 else -1
    azimuth = side * 142 if turned is None else turned * light["azimuth"]
    elevation = 10 if kind == "flash" else 30 if kind == "back" else light["elevation"]
    picture = mi.Bitmap(surroundings(kind, wall, detail["room"]).astype(np.float32))
    parts = {
        "sky": {"type": "envmap", "bitmap": picture, "scale": float(fill * light["fill"])},
        "rim": _panel(-light["azimuth"] * 1.3 + 10, 25, 0.22 * light["key"] * warm, 45, 190),
        "key": _panel(azimuth, elevation, power * light["key"] * warm, half, distance),
    }
    return {name: mi.load_dict(part) for name, part in parts.items()}


def _panel(azimuth: float, elevation: float, radiance: np.ndarray, half: float, distance: float) -> dict:
    """A square lamp that shines at the face; degrees, cm."""
    a, e = np.radians([azimuth, elevation])
    position = distance * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    pose = mi.ScalarTransform4f().look_at(origin=position.tolist(), target=[0, -3, 0], up=[0, 1, 0.01])
    return {
        "type": "rectangle",
        "to_world": pose @ mi.ScalarTransform4f().scale(half),
        "emitter": {"type": "area", "radiance": rgb(radiance)},
    }
