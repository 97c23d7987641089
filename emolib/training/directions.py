"""Learn h-space directions: with Asyrp's CLIP loss, or from pairs of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.clip import Clip
from emolib.diffusion.sampling import Prediction, Trajectory, add_noise, denoise
from emolib.emotions import words
from emolib.interventions import hspace
from emolib.interventions.asyrp import STEPS, T_EDIT, Asymmetric
from emolib.interventions.directions import SUPERVISED, Directions, Network, untrained
from emolib.interventions.directions_fit import check_labels
from emolib.runtime import InputError, progress
from emolib.training.examples import stratified

EPOCHS, LR, L1_WEIGHT = 4, 6e-3, 1.0
"""Of a shift that CLIP trains. On 8 validation people the guide judge saw MiniCLIP's anger, trained at `up1`,
in 0.75 after 4 epochs of 16 people, in 0.38 after 4 of 8. The paper weighs L1 by 3, with another CLIP."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""`loss(edited, source)`: (B, 3, H, W) pictures in [-1, 1] -> a number to make small."""


@dataclass(frozen=True, eq=False)
class DirectionalLoss:
    """Asyrp's loss (section 3.4): the picture has to move in CLIP's space as the words do, and little else.

    clip_weight (1 - cos(E(edited) - E(source), direction)) + l1_weight mean|edited - source|

    embed        pictures -> (B, D), differentiable: `Clip.images` or any like it
    direction    (D,), embedding of the target words minus that of the source words (Gal et al. 2022)
    The authors' code takes the original picture as CLIP's source, and -log of the cosine term's complement.
    """

    embed: Callable[[Tensor], Tensor]
    direction: Tensor
    clip_weight: float = 1.0
    l1_weight: float = L1_WEIGHT

    def __call__(self, edited: Tensor, source: Tensor) -> Tensor:
        moved = self.embed(edited) - self.embed(source).detach()
        clip = 1 - F.cosine_similarity(moved, self.direction[None].to(moved)).mean()
        return self.clip_weight * clip + self.l1_weight * (edited - source).abs().mean()


def directional_loss(
    clip: Clip, source: str, target: str, *, l1_weight: float = L1_WEIGHT
) -> DirectionalLoss:
    """The loss that leads from the words `source` to the words `target`. InputError: the same to CLIP."""
    start, end = clip.texts([source, target])
    if torch.allclose(start, end, atol=1e-6):
        raise InputError(f"{source!r} and {target!r} mean the same to this CLIP; take other words")
    return DirectionalLoss(clip.images, end - start, l1_weight=l1_weight)


@dataclass(eq=False)
class Lesson:
    """A predictor that takes a training step at every level it is asked at (as the authors' code does).

    Two walks share its batch (2 B, c, h, w): the source's own, which nothing moves, and behind it the edit's.
    The loss compares what they predict. (Compared with a plain prediction on the *edit's* walk, a shift would
    be paid for moving a little further at every level, wherever the walk has got to by then.) The edited
    prediction is returned without its graph.
    """

    predictor: Asymmetric
    loss: Loss
    optimizer: torch.optim.Optimizer
    losses: list[float]

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.predictor.alphas_cumprod

    def __call__(self, z: Tensor, t: int, *, level: int | None = None, uncond: Any = None) -> Prediction:
        decode = self.predictor.backbone.decode
        kept, edited = z.chunk(2)
        with torch.no_grad():
            still = self.predictor.plain(kept, t, level=level, uncond=uncond)
            source = decode(still.x0)
        with torch.enable_grad():
            plain, moved = self.predictor.both(edited, t, level=level, uncond=uncond)
            loss = self.loss(decode(moved.x0), source)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.losses.append(float(loss.detach()))
        return Prediction(
            torch.cat([still.x0, moved.x0.detach()]), torch.cat([still.eps, plain.eps.detach()])
        )


