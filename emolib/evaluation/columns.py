"""The columns of the table: what each is, which way is better, and how it is averaged."""

from __future__ import annotations

from typing import NamedTuple

from emolib.runtime import one_of


class Column(NamedTuple):
    """`kind` "rate" or "mean" of rows, "set" of the whole; `better` "up", "down", "one" (nearest 1) or "".

    `picture`: the number is of whole pictures, one row a picture counts.
    """

    kind: str
    better: str
    about: str
    picture: bool = False


COLUMNS = {
    "emo_a": Column("rate", "up", "the judge's most probable label is the target"),
    "emo_a_share": Column("set", "up", "Emo-A as a share of what the true answers get: 1 is the ceiling"),
    "emo_s": Column("mean", "up", "p(target) in the edit minus in the source"),
    "p_target": Column("mean", "up", "p(target) in the edit"),
    "top_2": Column("rate", "up", "the target is among the judge's two most probable labels"),
    "valence": Column("rate", "up", "the target's side, positive or negative, has more of the probability"),
    "kl": Column("mean", "down", "-ln p(target), nats"),
    "valence_error": Column("mean", "down", "judged valence against the true answer's, scale [-1, 1]"),
    "valence_constant": Column("set", "", "the same error for always answering the median: no control"),
    "arousal_error": Column("mean", "down", "judged arousal against the true answer's, scale [-1, 1]"),
    "arousal_constant": Column("set", "", "the same error for always answering the median: no control"),
    "emo_s_colour": Column("mean", "up", "Emo-S after the source's colour histogram was put back"),
    "emo_s_kept": Column("set", "one", "share of Emo-S that survives that: 0 means colour did it all"),
    "all_faces": Column("set", "up", "pictures in which every face that was asked shows its target"),
    "psnr": Column("mean", "up", "whole face or portrait against the source, dB"),
    "ssim": Column("mean", "up", "the same, structural similarity"),
    "ms_ssim": Column("mean", "up", "the same over several scales, as many as fit"),
    "background_psnr": Column("mean", "up", "pixels outside the face box or person masks, dB", True),
    "background_mse_e4": Column("mean", "down", "the same, squared error x 1e4", True),
    "background_ssim_e2": Column("mean", "up", "the same, windows wholly outside, x 1e2", True),
    "identity": Column("mean", "up", "cosine of identity embeddings, edit against source"),
    "same_person": Column("set", "up", "identity above the threshold that 1 % of strangers reach"),
    "sharpness": Column("mean", "one", "edit's over source's: under 1 blurred, over 1 sharpened or noisy"),
    "shift": Column("mean", "down", "displacement against the source, px"),
    "truth_psnr": Column("mean", "up", "against the true answer, dB"),
    "truth_ssim": Column("mean", "up", "the same, structural similarity"),
    "truth_face_psnr": Column("mean", "up", "the same, pixels of the face box alone"),
    "beats_nothing": Column("rate", "up", "closer to the true answer than the untouched source is"),
    "joint": Column("set", "up", "emotion AND same person AND background, each as above"),
    "esmi": Column("mean", "up", "EmoEditor's ESMI, the face box as its region"),
    "frechet": Column("set", "down", "Frechet distance to the true pictures, in the judge's features"),
    "kid": Column("set", "down", "kernel distance (KID) to the true pictures, in the judge's features"),
    "diversity": Column("set", "up", "cosine distance between the changes of different pictures, per target"),
    "seed_spread": Column("mean", "", "with --control: difference of two seeds' edits, scale [0, 1]", True),
    "reversibility": Column("mean", "up", "with --control: edited there and back, PSNR to source, dB", True),
    "bystander_emotion": Column("mean", "down", "how far the judged emotion of people not asked moved"),
    "bystander_levels": Column("mean", "down", "largest pixel change on people not asked, 8-bit levels"),
    "refused": Column("rate", "down", "the service refused: the source stands in for the edit"),
    "lost": Column("rate", "down", "paid for, perhaps, and never received: the source stands in"),
    "emoedit_emo_a": Column("rate", "up", "EmoEdit's Emo-A: among eight emotions"),
    "emoedit_emo_s": Column("mean", "up", "EmoEdit's Emo-S: among eight emotions"),
    "emoedit_valence": Column("rate", "up", "EmoEdit's two-class accuracy"),
    "emoedit_psnr": Column("mean", "up", "EmoEdit's PSNR: peak is the source's own range", True),
    "emoedit_ssim": Column("mean", "up", "EmoEdit's SSIM: 7 px uniform window at 512 px", True),
    "emoedit_mse": Column("mean", "down", "EmoEdit's MSE: in wrapping 8-bit arithmetic", True),
    "emoedit_lpips": Column("mean", "down", "EmoEdit's LPIPS: fed [0, 1]", True),
    "piebench_psnr": Column("mean", "up", "PIE-Bench's background PSNR: black counted in", True),
    "piebench_mse_e4": Column("mean", "down", "PIE-Bench's background MSE x 1e4", True),
    "piebench_ssim_e2": Column("mean", "up", "PIE-Bench's background SSIM x 1e2", True),
    "piebench_lpips_e3": Column("mean", "down", "PIE-Bench's background LPIPS x 1e3", True),
    "ffe_confused": Column("rate", "down", "FFE-Bench's mSCR: taken for the confusable neighbour", True),
    "ffe_hes": Column("set", "up", "FFE-Bench's HES: harmonic mean of p(target) and identity"),
    "fed_alignment": Column("mean", "up", "FED-Bench's alignment, as the judge's p(target)", True),
    "fed_fidelity": Column("set", "up", "FED-Bench's fidelity, as the mean of SSIM and identity"),
    "fed_gain": Column(
        "set", "up", "FED-Bench's relative expression gain: 1 is the truth's, 0 is doing nothing"
    ),
    "lpips": Column("mean", "down", "LPIPS (AlexNet), fed [-1, 1]", True),
    "clip_i": Column("mean", "up", "cosine of CLIP image embeddings", True),
    "dino_i": Column("mean", "up", "cosine of mean DINOv2 tokens", True),
}
"""Every column, in the table's order. `emo_a@NAME`, `emo_s@NAME` are another judge's."""

