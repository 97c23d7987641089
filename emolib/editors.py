"""The `Editor` contract, and the diffusion methods that keep it, one frozen dataclass each.

An editor's fields are its hyper-parameters: `repr` is its caption in a table, `asdict` its entry in a log.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from emolib import images as pictures
from emolib.backbone import Backbone
from emolib.emotions import words
from emolib.runtime import InputError
from emolib.sampling import Trajectory, add_noise, denoise

PERSON = "person"
TEMPLATE = "photo of {article} {word} {description}"


class Editor(Protocol):
    """`editor(images, emotion, *, generator) -> images`: the same people, feeling `emotion`.

    images       float32 (B, 3, H, W) in [-1, 1]; the result has the same shape, device and range
    emotion      a label, or one for each picture; several for a single picture give one edit each, made as
                 one batch from one encoding and the same noise
    generator    the only source of randomness
    description  who is in the picture, e.g. "woman with red hair", one or one each; for methods with prompts

    Raises InputError for an unknown emotion or a size that the model cannot take.
    """

    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
    ) -> Tensor: ...


def prompt(emotion: str, description: str = PERSON, template: str = TEMPLATE) -> str:
    """`template` filled in: "photo of a sad woman with red hair". InputError: unknown emotion or field."""
    word = words.adjective(emotion)
    try:
        return template.format(article=words.article(word), word=word, description=description)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise InputError(
            f"prompt {template!r}: only {{article}}, {{word}} and {{description}} may stand in braces"
        ) from None


def steps_taken(num_inference_steps: int, strength: float) -> int:
    """How many of the steps a `strength` in [0, 1] takes: all at 1, none at 0, at least one in between.

    diffusers rounds down, so that a small strength silently does nothing; where N * strength is whole, the
    two agree. InputError outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength must lie in [0, 1], not {strength}")
    return math.ceil(round(num_inference_steps * strength, 6))


def each(value: str | Sequence[str], n: int, what: str) -> list[str]:
    """One value for each of n pictures. InputError if there are neither one nor n."""
    values = [value] if isinstance(value, str) else list(value)
    if len(values) not in (1, n):
        raise InputError(f"{len(values)} {what}s for {n} pictures; give one, or one for each")
    return values * (n if len(values) == 1 else 1)


@dataclass(frozen=True)
class Img2Img:
    """SDEdit (Meng et al. 2021, algorithm 1) in latents: noise to `strength`, denoise towards the emotion.

    Strength 0 returns the source bit for bit; 1 starts from the noisiest level and keeps next to nothing.
    `template` may use {article}, {word} and {description}.
    """

    backbone: Backbone
    strength: float = 0.6
    guidance_scale: float = 5.0
    num_inference_steps: int = 30
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        steps_taken(self.num_inference_steps, self.strength)
        if not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale must be a finite number, not {self.guidance_scale}")
        self.backbone.timesteps(self.num_inference_steps)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        emotion: str | Sequence[str],
        *,
        generator: torch.Generator,
        description: str | Sequence[str] = PERSON,
    ) -> Tensor:
        """See `Editor`. The noise is drawn once for each source picture."""
        n = len(images) if isinstance(emotion, str) or len(images) > 1 else len(emotion)
        pairs = zip(each(emotion, n, "emotion"), each(description, n, "description"), strict=True)
        texts = [prompt(label, who, self.template) for label, who in pairs]
        steps = steps_taken(self.num_inference_steps, self.strength)
        if steps == 0:
            return images.expand(n, -1, -1, -1).clone()
        backbone = self.backbone
        levels = backbone.timesteps(self.num_inference_steps)[-steps - 1 :]
        z = backbone.encode(images)
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(z)
        start = add_noise(z, noise, backbone.alphas_cumprod[levels[0]].item())
        predictor = backbone.guided(backbone.embed(texts), self.guidance_scale)
        z = denoise(predictor, Trajectory(levels, start=start.expand(n, -1, -1, -1)))
        return backbone.decode(z).to(images.device)


@dataclass(frozen=True)
class Target:
    """One person to edit: the face `box` [x0, y0, x1, y1] px in picture number `picture` of the batch.

    `emotion` overrules the call's; `mask` (H, W; nonzero is the person) confines the change, by default to
    the crop; `description` goes to the editor's prompt.
    """

    box: Sequence[int]
    emotion: str | None = None
    mask: Any = None
    description: str = PERSON
    picture: int = 0


@dataclass(frozen=True)
class PerPerson:
    """An editor for scenes: every target person is cropped, brought to the model's size, edited, pasted back.

    All crops are one batch of `editor`. Pixels outside the masks, and people who are no target, are the
    source's bit for bit. Where the masks of two targets overlap, the later one lies on top.

    size     side that `editor` works at, px
    margin   what the crop adds around the face box, on each side, as a share of the box's longer side
    feather  width of the soft rim, inside the mask, as a share of the crop's side
    """

    editor: Editor
    size: int
    margin: float = 0.15
    feather: float = 0.06

    def __call__(
        self,
        images: Tensor,
        emotion: str | None = None,
        *,
        generator: torch.Generator,
        people: Sequence[Target],
    ) -> Tensor:
        """(B, 3, H, W) scenes in, the same out. InputError: a bad box, mask, picture number, no emotion."""
        if not people:
            return images.clone()
        check_targets(people, emotion, len(images))
        height, width = images.shape[-2:]
        boxes = [pictures.square_box(person.box, height, width, margin=self.margin) for person in people]
        masks = [target_mask(person.mask, box, images) for person, box in zip(people, boxes, strict=True)]
        crops = torch.cat(
            [
                pictures.resize(pictures.crop(images[person.picture, None], box), self.size)
                for person, box in zip(people, boxes, strict=True)
            ]
        )
        known = [person.description for person in people]
        extra = {} if set(known) == {PERSON} else {"description": known}
        labels = [person.emotion or emotion for person in people]
        edited = self.editor(crops, labels, generator=generator, **extra)
        result = images.clone()
        for i, (person, box, mask) in enumerate(zip(people, boxes, masks, strict=True)):
            if torch.equal(edited[i], crops[i]):
                continue  # nothing was edited: do not let the resampling show
            side, spot = box[2] - box[0], slice(person.picture, person.picture + 1)
            opacity = pictures.feather(mask, round(self.feather * side))
            patch = pictures.resize(edited[i, None], side)
            result[spot] = pictures.paste(result[spot], patch, box, opacity)
        return result


def check_targets(people: Sequence[Target], emotion: str | None, n: int) -> None:
    """InputError if a target's picture is not among the n, or nothing says what it should feel."""
    for person in people:
        if not 0 <= person.picture < n:
            raise InputError(f"there is no picture {person.picture}; the batch has {n}")
        if person.emotion is None and emotion is None:
            raise InputError("name an emotion, for the call or for each person")


def target_mask(mask: Any, box: pictures.Box, images: Tensor) -> Tensor:
    """Where a target may change: bool (H, W), its mask (default everywhere) within its crop. InputError."""
    height, width = images.shape[-2:]
    inside = torch.zeros((height, width), dtype=torch.bool, device=images.device)
    pictures.crop(inside, box)[:] = True
    if mask is None:
        return inside
    mask = torch.as_tensor(mask, device=images.device)
    if mask.shape != inside.shape:
        raise InputError(
            f"mask of {' x '.join(map(str, mask.shape))} for a picture of {height} x {width} (height x width)"
        )
    return inside & (mask != 0)
