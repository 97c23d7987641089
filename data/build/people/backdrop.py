"""Procedural pictures for the wall behind a person: plain, gradient, textured, cluttered.

All is drawn here, nothing photographed. Colours are sRGB in [0, 255], boxes (x0, y0, x1, y1) in pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def _to_srgb(linear) -> tuple[int, int, int]:
    """Linear RGB in [0, 1] -> sRGB in [0, 255]; the inverse of `paint.to_linear`."""
    c = np.clip(np.asarray(linear, dtype=np.float64), 0, 1)
    c = np.where(c <= 0.0031308, c * 12.92, 1.055 * c ** (1 / 2.4) - 0.055)
    return tuple(int(round(v * 255)) for v in c)


def _near(rng, colour, amount=30) -> tuple[int, int, int]:
    """A colour that differs by about `amount` in each channel."""
    return tuple(int(np.clip(c + d, 0, 255)) for c, d in zip(colour, rng.normal(0, amount, 3), strict=True))


def _gradient(rng, colour, size: tuple[int, int]) -> Image.Image:
    w, h = size
    other = np.array(_near(rng, colour, 15)) * rng.uniform(0.35, 0.7)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:h, 0:w] / max(size)
    t = np.clip(0.5 + (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)), 0, 1)[..., None]
    return Image.fromarray((np.array(colour) * (1 - t) + other * t).astype(np.uint8))


def _textured(rng, colour, size: tuple[int, int]) -> Image.Image:
    """Stripes, tiles, bricks, boards or plaster in two near shades of the colour."""
    w, h = size
    kind = rng.choice(["stripes", "tiles", "bricks", "boards", "plaster"])
    darker = tuple(int(c * rng.uniform(0.62, 0.82)) for c in colour)
    picture = Image.new("RGB", size, colour)
    draw = ImageDraw.Draw(picture)
    unit = int(rng.integers(h // 14, h // 6))
    if kind == "stripes":
        for x in range(0, w, 2 * unit):
            draw.rectangle([x, 0, x + unit - 1, h], fill=darker)
    elif kind == "boards":
        for x in range(0, w, unit):
            draw.rectangle([x, 0, x + unit - 2, h], fill=_near(rng, colour, 9))
            draw.line([x + unit - 1, 0, x + unit - 1, h], fill=darker, width=2)
    elif kind in ("tiles", "bricks"):
        wide = unit * (2 if kind == "bricks" else 1)
        picture.paste(darker, (0, 0, w, h))
        for row, y in enumerate(range(0, h, unit)):
            shift = wide // 2 if kind == "bricks" and row % 2 else 0
            for x in range(-shift, w, wide):
                draw.rectangle([x, y, x + wide - 4, y + unit - 4], fill=_near(rng, colour, 8))
    else:
        # A generator of its own: the draws after this wall stay where they were.
        grain = rng.spawn(1)[0].normal(128, 60, (max(h // 12, 2), max(w // 12, 2)))
        noise = Image.fromarray(grain.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        return Image.composite(picture, Image.new("RGB", size, darker), noise)
    return picture


def _shelf(rng, draw: ImageDraw.ImageDraw, box) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle(box, fill=_near(rng, (96, 66, 44), 18))
    rows = int(rng.integers(2, 5))
    for r in range(rows):
        top, bottom = y0 + (y1 - y0) * r / rows + 5, y0 + (y1 - y0) * (r + 1) / rows - 4
        x = x0 + 5
        while x < x1 - 10:
            width = rng.uniform(5, 14)
            height = (bottom - top) * rng.uniform(0.55, 0.95)
            draw.rectangle(
                [x, bottom - height, min(x + width, x1 - 5), bottom],
                fill=tuple(rng.integers(30, 225, 3).tolist()),
            )
            x += width + rng.uniform(0, 3)


def _window(rng, draw: ImageDraw.ImageDraw, box) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle(box, fill=_near(rng, (216, 210, 200), 12))
    draw.rectangle([x0 + 6, y0 + 6, x1 - 6, y1 - 6], fill=_near(rng, (166, 200, 232), 18))
    ground = y1 - (y1 - y0) * rng.uniform(0.2, 0.5)
    draw.rectangle([x0 + 6, ground, x1 - 6, y1 - 6], fill=_near(rng, (92, 136, 82), 18))
    middle = (x0 + x1) / 2
    draw.rectangle([middle - 3, y0, middle + 3, y1], fill=_near(rng, (216, 210, 200), 8))


def _plant(rng, draw: ImageDraw.ImageDraw, box) -> None:
    x0, y0, x1, y1 = box
    middle = (x0 + x1) / 2
    for _ in range(26):
        x, y = rng.normal(middle, (x1 - x0) / 5), rng.uniform(y0, y0 + 0.75 * (y1 - y0))
        a, b = rng.uniform(5, 17, 2)
        draw.ellipse([x - a, y - b, x + a, y + b], fill=_near(rng, (54, 118, 56), 22))
    draw.polygon(
        [(middle - 20, y1 - 42), (middle + 20, y1 - 42), (middle + 14, y1), (middle - 14, y1)],
        fill=_near(rng, (170, 96, 62), 20),
    )


def _frame(rng, draw: ImageDraw.ImageDraw, box) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle(box, fill=_near(rng, (58, 44, 34), 25))
    draw.rectangle([x0 + 5, y0 + 5, x1 - 5, y1 - 5], fill=tuple(rng.integers(60, 240, 3).tolist()))
    for _ in range(4):
        a = rng.uniform([x0 + 6, y0 + 6], [(x0 + x1) / 2, (y0 + y1) / 2])
        b = a + rng.uniform(6, 0.45 * min(x1 - x0, y1 - y0), 2)
        draw.ellipse([*a, *b], fill=tuple(rng.integers(30, 250, 3).tolist()))


def _lamp(rng, draw: ImageDraw.ImageDraw, box) -> None:
    x0, y0, x1, y1 = box
    middle = (x0 + x1) / 2
    draw.rectangle([middle - 3, y0 + 40, middle + 3, y1], fill=_near(rng, (70, 66, 60), 15))
    draw.polygon(
        [(middle - 15, y0), (middle + 15, y0), (middle + 32, y0 + 44), (middle - 32, y0 + 44)],
        fill=_near(rng, (236, 208, 150), 14),
    )


def _outside(rng, colour, size: tuple[int, int]) -> Image.Image:
    """A street or a park: sky, houses with windows or trees, ground, small lights that blur into discs."""
    w, h = size
    picture = Image.new("RGB", size, _near(rng, (176, 200, 226), 20))
    draw = ImageDraw.Draw(picture)
    ground = h * rng.uniform(0.6, 0.85)
    park = rng.random() < 0.5
    for _ in range(int(w / h * (60 if park else 9))):
        x, high = rng.uniform(-0.1 * w, w), rng.uniform(0.1, 0.55) * h
        if park:
            radius = rng.uniform(0.02, 0.09) * h
            green = _near(rng, (58, 104, 44), 26)
            draw.ellipse([x - radius, high - radius, x + radius, high + radius], fill=green)
            continue
        wide = rng.uniform(0.12, 0.3) * h
        draw.rectangle([x, high, x + wide, ground], fill=_near(rng, colour, 25))
        for row in np.arange(high + 0.03 * h, ground - 0.05 * h, 0.09 * h):
            for column in np.arange(x + 0.02 * h, x + wide - 0.04 * h, 0.07 * h):
                pane = _near(rng, (250, 214, 140) if rng.random() < 0.3 else (70, 84, 100), 20)
                draw.rectangle([column, row, column + 0.035 * h, row + 0.05 * h], fill=pane)
    draw.rectangle([0, ground, w, h], fill=_near(rng, (96, 132, 70) if park else (110, 106, 102), 18))
    for _ in range(int(rng.integers(0, 14))):
        x, y, radius = rng.uniform(0, w), rng.uniform(0.1, 0.9) * h, rng.uniform(0.008, 0.02) * h
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_near(rng, (255, 236, 190), 30))
    return picture


def _cluttered(rng, colour, size: tuple[int, int]) -> Image.Image:
    kind = rng.random()
    if kind > 0.7:
        return _outside(rng, colour, size)
    picture = _textured(rng, colour, size) if kind < 0.4 else Image.new("RGB", size, colour)
    draw = ImageDraw.Draw(picture)
    w, h = size
    for _ in range(int(w / h * rng.integers(5, 9))):
        item = [_shelf, _window, _plant, _frame, _lamp][rng.integers(5)]
        wide, tall = rng.uniform(0.16, 0.4) * h, rng.uniform(0.2, 0.5) * h
        x, y = rng.uniform(-0.1 * w, w - 0.5 * wide), rng.uniform(-0.05 * h, h - 0.7 * tall)
        item(rng, draw, (x, y, x + wide, y + tall))
    return picture


def backdrop(kind: str, wall, seed: int, size: tuple[int, int] = (384, 384), blur: float = 1.5) -> np.ndarray:
    """One wall -> (H, W, 3) float32, sRGB in [0, 1].

    `wall` is the main colour, linear RGB; `size` is (width, height), 240 px and more; `blur` (depth of field)
    is in pixels.
    """
    rng = np.random.default_rng(seed)
    colour = _to_srgb(wall)
    if kind == "plain":
        picture = Image.new("RGB", size, colour)
    elif kind == "gradient":
        picture = _gradient(rng, colour, size)
    elif kind == "textured":
        picture = _textured(rng, colour, size)
    elif kind == "cluttered":
        picture = _cluttered(rng, colour, size)
    else:
        raise ValueError(f"unknown backdrop {kind!r}; choose plain, gradient, textured or cluttered")
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255
