"""Methods with a strength knob: how the emotion follows it, and what is kept at equal emotion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from emolib.evaluation.results import Measured
from emolib.metrics import control, estimates
from emolib.metrics import control as joint
from emolib.metrics.estimates import Estimate

MATCHED = ("psnr", "ssim", "identity", "background_psnr", "truth_psnr")
AT = 0.3  # Emo-S at which methods are compared


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """Base name -> its members "base@strength" in order of strength, where there are three or more."""
    found: dict[str, list[str]] = {}
    for name in names:
        base, _, strength = name.partition("@")
        with suppress(ValueError):  # a submission may be called anything
            if math.isfinite(float(strength)):
                found.setdefault(base, []).append(name)
    ordered = {
        base: sorted(some, key=lambda name: float(name.partition("@")[2])) for base, some in found.items()
    }
    return {base: some for base, some in ordered.items() if len(some) >= 3}


def curve(members: Mapping[str, Measured]) -> dict[str, Estimate]:
    """Spearman's rho and smoothness of p_target along the strengths, and columns at Emo-S 0.3.

    "at_matched_psnr" and so on interpolate the means; their intervals resample people.
    """
    strengths = [float(name.partition("@")[2]) for name in members]
    measured = list(members.values())
    rows = measured[0].rows
    asked, groups = rows.table["asked"], rows.table["group"]
    response = np.stack([m.columns["p_target"] for m in measured], axis=1)[asked]
    found = {}
    for name, values in (
        ("spearman", control.rank_correlation(strengths, response)),
        ("smoothness", control.smoothness(response)),
    ):
        use = ~np.isnan(values)
        if use.any():
            found[name] = estimates.mean(values[use], groups=groups[asked][use])
    score = np.stack([m.columns["emo_s"] for m in measured], axis=1)[asked]
    for name in MATCHED:
        if all(name in m.columns for m in measured):
            kept = np.stack([m.columns[name] for m in measured], axis=1)[asked]
            matched = _matched(score, kept, groups[asked])
            if matched is not None:
                found[f"at_matched_{name}"] = matched
    return found


def _matched(score: np.ndarray, kept: np.ndarray, groups: np.ndarray) -> Estimate | None:
    use = np.isfinite(kept).all(1)  # a picture that a weak setting left untouched has no finite PSNR
    if not use.any():
        return None

    def at(rows: np.ndarray) -> float:
        return joint.at_matched(score[use][rows].mean(0), kept[use][rows].mean(0), at=AT)

    value, low, high = estimates.jackknife(at, groups[use])
    return None if np.isnan(value + low + high) else Estimate(value, low, high, int(use.sum()))
