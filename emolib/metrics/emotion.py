"""Does the edit show the emotion? Functions of a judge's probabilities (B, K) and target positions (B,).

A judge answers on the CPU; what comes from another device is brought there, and so is every result.

Emo-A and Emo-S are EmoEdit's (Yang et al. 2025): the share of edits whose most probable label is the target,
and the target's probability in the edit minus that in the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emolib.emotions.sets import POLARITY
from emolib.metrics.estimates import Estimate, rate


def target_rate(emotion: ArrayLike, target: ArrayLike, *, groups: Sequence | None = None) -> Estimate:
    """Measure Emo-A: how often the judged emotion (positions of labels) is the target."""
    judged, target = (torch.as_tensor(x).cpu().reshape(-1) for x in (emotion, target))
    return rate(judged == target, groups=groups)


def target_probability(probs: Tensor, target: Tensor) -> Tensor:
    """Look up (B,) the probability that the judge gives to the target."""
    return probs.cpu().gather(1, target.cpu()[:, None]).squeeze(1)


def emotion_score(edit: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Measure (B,) Emo-S, in [-1, 1]: how much more probable the edit made the target. 0 if untouched."""
    return target_probability(edit, target) - target_probability(source, target)


def top_k(probs: Tensor, target: Tensor, k: int = 2) -> Tensor:
    """Tell (B,) bool: fewer than k labels are more probable than the target. k = 1 is Emo-A's hit."""
    return (probs.cpu() > target_probability(probs, target)[:, None]).sum(1) < k


def valence_hit(probs: Tensor, target: Tensor, labels: Sequence[str]) -> Tensor:
    """Tell (B,) float: 1 where the target's side, positive or negative, is the more probable one, else 0.

    Mikels' eight split four to four (EmoSet's two classes); NaN for a target without a side ("neutral").
    """
    sign, target = torch.tensor([float(POLARITY.get(label, 0)) for label in labels]), target.cpu()
    leaning = (probs.cpu() * sign).sum(1) * sign[target]
    return torch.where(sign[target] == 0, torch.nan, (leaning > 0).float())


def kl_divergence(target: Tensor, probs: Tensor) -> Tensor:
    """Measure (B,) KL(target || probs) in nats; `target` is positions (B,) or distributions (B, K).

    For a position it is -log p_target. The probabilities are kept above 1e-7, so it stays finite.
    """
    logs = probs.cpu().double().clamp(min=1e-7).log()
    if target.ndim == 1:
        return -target_probability(logs, target).float()
    target = target.cpu().double()
    return (torch.special.xlogy(target, target) - target * logs).sum(1).float()


def confusion(emotion: Tensor, target: Tensor, k: int) -> Tensor:
    """Count (k, k) int64: row = target, column = judged emotion."""
    return torch.bincount(target.cpu() * k + emotion.cpu(), minlength=k * k).reshape(k, k)


def calibration_error(probs: Tensor, target: Tensor, *, bins: int = 15) -> float:
    """Measure expected calibration error (Guo et al. 2017, eq. 3): |confidence - accuracy| of bins, weighed.

    0 for a judge that is right as often as it says. (N, K) probabilities, (N,) positions of labels."""
    probs, target = probs.cpu(), target.cpu()
    confidence, judged = probs.max(1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gap = (confidence - (judged == target).to(confidence)).double()
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, gap)
    return float(sums.abs().sum() / len(probs))


def constant_error(truth: ArrayLike) -> np.ndarray:
    """Measure (B,) the absolute errors of always answering the median of `truth`: no control at all.

    The median is the best constant under absolute error; an editor that is no better controls nothing.
    """
    truth = np.asarray(truth, dtype=np.float64).reshape(-1)
    return np.abs(truth - np.median(truth))


def all_faces(hits: ArrayLike, picture: Sequence) -> np.ndarray:
    """Tell (P,) bool, in order of the pictures' names, whether every face of a picture reached its target."""
    index = np.unique(np.asarray(picture), return_inverse=True)[1].reshape(-1)
    return np.bincount(index, ~np.asarray(hits, dtype=bool)) == 0


def bystander_change(edit: Tensor, source: Tensor) -> Tensor:
    """Measure (B,) how far bystanders' judged emotion has moved: total variation, in [0, 1]."""
    return 0.5 * (edit.cpu() - source.cpu()).abs().sum(1)
