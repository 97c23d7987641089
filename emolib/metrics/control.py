"""Measure how well an edit is controlled: rank correlation, smoothness, matched strengths, joint success."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

BACKGROUND = 28.6  # dB; the best Stable Diffusion 1.x inversion on PIE-Bench (SPDInv + P2P)


def rank_correlation(strength: ArrayLike, response: ArrayLike) -> np.ndarray:
    """Measure (B,) Spearman's rho of `strength` (S,) and each row of `response` (B, S), e.g. p_target.

    1 where more strength always means more of the emotion, NaN where the response is flat.
    """
    from scipy.stats import rankdata

    rows = np.atleast_2d(np.asarray(response, dtype=np.float64))
    return linearity(rankdata(np.asarray(strength, dtype=np.float64)), rankdata(rows, axis=1))


def linearity(strength: ArrayLike, response: ArrayLike) -> np.ndarray:
    """Measure (B,) Pearson's r of `strength` (S,) and each row of `response` (B, S); NaN where it is flat.

    FFE-Bench's CLS as we read it: 1 where each step of the knob adds the same."""
    knob, rows = np.asarray(strength, dtype=np.float64), np.atleast_2d(np.asarray(response, dtype=np.float64))
    knob, rows = knob - knob.mean(), rows - rows.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (rows @ knob) / np.sqrt((knob @ knob) * np.square(rows).sum(1))


def smoothness(response: ArrayLike) -> np.ndarray:
    """Measure (B,) in [0, 1]: 1 if the response (B, S) moves in S - 1 equal steps, 0 if all happens in one.

    (1 - s) / (1 - 1 / (S - 1)), s the largest step's share of the whole path, S > 2; NaN if nothing moves.
    """
    steps = np.abs(np.diff(np.atleast_2d(np.asarray(response, dtype=np.float64)), axis=1))
    with np.errstate(invalid="ignore"):
        largest = steps.max(1) / steps.sum(1)
    return (1 - largest) / (1 - 1 / steps.shape[1])


def seed_spread(edits: Tensor) -> Tensor:
    """Measure (B,) how much the seed decides, from edits (S, B, 3, H, W) of two seeds or more.

    Mean root-mean-square difference of two seeds, on the [0, 1] scale; 0 for a method that draws no noise.
    """
    pairs = itertools.combinations(edits.double(), 2)
    apart = [((a - b) / 2).square().mean((1, 2, 3)).sqrt() for a, b in pairs]
    return torch.stack(apart).mean(0).float().cpu()


def change_diversity(edit: Tensor, source: Tensor) -> float:
    """Measure the mean pairwise cosine distance of changes edit - source of features (N, D), in [0, 2].

    C-EmoEditor's "operation diversity": near 0 where every picture gets the same change, as EmoEdit's running
    crowds. Pictures that did not change are left out; NaN if fewer than two did.
    """
    change = (edit - source).double()
    length = change.norm(dim=1)
    unit = change[length > 0] / length[length > 0, None]
    n = len(unit)
    if n < 2:
        return float("nan")
    return float(1 - (unit.sum(0).square().sum() - n) / (n * (n - 1)))


def success(
    hit: ArrayLike,
    identity: ArrayLike | None,
    background: ArrayLike,
    *,
    identity_from: float,
    background_from: float = BACKGROUND,
) -> np.ndarray:
    """Tell (B,) bool: the target seen AND identity cosine >= `identity_from` AND background PSNR >= its.

    `identity` None leaves the person out of it; say so beside the number. NaN (nothing to compare) fails.
    """
    kept = np.asarray(background, dtype=np.float64) >= background_from
    same = True if identity is None else np.asarray(identity, dtype=np.float64) >= identity_from
    return (np.asarray(hit) != 0) & kept & same


def esmi(
    source_kl: ArrayLike, edit_kl: ArrayLike, inside: ArrayLike, whole: ArrayLike, *, alpha: float = 0.5
) -> np.ndarray:
    """Measure (B,) ESMI of EmoEditor (Lin et al. 2024), in [0, 1]: alpha S_str + (1 - alpha) S_emo.

    S_emo = max(0, KL(target || source) - KL(target || edit)) / KL(target || source). S_str is the share of
    all absolute pixel change that lies inside the region meant to change: `inside`, `whole` are the sums.
    Where nothing changed, S_str is 0, so that doing nothing scores 0. Known fault: S_str rewards any change
    in the region, destruction too. The original's region is a Grad-CAM above 0.5; here it is the face box.
    """
    given = (source_kl, edit_kl, inside, whole)
    before, after, part, total = (np.asarray(x, dtype=np.float64) for x in given)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = np.maximum(0, before - after) / before
        structure = np.where(total > 0, part / total, 0.0)
    return alpha * structure + (1 - alpha) * gained


def at_matched(emotion: ArrayLike, value: ArrayLike, *, at: float = 0.3) -> float:
    """Read off `value` (S,) where the emotion score (S,) along a strength knob reaches `at`, interpolated.

    The only fair comparison of methods that have a knob. NaN if the curve never reaches it, or starts above.
    """
    score, kept = (np.asarray(x, dtype=np.float64) for x in (emotion, value))
    for k in range(len(score) - 1):
        if score[k] <= at <= score[k + 1] and score[k] < score[k + 1]:
            share = (at - score[k]) / (score[k + 1] - score[k])
            return float(kept[k] + share * (kept[k + 1] - kept[k])) if share else float(kept[k])
    return float("nan")


def pareto_front(points: ArrayLike) -> np.ndarray:
    """Tell (M,) bool which points (M, D) no other matches everywhere and beats somewhere; larger is better.

    Points with NaN are never on it and beat nobody.
    """
    points = np.asarray(points, dtype=np.float64)
    whole = ~np.isnan(points).any(1)
    least = (points[None] >= points[:, None]).all(2) & (points[None] > points[:, None]).any(2)
    return whole & ~(least & whole[None]).any(1)
