"""Text labels that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from emolib.course.figures import style


def spread(ax: Axes, x, y, texts: Sequence[str], *, size: float = 9, rounds: int = 300) -> list:
    """Write `texts` beside the points (x, y) in data units, moved apart until none overlap (or `rounds`).

    Call after the limits of `ax` are set. Labels pushed far away get a thin line to their point. Returns
    the matplotlib texts. Deterministic.
    """
    ax.figure.canvas.draw()  # lays the figure out, so that pixels mean what they will mean
    renderer = ax.figure.canvas.get_renderer()
    points = ax.transData.transform(np.column_stack([x, y]).astype(float))
    look = {"fontsize": size, "color": style.INK, "ha": "center", "va": "center", "zorder": 5}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    made = [ax.text(0, 0, text, path_effects=halo, **look) for text in texts]
    boxes = [text.get_window_extent(renderer) for text in made]
    half = np.array([[b.width / 2 + 2, b.height / 2 + 1] for b in boxes])
    place = points + np.column_stack([half[:, 0] + 6, np.zeros(len(points))])
    place = _relax(place, half, points, np.array(ax.get_window_extent(renderer).extents), rounds)
    to_data = ax.transData.inverted()
    for text, spot, point, size_ in zip(made, place, points, half, strict=True):
        text.set_position(to_data.transform(spot))
        gap = np.abs(spot - point) - size_
        if gap.max() > 9:
            ends = to_data.transform(np.stack([point, spot]))
            ax.plot(ends[:, 0], ends[:, 1], color="#999999", lw=0.6, zorder=2)
    return made


def _relax(place, half, points, frame, rounds: int):
    """Push overlapping boxes (centre, half size; pixels) apart and off the points, inside `frame`."""
    place, centre = place.copy(), points.mean(axis=0)
    dot = np.array([5.0, 5.0])
    for turn in range(rounds):
        moved = False
        for i in range(len(place)):
            pushes = [_push(place[i], half[i], place[j], half[j], i - j) for j in range(len(place)) if j != i]
            # In a crowd both cannot be had: later on labels may cover points, but not labels.
            if turn < rounds // 2:
                pushes += [_push(place[i], half[i], point, dot, 1) for point in points]
            size = np.array([np.abs(push).max() for push in pushes])
            if size.max() > 0.25:
                # Pushes from all sides cancel, so a boxed-in label also drifts out of the crowd.
                outward = place[i] - centre
                place[i] += 0.5 * np.sum(pushes, axis=0) + 0.6 * outward / max(np.linalg.norm(outward), 1.0)
                moved = True
        place = np.clip(place, frame[:2] + half, frame[2:] - half)
        if not moved:
            break
    return place


def _push(a, half_a, b, half_b, order: int):
    """How far box a must move to leave box b, along the axis of least overlap; zero if they are apart."""
    overlap = half_a + half_b - np.abs(a - b)
    if (overlap <= 0).any():
        return np.zeros(2)
    axis = int(overlap.argmin())
    side = np.sign(a[axis] - b[axis]) or (1.0 if order > 0 else -1.0)
    push = np.zeros(2)
    push[axis] = side * overlap[axis]
    return push
