"""Learn h-space directions: with Asyrp's CLIP loss, or from pairs of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.clip import Clip
from emolib.diffusion.sampling import Prediction, Trajectory, add_noise, ddim_step, denoise
from emolib.emotions import words
from emolib.interventions import hspace
from emolib.interventions.asyrp import STEPS, T_EDIT, Asymmetric
from emolib.interventions.directions import SUPERVISED, Directions, Network, made_for, untrained
from emolib.interventions.directions_fit import check_labels, pairs
from emolib.runtime import InputError, progress
from emolib.training.examples import stratified
from emolib.training.loop import Losses, Tell, fit_parameters
from emolib.training.settings import EPOCHS, PAIR_STEPS, T_START, Plan

LR, L1_WEIGHT = 6e-3, 1.0
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


def train_shift(
    predictor: Asymmetric,
    trajectory: Trajectory,
    loss: Loss,
    *,
    generator: torch.Generator,
    epochs: int = EPOCHS,
    batch: int = 4,
    lr: float = LR,
    tell: Tell | None = None,
) -> list[float]:
    """Train `predictor.shift` (a `Network` or `Table`) on recorded inversions; returns the losses, in order.

    Each picture is walked from its noisiest latents through the editing interval, one step of Adam a level
    (as the authors' code does). Beside the edit's walk goes the source's own, which nothing moves, and the
    loss compares what the two predict. (Compared with a plain prediction on the *edit's* walk, a shift would
    be paid for moving a little further at every level, wherever the walk has got to by then.)

    trajectory  its start or latents[0] (N, c, h, w) are the inverted pictures, its timesteps descend into the
                editing interval"""
    levels = [int(t) for t in trajectory.timesteps]
    inside = [t for t in levels[:-1] if t >= predictor.t_edit]
    start = trajectory.latents[0] if trajectory.start is None else trajectory.start
    abar, decode = predictor.alphas_cumprod.tolist(), predictor.backbone.decode
    source = edited = start[:0]  # where the two walks are, (b, c, h, w)
    order: list[int] = []  # of the pictures that are left in this epoch

    def losses(step: int, groups: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        nonlocal source, edited, order
        # 1. At the noisiest level the next pictures set out.
        k = step % len(inside)
        if k == 0:
            order = order or torch.randperm(len(start), generator=generator).tolist()
            source = edited = start[order[:batch]]
            order = order[batch:]
        t, target = levels[k], levels[k + 1]
        # 2. What the source's walk shows here, and what the edit's does.
        with torch.no_grad():
            kept = predictor.plain(source, t)
            shown = decode(kept.x0)
        with torch.enable_grad():
            plain, moved = predictor.both(edited, t)
            value = loss(decode(moved.x0), shown)
        yield value, {"loss": value}
        # 3. Both go on, each by its own prediction.
        source = ddim_step(kept, abar[t], abar[target])
        edited = ddim_step(Prediction(moved.x0, plain.eps), abar[t], abar[target]).detach()

    walks = epochs * math.ceil(len(start) / batch)
    plan = Plan(steps=walks * len(inside), lr=lr, warmup=0, decay=0.0)
    return _train(predictor.shift, losses, plan, tell)


def _train(shift: nn.Module, losses: Losses, plan: Plan, tell: Tell | None) -> list[float]:
    """Train a shift; returns what `losses` yielded, step by step."""
    history: list[Tensor] = []

    def noted(step: int, groups: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for value, numbers in losses(step, groups):
            history.append(value.detach())
            yield value, numbers

    shift.requires_grad_(True)
    fit_parameters({"shift": list(shift.parameters())}, noted, plan, tell=tell)
    shift.requires_grad_(False)
    return torch.stack(history).tolist()


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
    tell: Tell | None = None,
) -> Directions:
    """Train a network for each of `names`, emotions or other words, from pictures that show none of them.

    z (N, c, h', w') are clean latents of pictures of the emotion `source`; None: of anything ("a person")."""
    cond = backbone.embed(prompt)
    walk = _inverted(backbone, z, cond, list(dict.fromkeys(backbone.timesteps(num_inference_steps))))
    shifts, notes = {}, {}
    for name in names:
        network = untrained(hspace.channels(backbone.unet, place), generator).to(backbone.device)
        predictor = Asymmetric(backbone, cond, network, t_edit, place=place)
        loss = directional_loss(clip, in_words(source), in_words(name))
        losses = train_shift(
            predictor, walk, loss, generator=generator, epochs=epochs, tell=_named(tell, name)
        )
        shifts[name] = network
        notes[name] = {"pictures": len(z), "loss": _mean_of_last(losses)}
    return made_for(backbone, shifts, source, prompt, "trained", place, notes=notes)


def _named(tell: Tell | None, name: str) -> Tell | None:
    return tell and (lambda line: tell(f"{name}  {line}"))


def _mean_of_last(losses: list[float]) -> float:
    tenth = max(1, len(losses) // 10)
    return sum(losses[-tenth:]) / tenth


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
    """Write what CLIP is told of a label: with its prompt word, or the label itself where there is none."""
    return words.fill_template(words.CAPTION, words.ADJECTIVES.get(label, label) if label else "")


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
    steps: int = PAIR_STEPS,
    t_start: int = T_START,
    tell: Tell | None = None,
) -> Directions:
    """Train a network for every emotion, from latents `z` (N, c, h', w') of pictures with these `labels`.

    source  what the pictures show that are edited; None: any of the other emotions, and all are learned
    groups  for each picture who it shows: only people seen under several labels count
    t_start the noisiest timestep at which the edit acts; it acts down to 0, at `SCALE`: asked anew in every
            step, a full shift each time goes too far
    InputError: fewer than two labels, or two pairs of one."""
    rows = {name: pairs(labels, groups, name, source) for name in check_labels(labels, source)}
    shifts, notes = {}, {}
    for name in rows:
        network = untrained(hspace.channels(backbone.unet, place), generator).to(backbone.device)
        losses = train_network(
            backbone,
            network,
            z,
            rows[name],
            generator=generator,
            prompt=prompt,
            place=place,
            steps=steps,
            t_start=t_start,
            tell=_named(tell, name),
        )
        shifts[name] = network
        notes[name] = {"pairs": len(rows[name]), "loss": _mean_of_last(losses)}
    when = {"scale": SCALE, "t_edit": 0, "t_start": t_start}
    return made_for(backbone, shifts, source, prompt, SUPERVISED, place, **when, notes=notes)


def train_network(
    backbone: Backbone,
    network: Network,
    z: Tensor,
    rows: Sequence[tuple[int, int]],
    *,
    generator: torch.Generator,
    prompt: str = "",
    place: str = hspace.MIDDLE,
    steps: int = PAIR_STEPS,
    t_start: int = T_START,
    batch: int = 16,
    lr: float = 2e-3,
    tell: Tell | None = None,
) -> list[float]:
    """Train `network` on pairs, `rows` (start, target) of latents `z` (N, c, h, w).

    Returns the losses: mean squared errors of the predicted x0. On an edit's way the latents are ever less
    those of the start. So the picture that is noised lies anywhere between the two; a network that had seen
    the start alone would push on when it has arrived."""
    cond, levels = backbone.embed(prompt), backbone.alphas_cumprod
    start, target = torch.tensor(rows).T

    def losses(step: int, groups: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        drawn = torch.randint(len(rows), (batch,), generator=generator)
        before, after = (z[side[drawn]].to(backbone.device) for side in (start, target))  # (b, c, h, w)
        # A place on the way between the two, under noise.
        way = torch.rand((batch, 1, 1, 1), generator=generator).to(before)
        noise = torch.randn(before.shape, generator=generator).to(before)
        t = stratified(batch, min(t_start + 1, len(levels)), generator)
        noisy = add_noise(before.lerp(after, way), noise, levels[t].to(before).view(-1, 1, 1, 1))
        # From there the shifted network has to see where it leads.
        with hspace.shifted(backbone.unet, network, place=place):
            x0 = backbone.predict(noisy, t.to(backbone.device), cond).x0
        loss = (x0.float() - after.float()).square().mean()
        yield loss, {"loss": loss}

    return _train(network, losses, Plan(steps=steps, lr=lr, warmup=10, decay=1.0), tell)
