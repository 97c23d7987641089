"""Several things at once: the emotion AND the person AND the background.

Emotion alone rewards destruction, preservation alone rewards doing nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BACKGROUND = 28.6  # dB; the best Stable Diffusion 1.x inversion on PIE-Bench (SPDInv + P2P)


def success(
    hit: ArrayLike,
    identity: ArrayLike | None,
    background: ArrayLike,
    *,
    identity_from: float,
    background_from: float = BACKGROUND,
) -> np.ndarray:
    """(B,) bool: the judge sees the target AND identity cosine >= `identity_from` AND background PSNR >= its.

    `identity` None leaves the person out of it; say so beside the number. NaN (nothing to compare) fails.
    """
    kept = np.asarray(background, dtype=np.float64) >= background_from
    same = True if identity is None else np.asarray(identity, dtype=np.float64) >= identity_from
    return (np.asarray(hit) != 0) & kept & same


def esmi(
    source_kl: ArrayLike, edit_kl: ArrayLike, inside: ArrayLike, whole: ArrayLike, *, alpha: float = 0.5
) -> np.ndarray:
    """(B,) ESMI of EmoEditor (Lin et al. 2024), in [0, 1]: alpha S_str + (1 - alpha) S_emo.

    S_emo = max(0, KL(target || source) - KL(target || edit)) / KL(target || source). S_str is the share of
    all absolute pixel change that lies inside the region meant to change: `inside`, `whole` are the sums.
    Where nothing changed, S_str is 0, so that doing nothing scores 0. Known fault: S_str rewards any change
    in the region, destruction too. The original's region is a Grad-CAM above 0.5; here it is the face box.
    """
    before, after, part, total = (
        np.asarray(x, dtype=np.float64) for x in (source_kl, edit_kl, inside, whole)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = np.maximum(0, before - after) / before
        structure = np.where(total > 0, part / total, 0.0)
    return alpha * structure + (1 - alpha) * gained


def at_matched(emotion: ArrayLike, value: ArrayLike, *, at: float = 0.3) -> float:
    """`value` (S,) where the emotion score (S,) along a strength knob first reaches `at`: linear in between.

    The only fair comparison of methods that have a knob: preservation at equal emotion. NaN if the curve
    never reaches it, or starts above it.
    """
    score, kept = (np.asarray(x, dtype=np.float64) for x in (emotion, value))
    for k in range(len(score) - 1):
        if score[k] <= at <= score[k + 1] and score[k] < score[k + 1]:
            share = (at - score[k]) / (score[k + 1] - score[k])
            return float(kept[k] + share * (kept[k + 1] - kept[k])) if share else float(kept[k])
    return float("nan")


def pareto_front(points: ArrayLike) -> np.ndarray:
    """(M,) bool: is no other point (M, D) at least as good everywhere and better somewhere? Larger is better.

    Points with NaN are never on it and beat nobody.
    """
    points = np.asarray(points, dtype=np.float64)
    whole = ~np.isnan(points).any(1)
    least = (points[None] >= points[:, None]).all(2) & (points[None] > points[:, None]).any(2)
    return whole & ~(least & whole[None]).any(1)
