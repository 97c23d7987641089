"""How others compute their numbers, faults included, beside `standard`, where the faults are mended.

Each protocol takes a `Comparison` and gives columns (B,). Read beside the released code: EmoEdit's
metrics/Metric_args.py and Metric/ACC_args.py, PnPInversion's evaluation/ (PIE-Bench).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emolib import images as pictures
from emolib.emotions.sets import MIKELS
from emolib.metrics import emotion, preservation

EMOEDIT_SIDE = 512
FAULTS = {
    "standard": (),
    "emoedit": (
        "PSNR's peak is max - min of each source picture, not 255: low contrast lowers it",
        "MSE is taken of 8-bit arrays, whose differences and squares wrap around at 256",
        "SSIM has a 7 px uniform window, not Wang's 11 px Gaussian",
        "the edit is squeezed to 512 x 512, the source centre-cropped: other shapes are misaligned",
        "Emo-S squeezes the edit, Emo-A does not; LPIPS gets [0, 1] where it expects [-1, 1]",
        "eight emotions only: a neutral face must be one of them",
    ),
    "piebench": (
        "the edited region is blacked out in both pictures and then counted: PSNR rises by"
        " 10 lg(1 / background share), SSIM scores the black part as perfect",
        "the picture's outermost pixels count as edited",
        "pictures without background are left out of the mean",
    ),
    "ffe": (
        "ours where the publication leaves it open (its code was not out): the judge is this table's, the"
        " confusable neighbours are fear / surprise and anger / disgust, the editing score is p(target)",
        "identity is this table's network, not the benchmark's",
    ),
    "fed": (
        "ours where the publication leaves it open: alignment is the judge's p(target) instead of a language"
        " model's grade, fidelity the mean of SSIM and identity, both against the source",
        "an edit that goes beyond the true answer and one that falls short lose the same gain",
    ),
}
"""What is wrong with each protocol, as its released code has it."""


@dataclass(frozen=True)
class Comparison:
    """B edits and what they are compared with.

    All on the CPU.

    edit, source  float32 (B, 3, H, W) in [-1, 1]
    mask          (B, H, W), nonzero where an edit is meant
    probs, source_probs, target   the judge's (B, K) for both, and positions (B,); `labels` name the K
    """

    edit: Tensor
    source: Tensor
    mask: Tensor
    probs: Tensor
    source_probs: Tensor
    target: Tensor
    labels: tuple[str, ...]


def standard(c: Comparison, *, background: bool = True) -> dict[str, Tensor]:
    """Measure Emo-A's hit, Emo-S, top-2, valence, KL; PSNR, SSIM, MS-SSIM, sharpness, shift, `background`."""
    similarity, ms_ssim = preservation.ssim_map_and_ms_ssim(c.edit, c.source)
    columns = {
        "emo_a": emotion.top_k(c.probs, c.target, 1).float(),
        "emo_s": emotion.emotion_score(c.probs, c.source_probs, c.target),
        "top_2": emotion.top_k(c.probs, c.target, 2).float(),
        "valence": emotion.valence_hit(c.probs, c.target, c.labels),
        "kl": emotion.kl_divergence(c.target, c.probs),
        "psnr": preservation.psnr(c.edit, c.source),
        "ssim": similarity.mean((1, 2)),
        "ms_ssim": ms_ssim,
        "sharpness": preservation.sharpness_ratio(c.edit, c.source),
        "shift": preservation.alignment_shift(c.edit, c.source),
    }
    return columns | (measure_background(c, similarity) if background else {})


def measure_background(c: Comparison, similarity: Tensor) -> dict[str, Tensor]:
    """Measure what lies outside the mask; `similarity` is the `ssim_map` of the two pictures.

    PSNR and MSE are of background pixels alone, SSIM of windows that lie wholly in the background.
    """
    outside = c.mask == 0
    return {
        "background_psnr": preservation.masked_psnr(c.edit, c.source, outside),
        "background_mse_e4": 1e4 * preservation.masked_error(c.edit, c.source, outside),
        "background_ssim_e2": 1e2 * preservation.masked_ssim(similarity, outside),
    }


def emoedit(c: Comparison) -> dict[str, Tensor]:
    """Measure EmoEdit's PSNR, SSIM, MSE, Emo-A, Emo-S, two-class accuracy (Yang et al. 2025), as released.

    Among Mikels' eight: other labels' probability is taken away and the rest scaled to 1; NaN where the
    target is none of the eight. The judge, and so Emo-A and Emo-S, is ours, not EmoEdit's CLIP classifier.
    """
    places = [c.labels.index(name) for name in MIKELS if name in c.labels]
    position = torch.full((len(c.labels),), -1, dtype=torch.long)
    position[places] = torch.arange(len(places))
    target = position[c.target.cpu()]
    among_eight, target = target >= 0, target.clamp(min=0)
    kept = (p.cpu()[:, places] for p in (c.probs, c.source_probs))
    after, before = (p / p.sum(1, keepdim=True).clamp(min=1e-12) for p in kept)
    positive = after[:, :4].sum(1) >= after[:, 4:].sum(1)
    columns = {
        "emoedit_emo_a": after.argmax(1) == target,
        "emoedit_emo_s": emotion.emotion_score(after, before, target),
        "emoedit_valence": positive == (target < 4),
    }
    columns = {name: torch.where(among_eight, value.float(), torch.nan) for name, value in columns.items()}
    rows = [
        _compare_as_emoedit(_emoedit_picture(edit), _emoedit_picture(pictures.crop_middle(source)))
        for edit, source in zip(c.edit, c.source, strict=True)
    ]
    names = ("emoedit_psnr", "emoedit_ssim", "emoedit_mse")
    return columns | dict(zip(names, torch.tensor(rows, dtype=torch.float32).unbind(1), strict=True))


