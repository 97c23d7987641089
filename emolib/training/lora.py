"""Learn a feeling in the network itself: as a LoRA, as a slider from pairs, or with all weights (DreamBooth).

The objective is the denoising loss of pictures and, in the same batch and under the same noise, of their
counterparts: of a slider the same people without the feeling, at the opposite scale; of DreamBooth pictures
of the class that the model drew itself. The frozen text encoder reads every prompt once a run.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.sampling import add_noise
from emolib.emotions.words import CAPTION, TEMPLATE, fill_template
from emolib.interventions.lora import TARGETS, Attached, Lora, lora, start_lora
from emolib.runtime import InputError, generator
from emolib.training import examples as caches
from emolib.training.examples import Batch, Batches, Examples, encode_examples, pick
from emolib.training.loop import Run, Tell, fit_parameters
from emolib.training.objective import Objective, change_map, loss_weight, output_error
from emolib.training.pictures import Pictures
from emolib.training.report import sample_pictures
from emolib.training.settings import LoraSettings, Settings

WORDLESS = "photo of {article} {description}"
"""The prompt of sliders, which leaves the feeling to the network."""
TEMPERATURE = 0.07  # of the contrast, CLIP's own (PixelSmile)
Embed = Callable[[Tensor], Tensor]
"""(B, 3, H, W) pictures in [-1, 1] -> (B, D) of length one, differentiable: `Clip.images`."""


@dataclass(frozen=True, eq=False)
class LearnedLora:
    """What came of a run: the LoRA at its best evaluation, {step: loss}, steps and seconds."""

    lora: Lora
    curve: tuple[tuple[int, float], ...]
    steps: int
    seconds: float


class Sides(Objective):
    """The loss of pictures, plus `weight` times that of their counterparts, if there are any.

    attached   the LoRA: at scale 1 for the pictures and `opposite` for the counterparts; None: no LoRA
    between    see `LoraSettings`
    embed      of the contrast; see `contrast`
    """

    def __init__(
        self,
        backbone: Backbone,
        batches: Batches,
        settings: Settings,
        *,
        attached: Attached | None = None,
        opposite: float = 1.0,
        weight: float = 1.0,
        between: bool = False,
        embed: Embed | None = None,
    ) -> None:
        super().__init__(backbone, batches, settings)
        self.attached, self.opposite, self.weight = attached, opposite, weight
        self.between, self.embed = between, embed
        with torch.no_grad():
            self.text = caches.encode_ids(backbone, batches.ids)

    def encode(self, batch: Batch) -> tuple[Embedding, Tensor]:
        """Look the batch's prompts up, which were encoded once."""
        return self.text, batch.prompt.to(self.network.device)

    def losses(self, batch: Batch, embedding: Embedding) -> Tensor:
        """(B,) float32 losses of a batch under its own B embeddings."""
        both = self.batches.neutral_text is not None
        # 1. Pictures and counterparts as one batch, with the same noise, level and posterior draw.
        z0 = self.batches.latents(batch)  # (B, C, h, w)
        t, noise = batch.t, batch.noise.to(z0)
        if both:
            calm = pick(self.batches.neutral_text, batch.prompt.to(z0.device))
            z0 = torch.cat([z0, self.batches.latents(batch, neutral=True)])  # (2 B, C, h, w)
            t, noise, embedding = t.repeat(2), noise.repeat(2, 1, 1, 1), Embedding.cat([embedding, calm])
        # 2. Each row sees the LoRA at its own scale.
        if self.attached is not None:
            n = len(batch)
            self.attached.scale = torch.tensor([1.0] * n + [self.opposite] * n)[: len(z0)]
        abar = self.network.alphas_cumprod[t].to(z0).view(-1, 1, 1, 1)
        z = add_noise(self._between(batch, z0) if self.between else z0, noise, abar)
        z = z.contiguous(memory_format=torch.channels_last)
        if self.between:
            noise = (z - abar**0.5 * z0) / (1 - abar) ** 0.5  # what leads from there to the own picture
        with self.autocast():
            prediction = self.network.predict(z, t, embedding)
        # 3. What the network missed, weighed by level and by place.
        error = output_error(prediction, z0, noise, abar, self.network.prediction_type).square()
        if both and self.settings.focus:
            error = change_map(*z0.chunk(2)).repeat(2, 1, 1, 1) * error
        weight = loss_weight(abar.flatten(), self.settings.min_snr, self.network.prediction_type)
        loss = weight * error.mean((1, 2, 3))
        if not both:
            return loss
        felt, other = loss.chunk(2)
        loss = felt + self.weight * other
        if self.embed is None:
            return loss
        return loss + self.settings.contrast * self._contrast(prediction.x0, z0)

    def _between(self, batch: Batch, z0: Tensor) -> Tensor:
        """Move each row a part of the way to its counterpart, evenly drawn: (2 B, C, h, w)."""
        way = torch.special.ndtr(batch.spread[:, 0, 0, 0]).view(-1, 1, 1, 1).repeat(2, 1, 1, 1)
        return z0.lerp(torch.cat(z0.chunk(2)[::-1]), way.to(z0))

    def _contrast(self, x0: Tensor, z0: Tensor) -> Tensor:
        """Decode the predictions and their targets, (2 B, C, h, w) each, and contrast them: (B,)."""
        with torch.no_grad():
            targets = self.embed(self.network.decode(z0)).chunk(2)
        return contrast(*self.embed(self.network.decode(x0)).chunk(2), *targets).to(x0)