def train_shift(
    predictor: Asymmetric,
    trajectory: Trajectory,
    loss: Loss,
    *,
    generator: torch.Generator,
    epochs: int = EPOCHS,
    batch: int = 4,
    lr: float = LR,
) -> list[float]:
    """Train `predictor.shift` (a `Network` or `Table`) on recorded inversions; returns the losses, in order.

    Each picture is walked from its noisiest latents through the editing interval, one step of Adam a level.
    trajectory  its start or latents[0] (N, c, h, w) are the inverted pictures, its timesteps descend
    Raises ValueError if the shift cannot be trained, or no level lies in the editing interval."""
    if not isinstance(predictor.shift, nn.Module):
        raise ValueError("only a module can be trained: a directions.Network or Table")
    levels = [int(t) for t in trajectory.timesteps]
    inside = [t for t in levels[:-1] if t >= predictor.t_edit]
    if not inside:
        raise ValueError(
            f"no level of the walk lies in the editing interval, from {predictor.t_edit} upwards"
        )
    levels = levels[: len(inside) + 1]
    start = trajectory.latents[0] if trajectory.start is None else trajectory.start
    predictor.shift.requires_grad_(True)
    lesson = Lesson(predictor, loss, torch.optim.Adam(predictor.shift.parameters(), lr=lr), [])
    for _ in progress(range(epochs), "training"):
        order = torch.randperm(len(start), generator=generator, device=generator.device).tolist()
        for i in range(0, len(order), batch):
            some = start[order[i : i + batch]]
            denoise(lesson, Trajectory(levels, start=torch.cat([some, some])))
    predictor.shift.requires_grad_(False)
    return lesson.losses