def _emoedit_picture(image: Tensor) -> np.ndarray:
    """(512, 512, 3) uint8: PIL's bicubic resize, whatever the shape was."""
    return np.asarray(pictures.to_pil(image)[0].resize((EMOEDIT_SIDE, EMOEDIT_SIDE)))


def _compare_as_emoedit(edit: np.ndarray, source: np.ndarray) -> tuple[float, float, float]:
    """(PSNR, SSIM, MSE) of 8-bit pictures."""
    from skimage.metrics import mean_squared_error, structural_similarity

    peak, error = float(source.max()) - float(source.min()), mean_squared_error(edit, source)
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(np.float64(peak**2) / error) if error else np.inf
    wrapped = np.square(edit - source).mean()  # in 8 bits, as theirs
    return float(psnr), float(structural_similarity(edit, source, channel_axis=2)), float(wrapped)


def piebench(c: Comparison) -> dict[str, Tensor]:
    """Measure PIE-Bench's background numbers (Ju et al. 2024): PSNR dB, MSE x 1e4, SSIM x 1e2.

    Both pictures are multiplied by (1 - mask), the mask grown by the outermost pixels; NaN: no background.
    """
    edit, source = blacked_out(c)
    columns = {
        "piebench_psnr": preservation.psnr(edit, source),
        "piebench_mse_e4": 1e4 * (edit - source).square().mean((1, 2, 3)) / 4,
        "piebench_ssim_e2": 1e2 * preservation.ssim(edit, source),
    }
    some = _background(c).flatten(1).any(1)
    return {name: torch.where(some, value, torch.nan) for name, value in columns.items()}


def blacked_out(c: Comparison) -> tuple[Tensor, Tensor]:
    """Give edit and source with everything but the background black, as PIE-Bench compares them."""
    outside = _background(c)[:, None]
    return torch.where(outside, c.edit, -1.0), torch.where(outside, c.source, -1.0)  # 0 on its scale


def _background(c: Comparison) -> Tensor:
    inner = torch.zeros_like(c.mask, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    return (c.mask == 0) & inner


CONFUSABLE = {"fear": "surprise", "surprise": "fear", "anger": "disgust", "disgust": "anger"}
"""Expressions that share much of a face, as PixelSmile trains them apart."""


def ffe(c: Comparison) -> dict[str, Tensor]:
    """Measure FFE-Bench's confusion (PixelSmile, Hua et al. 2026): is the edit taken for the neighbour?

    Published are the names and what they are for: mSCR, how often an edit is taken for the confusable
    neighbour; Acc; CLS, linearity of strength against score; HES, harmonic mean of editing score and
    identity; ID Sim, cosine to the source. Our reading: `ffe_confused` (B,) is 1 where the judge's first
    label is the neighbour in `CONFUSABLE`, NaN for targets without one that the judge knows; Acc is `emo_a`,
    ID Sim `identity`, HES `harmonic_score`, CLS the strength curves' `linearity`.
    """
    neighbours = [CONFUSABLE.get(label) for label in c.labels]
    places = torch.tensor([c.labels.index(n) if n in c.labels else -1 for n in neighbours])[c.target.cpu()]
    hit = (c.probs.cpu().argmax(1) == places).float()
    return {"ffe_confused": torch.where(places < 0, torch.nan, hit)}


def harmonic_score(score: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Take FFE-Bench's HES (B,): the harmonic mean of the editing score, in [0, 1], and the identity cosine.

    0 where the person is lost (a cosine of 0 and less) or the emotion is."""
    identity = np.clip(identity, 0, 1)
    return 2 * score * identity / np.maximum(score + identity, 1e-12)


def fed(c: Comparison) -> dict[str, Tensor]:
    """Measure FED-Bench's alignment (Xue et al. 2026), whether the edit shows what was asked.

    Published are three names and what they are for: Alignment, Fidelity (quality and identity), Relative
    Expression Gain, made against lazy edits, which keep everything and change nothing, and overfit ones. Our
    reading: alignment is p(target); fidelity `fidelity`; the gain `expression_gain`, for which there must be
    a true answer.
    """
    return {"fed_alignment": emotion.target_probability(c.probs, c.target)}


def fidelity(ssim: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Take the mean (B,) of SSIM and identity cosine against the source, at 0 or more: a lazy edit's 1."""
    return (np.clip(ssim, 0, 1) + np.clip(identity, 0, 1)) / 2


def expression_gain(source: np.ndarray, edit: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Measure (B,) how much of the way to the true expression an edit goes, of probabilities (B, K).

    1 - d(edit, truth) / d(source, truth), d the total variation: 1 for the true answer's expression, 0 for
    doing nothing, under 0 for one that leads away. NaN where the truth looks like the source.
    """
    rest, whole = (np.abs(x - truth).sum(1) / 2 for x in (edit, source))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0.05, 1 - rest / whole, np.nan)


PROTOCOLS: dict[str, Callable[[Comparison], dict[str, Tensor]]] = {
    "standard": standard,
    "emoedit": emoedit,
    "piebench": piebench,
    "ffe": ffe,
    "fed": fed,
}
