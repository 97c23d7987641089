"""Train a shift on pairs: the same person without the emotion and with it.

Asyrp's own training (`training`, Kwon et al. 2023) has a sentence and a CLIP; whoever has pairs can say what
is wanted directly: from the noised picture of the one, the shifted network has to predict the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emolib.backbone import Backbone
from emolib.hspace import hooks
from emolib.hspace.directions import SUPERVISED, Directions, Network, untrained
from emolib.hspace.fit import check_labels
from emolib.runtime import InputError, progress
from emolib.sampling import add_noise
from emolib.training.batches import stratified

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
    place: str = hooks.MIDDLE,
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
        network = untrained(hooks.channels(backbone.unet, place), generator).to(backbone.device)
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
    about = (backbone.name, hooks.channels(backbone.unet, place), backbone.unet.config.cross_attention_dim)
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
    place: str = hooks.MIDDLE,
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
        with hooks.shifted(backbone.unet, network, place=place):
            x0 = backbone.predict(noisy, t.to(backbone.device), cond).x0
        loss = (x0.float() - after.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    network.requires_grad_(False)
    return losses