def contrast(felt: Tensor, other: Tensor, felt_target: Tensor, other_target: Tensor) -> Tensor:
    """Compare embeddings (B, D) of two results of one person with those of their targets: (B,).

    Symmetric InfoNCE with temperature 0.07 (PixelSmile): each result is to be nearer to its own target than
    to the other's."""

    def side(result: Tensor, own: Tensor, rival: Tensor) -> Tensor:
        logits = torch.stack([(result * own).sum(1), (result * rival).sum(1)], 1) / TEMPERATURE
        return -F.log_softmax(logits, 1)[:, 0]

    return (side(felt, felt_target, other_target) + side(other, other_target, felt_target)) / 2


def learn_lora(
    backbone: Backbone,
    pictures: Pictures,
    emotion: str,
    settings: LoraSettings = LoraSettings(),  # noqa: B008 - frozen
    *,
    word: str = "",
    targets: Sequence[str] = TARGETS,
    embed: Embed | None = None,
    flip: bool = True,
    licence: str = "",
    work: Path | None = None,
    tell: Tell | None = None,
) -> LearnedLora:
    """Learn the feeling that `pictures` show, as a LoRA of the UNet; the backbone is as before afterwards.

    With counterparts (`pictures.neutral`) it is a slider (Gandikota et al. 2023, image sliders): at scale 1
    the network draws the pictures, at -1 their counterparts, neutral or of the opposite feeling.

    word      of the prompts, or a learned token that is plugged in; "" (and a slider): none
    embed     with `settings.contrast`: the space in which a slider's two ends are told apart
    work, tell  see `loop.fit_parameters`
    InputError: a rank above a layer's width, a contrast without two ends, a checkpoint of another run.
    FloatingPointError: it diverged."""
    if settings.contrast and (pictures.neutral is None or embed is None):
        raise InputError("a contrast needs pairs, whose two sides it tells apart, and a space to do so")
    template = TEMPLATE if word else WORDLESS
    felt = encode_pictures(backbone, pictures.images, pictures.descriptions, word, flip)
    if pictures.neutral is not None:
        felt = replace(
            felt, neutral=encode_pictures(backbone, pictures.neutral, pictures.descriptions, "", flip)
        )
    batches = Batches(backbone, {emotion: felt}, seed=settings.seed, held_out=settings.held_out)
    start = start_lora(backbone, settings.rank, generator(settings.seed, "lora"), targets=targets)
    start = replace(start, emotion=emotion, licence=licence, template=template)
    with lora(backbone, start, trainable=True) as attached:
        sides = {"opposite": -1.0, "embed": embed if settings.contrast else None}
        sides["between"] = settings.between and pictures.neutral is not None
        objective = Sides(backbone, batches, settings, attached=attached, **sides)
        parameters = [p for pair in attached.parameters.values() for p in pair]
        about = ("lora", asdict(replace(settings, checkpoint_every=0)), word, tuple(targets))
        run = _fit(backbone, emotion, parameters, objective, felt, about, work, tell)
        learned = replace(start, layers=attached.copy(start), steps=run.best_of(emotion)[0])
    return LearnedLora(learned, tuple(run.curves[emotion]), run.step, run.seconds)


