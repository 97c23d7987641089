"""How well a method can be steered: strength, there and back, seeds, variety of the changes."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emolib.metrics.preservation import psnr


def rank_correlation(strength: ArrayLike, response: ArrayLike) -> np.ndarray:
    """(B,) Spearman's rho of `strength` (S,) and each row of `response` (B, S), e.g. p_target.

    1 where more strength always means more of the emotion, NaN where the response is flat.
    """
    from scipy.stats import rankdata

    knob = rankdata(np.asarray(strength, dtype=np.float64))
    ranks = rankdata(np.atleast_2d(np.asarray(response, dtype=np.float64)), axis=1)
    knob, ranks = knob - knob.mean(), ranks - ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (ranks @ knob) / np.sqrt((knob @ knob) * np.square(ranks).sum(1))


def smoothness(response: ArrayLike) -> np.ndarray:
    """(B,) in [0, 1]: 1 if the response (B, S) moves in S - 1 equal steps, 0 if all happens in one.

    With s the largest step's share of the whole path, (1 - s) / (1 - 1 / (S - 1)); NaN where nothing moves.
    ValueError for fewer than three strengths.
    """
    steps = np.abs(np.diff(np.atleast_2d(np.asarray(response, dtype=np.float64)), axis=1))
    if steps.shape[1] < 2:
        raise ValueError("smoothness needs three strengths or more")
    with np.errstate(invalid="ignore"):
        largest = steps.max(1) / steps.sum(1)
    return (1 - largest) / (1 - 1 / steps.shape[1])


def reversibility(back: Tensor, source: Tensor) -> Tensor:
    """(B,) dB: PSNR of the edit that was edited back to the source's emotion, against the source."""
    return psnr(back, source)


def seed_spread(edits: Tensor) -> Tensor:
    """(B,) how much the seed decides, from edits (S, B, 3, H, W) of S seeds.

    Mean root-mean-square difference of two seeds, on the [0, 1] scale; 0 for a method that draws no noise.
    ValueError for one seed.
    """
    if len(edits) < 2:
        raise ValueError("the spread over seeds needs two seeds or more")
    pairs = itertools.combinations(edits.double(), 2)
    apart = [((a - b) / 2).square().mean((1, 2, 3)).sqrt() for a, b in pairs]
    return torch.stack(apart).mean(0).float()


def change_diversity(edit: Tensor, source: Tensor) -> float:
    """Mean pairwise cosine distance of the changes edit - source of features (N, D), in [0, 2].

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