def fit_networks(
    backbone: Backbone,
    z: Tensor,
    names: Sequence[str],
    clip: Clip,
    *,
    generator: torch.Generator,
    source: str | None = None,
    prompt: str = "",
    num_inference_steps: int = STEPS,
    t_edit: int = T_EDIT,
    epochs: int = EPOCHS,
    place: str = hspace.MIDDLE,
) -> Directions:
    """A trained network for each of `names`, emotions or other words, from pictures that show none of them.

    z (N, c, h', w') are clean latents of pictures of the emotion `source`; None: of anything ("a person")."""
    cond = backbone.embed(prompt)
    walk = _inverted(backbone, z, cond, list(dict.fromkeys(backbone.timesteps(num_inference_steps))))
    shifts, notes = {}, {}
    for name in names:
        network = untrained(hspace.channels(backbone.unet, place), generator).to(backbone.device)
        predictor = Asymmetric(backbone, cond, network, t_edit, place=place)
        loss = directional_loss(clip, in_words(source), in_words(name))
        losses = train_shift(predictor, walk, loss, generator=generator, epochs=epochs)
        shifts[name], tenth = network, max(1, len(losses) // 10)
        notes[name] = {"pictures": len(z), "loss": sum(losses[-tenth:]) / tenth}
    width = backbone.unet.config.cross_attention_dim
    size = hspace.channels(backbone.unet, place)
    return Directions(shifts, source or "", prompt, backbone.name, size, width, "trained", place, notes=notes)


@torch.no_grad()
def _inverted(
    backbone: Backbone, z: Tensor, cond: Embedding, levels: list[int], batch: int = 16
) -> Trajectory:
    predictor = backbone.guided(cond, 1.0)
    parts = progress(z.to(backbone.device).split(batch), "inversion")
    return Trajectory(
        levels, start=torch.cat([denoise(predictor, Trajectory(levels[::-1], start=part)) for part in parts])
    )


def in_words(label: str | None) -> str:
    """The text that CLIP is given for a label: its prompt word, or the label itself where there is none."""
    if label is None:
        return "a photo of a person"
    return words.prompt(label) if label in words.ADJECTIVES else f"a photo of a {label} person"


WARMUP = 10  # steps
T_START = 500
"""Edits begin here: further up the network sees no face to keep. On 8 validation people (guide judge) those
for all levels gave 0.94 of the emotions and 20.0 dB to the truth, those for the lower half 1.00 and 23.2."""
SCALE = 0.5
"""How many times an edit takes the shift, asked for anew in every step. The same people: 1.00 of the emotions
at 1.0, 0.7 and 0.5, with 23.2, 24.6 and 25.7 dB to the truth."""


def fit_pairs(
    backbone: Backbone,
    z: Tensor,
    labels: Sequence[str],
    groups: Sequence[object],
    *,
    generator: torch.Generator,
    source: str | None = None,
    prompt: str = "",
    place: str = hspace.MIDDLE,
    steps: int = 150,
    t_start: int = T_START,
) -> Directions:
    """A trained network for every emotion, from latents `z` (N, c, h', w') of pictures with these `labels`.

    source  what the pictures show that are edited; None: any of the other emotions, and all are learned
    groups  for each picture who it shows: only people seen under several labels count
    t_start the noisiest timestep at which the edit acts; it acts down to 0, at `SCALE`: asked anew in every
            step, a full shift each time goes too far
    InputError: fewer than two labels, or two pairs of one."""
    found = {name: pairs(labels, groups, name, source) for name in check_labels(labels, source)}
    shifts, notes = {}, {}
    for name in progress(found, "training"):
        network = untrained(hspace.channels(backbone.unet, place), generator).to(backbone.device)
        losses = train(
            backbone,
            network,
            z,
            found[name],
            generator=generator,
            prompt=prompt,
            place=place,
            steps=steps,
            t_start=t_start,
        )
        tenth = max(1, len(losses) // 10)
        shifts[name] = network
        notes[name] = {"pairs": len(found[name]), "loss": sum(losses[-tenth:]) / tenth}
    about = (backbone.name, hspace.channels(backbone.unet, place), backbone.unet.config.cross_attention_dim)
    when = {"scale": SCALE, "t_edit": 0, "t_start": t_start}
    return Directions(shifts, source or "", prompt, *about, SUPERVISED, place, **when, notes=notes)


def pairs(
    labels: Sequence[str], groups: Sequence[object], name: str, source: str | None
) -> list[tuple[int, int]]:
    """(start, target) of rows that show one person: `name` in the target; `source`, or anything, before.

    InputError: fewer than two of them."""
    after = {group: i for i, (label, group) in enumerate(zip(labels, groups, strict=True)) if label == name}
    before = [i for i, label in enumerate(labels) if label != name and source in (None, label)]
    found = [(i, after[groups[i]]) for i in before if groups[i] in after]
    if len(found) < 2:
        raise InputError(
            f"{name!r}: {len(found)} pairs, at least two are needed; pictures of one person need one name in"
            " both folders (or the same `identity` in a table)"
        )
    return found


def train(
    backbone: Backbone,
    network: Network,
    z: Tensor,
    rows: Sequence[tuple[int, int]],
    *,
    generator: torch.Generator,
    prompt: str = "",
    place: str = hspace.MIDDLE,
    steps: int = 150,
    t_start: int = T_START,
    batch: int = 16,
    lr: float = 2e-3,
) -> list[float]:
    """Train `network` on pairs, `rows` (start, target) of latents `z` (N, c, h, w).

    Returns the losses: mean squared errors of the predicted x0. On an edit's way the latents are ever less
    those of the start. So the picture that is noised lies anywhere between the two; a network that had seen
    the start alone would push on when it has arrived."""
    cond, levels = backbone.embed(prompt), backbone.alphas_cumprod
    start, target = torch.tensor(rows).T
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        drawn = torch.randint(len(rows), (batch,), generator=generator)
        before, after = (z[side[drawn]].to(backbone.device) for side in (start, target))
        way = torch.rand((batch, 1, 1, 1), generator=generator).to(before)
        noise = torch.randn(before.shape, generator=generator).to(before)
        t = stratified(batch, min(t_start + 1, len(levels)), generator)
        noisy = add_noise(before.lerp(after, way), noise, levels[t].to(before).view(-1, 1, 1, 1))
        with hspace.shifted(backbone.unet, network, place=place):
            x0 = backbone.predict(noisy, t.to(backbone.device), cond).x0
        loss = (x0.float() - after.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    network.requires_grad_(False)
    return losses