HEADLINE = {
    "standard": (
        "emo_a", "emo_s", "identity", "background_psnr", "sharpness", "truth_psnr", "beats_nothing", "joint",
        "frechet",
    ),
    "emoedit": (
        "emoedit_emo_a", "emoedit_emo_s", "emoedit_valence", "emoedit_psnr", "emoedit_ssim", "emoedit_mse",
        "emoedit_lpips", "clip_i", "dino_i",
    ),
    "ffe": ("ffe_confused", "emo_a", "ffe_hes", "identity", "beats_nothing"),
    "fed": ("fed_alignment", "fed_fidelity", "fed_gain", "beats_nothing"),
    "piebench": ("piebench_psnr", "piebench_mse_e4", "piebench_ssim_e2", "piebench_lpips_e3"),
}  # fmt: skip
"""Columns of the Markdown table under each protocol; the JSON and CSV files have all."""

PAIRED = ("emo_a", "emo_s", "truth_psnr", "truth_face_psnr", "identity", "beats_nothing", "esmi")
"""Columns compared with the baseline picture by picture."""

PARTS = (
    "emo_a", "emo_s", "p_target", "identity", "same_person", "background_psnr", "truth_psnr",
    "beats_nothing", "joint", "all_faces", "bystander_levels",
)  # fmt: skip
"""Columns that are also given by emotion, distance, number of people and face size."""


def get_column(name: str) -> Column:
    """Get the column called `name`; one of another judge is told from its "@". InputError: there is none."""
    base, _, judge = name.partition("@")
    if judge and base in ("emo_a", "emo_s"):
        return COLUMNS[base]._replace(about=f"{COLUMNS[base].about}, says {judge}")
    return COLUMNS[one_of(name, COLUMNS, "metric")]
