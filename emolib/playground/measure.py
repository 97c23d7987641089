"""What is shown beside an edit: what the judges see, and how far it is from the truth. Only looks; nothing
of it goes back into an edit.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from emolib import images
from emolib.judges import emotion as judges
from emolib.metrics import preservation
from emolib.playground.pictures import Picture

judge = cache(judges.load_judge)


def face_of(picture: Picture, pixels: Tensor, k: int) -> Tensor:
    """Person `k`, as a judge looks at them: the square around the face, (1, 3, side, side)."""
    box = images.square_box(picture.people[k].box, *pixels.shape[-2:], margin=images.FACE_MARGIN)
    return images.crop(pixels, box)


def probabilities(picture: Picture, edited: Tensor, k: int, role: str = "heldout") -> list[float]:
    """What a judge sees in person `k` of `edited` (1, 3, H, W): probabilities in the order of `EMOFACES`."""
    return judge(role, device="cpu")(face_of(picture, edited, k)).probs[0].tolist()


def to_the_truth(picture: Picture, edited: Tensor, k: int, emotion: str) -> tuple[float, float] | None:
    """PSNR (dB) to the true answer of the edited face and of the untouched one; None without a truth."""
    truth = (picture.truths or {}).get((k, emotion))
    if truth is None:
        return None
    goal = face_of(picture, truth, k)
    edit, untouched = (face_of(picture, x, k) for x in (edited, picture.pixels))
    return float(preservation.psnr(edit, goal)[0]), float(preservation.psnr(untouched, goal)[0])