def learn_dreambooth(
    backbone: Backbone,
    pictures: Pictures,
    word: str,
    settings: Settings,
    *,
    prior: Tensor | None = None,
    prior_weight: float = 1.0,
    part: str = "",
    flip: bool = True,
    work: Path | None = None,
    tell: Tell | None = None,
) -> tuple[Backbone, Run]:
    """Tune the UNet's own weights on `pictures` under `word` (DreamBooth, Ruiz et al. 2022); a new backbone.

    prior         (M, 3, S, S): what the model draws of the same descriptions without the word, see
                  `draw_class`, M = N or a multiple; kept by a loss of its own (prior preservation)
    prior_weight  of that loss; 0 is DreamBooth without it
    part          only weights whose names hold this, e.g. "attn2"; "": all

    The last step counts, as published: the prior's loss is at its best before the first one, so that the best
    evaluation could be the model as it was."""
    tuned = copy.copy(backbone)
    tuned.unet = copy.deepcopy(backbone.unet)
    named = {name: p for name, p in tuned.unet.named_parameters() if part in name}
    for parameter in named.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    times = 1 if prior is None else len(prior) // len(pictures)
    who = pictures.descriptions * times
    felt = encode_pictures(tuned, pictures.images.repeat(times, 1, 1, 1), who, word, flip)
    if prior is not None:
        felt = replace(felt, neutral=encode_pictures(tuned, prior, who, "", flip))
    batches = Batches(tuned, {word: felt}, seed=settings.seed, held_out=settings.held_out)
    objective = Sides(tuned, batches, settings, weight=prior_weight)
    about = ("dreambooth", asdict(replace(settings, checkpoint_every=0)), prior_weight, part)
    run = _fit(tuned, word, list(named.values()), objective, felt, about, work, tell, evaluated=False)
    for parameter in named.values():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(backbone.dtype)
    return tuned, run


def draw_class(
    backbone: Backbone,
    descriptions: Sequence[str],
    *,
    num_inference_steps: int = 20,
    guidance_scale: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """Draw what the model itself takes these people for, (M, 3, S, S): the class pictures of DreamBooth."""
    prompts = [fill_template(TEMPLATE, "", who) for who in descriptions]
    return sample_pictures(backbone, prompts, num_inference_steps, guidance_scale, seed)


def encode_pictures(
    backbone: Backbone, images: Tensor, descriptions: Sequence[str], word: str, flip: bool
) -> Examples:
    """Encode pictures with the prompts that name `word`, or no feeling."""
    templates = (TEMPLATE, CAPTION)
    texts = tuple(tuple(fill_template(template, word, who) for template in templates) for who in descriptions)
    return encode_examples(backbone, images, texts, flip=flip)


def _fit(
    backbone: Backbone,
    name: str,
    parameters: Sequence[nn.Parameter],
    objective: Sides,
    examples: Examples,
    about: object,
    work: Path | None,
    tell: Tell | None,
    *,
    evaluated: bool = True,
) -> Run:
    digest = hashlib.sha256(repr((about, backbone.name, caches.fingerprint({name: examples}))).encode())
    with nullcontext() if objective.embed else caches.set_aside(backbone.vae):
        return fit_parameters(
            {name: parameters},
            objective,
            objective.settings,
            evaluate=objective.evaluate if evaluated else None,
            scale_gradients=objective.dtype == torch.float16,
            work=work,
            identity=digest.hexdigest(),
            tell=tell,
        )
