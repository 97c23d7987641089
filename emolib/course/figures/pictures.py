"""Contact sheets: pictures in a labelled grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageOps

from emolib.course.figures import style


def contact_sheet(
    grid: Sequence[Sequence],
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    size: int = 96,
    gap: int = 3,
    inches: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """PIL pictures (or uint8 H, W, 3 arrays; None = empty cell) in a grid of rows, every cell `size` px.

    Rows, all of one length, and columns may be named. Pictures keep their shape. Tensors: pass
    `emolib.images.to_pil(tensor)`.
    """
    n, m = len(grid), len(grid[0])
    sheet = np.full((n * (size + gap) - gap, m * (size + gap) - gap, 3), 255, dtype=np.uint8)
    for i, row in enumerate(grid):
        for j, picture in enumerate(row):
            if picture is not None:
                if not isinstance(picture, Image.Image):
                    picture = Image.fromarray(np.asarray(picture))
                y, x = i * (size + gap), j * (size + gap)
                cell = ImageOps.pad(picture.convert("RGB"), (size, size), Image.LANCZOS, "white")
                sheet[y : y + size, x : x + size] = cell
    ax = style.axes_of(ax, (inches * m + (1.2 if rows else 0), inches * n + (0.4 if columns else 0)))
    ax.imshow(sheet, interpolation="antialiased")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    middle = (size + gap) * np.arange(max(n, m)) + size / 2
    ax.set_xticks(middle[:m] if columns else [], columns or [], fontsize=9)
    ax.set_yticks(middle[:n] if rows else [], rows or [], fontsize=9)
    return ax
