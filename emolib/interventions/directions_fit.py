"""Directions from labelled pictures: mean difference, principal components, linear probe.

All three work on h of *noised* pictures: that takes one network evaluation a picture and level, where an
inversion would need all the steps before it. Pictures of one group (one person under several emotions) get
the same noise, which then cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from emolib.diffusion.backbone import Backbone
from emolib.diffusion.sampling import add_noise
from emolib.interventions import hspace
from emolib.interventions.directions import Directions, Table
from emolib.runtime import InputError, one_of, progress

METHODS = ("mean", "pca", "probe")


@torch.no_grad()
def collect(
    backbone: Backbone,
    z: Tensor,
    timesteps: Sequence[int],
    *,
    generator: torch.Generator,
    groups: Sequence[object] | None = None,
    prompt: str = "",
    pooled: bool = False,
    place: str = hspace.MIDDLE,
    batch: int = 16,
) -> Tensor:
    """h of clean latents `z` (N, c, h', w'), noised to each of K `timesteps`: (K, N, C, h, w), float32, CPU.

    groups  for each picture a key; equal keys share their noise. None: every picture has its own
    prompt  what the network is told, of all pictures
    pooled  keep only the mean over h's grid, (K, N, C, 1, 1): for pictures that are not aligned, and for
            large models (SDXL's h at 1024 px is 5 MB a picture and level)"""
    keys = list(range(len(z))) if groups is None else list(groups)
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    row = torch.tensor([index[key] for key in keys])
    cond, found = backbone.embed(prompt), []
    for t in progress(timesteps, "h-space"):
        noise = torch.randn((len(index), *z.shape[1:]), generator=generator, device=generator.device).cpu()
        noisy = add_noise(z, noise[row].to(z), backbone.alphas_cumprod[t].item())
        with hspace.record(backbone.unet, place=place) as seen:
            for part in noisy.split(batch):
                backbone.predict(part.to(backbone.device), int(t), cond)
        h = torch.cat([one.h.float().mean((2, 3), keepdim=True) if pooled else one.h.float() for one in seen])
        found.append(h.cpu())
    return torch.stack(found)


def mean_difference(target: Tensor, source: Tensor) -> Tensor:
    """mean(target) - mean(source): (N, D) and (M, D) -> (D,)."""
    return target.mean(0) - source.mean(0)


def agreement(target: Tensor, source: Tensor) -> float:
    """Cosine between the mean differences of every other picture and of the rest: 1 is a direction that does
    not depend on who was measured, 0 is noise. (N, D) and (M, D), at least two of each."""
    halves = [mean_difference(target[i::2], source[i::2]) for i in (0, 1)]
    return float(torch.cosine_similarity(*halves, dim=0))


class Components(NamedTuple):
    """Orthonormal `directions` (k, D), most variance first, and the `variance` (k,) along each."""

    directions: Tensor
    variance: Tensor


def principal(h: Tensor, k: int, *, generator: torch.Generator | None = None) -> Components:
    """The first k principal components of h (N, D): Haas et al. 2023 (arXiv 2303.11073), in h-space.

    Without `generator` exactly, by SVD; with it by the randomised range finder with two power iterations
    (Halko et al. 2011, algorithms 4.4 and 5.1), for large N and D. ValueError unless 1 <= k < N."""
    if not 1 <= k < len(h):
        raise ValueError(f"{len(h)} pictures have 1 to {len(h) - 1} components, not {k}")
    centred = h - h.mean(0)
    if generator is None:
        _, size, rows = torch.linalg.svd(centred, full_matrices=False)
    else:
        width = min(k + 10, len(h))
        sketch = torch.randn(len(h), width, generator=generator, device=generator.device).to(h)
        basis = torch.linalg.qr(centred.T @ sketch)[0]
        for _ in range(2):
            basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
        _, size, rows = torch.linalg.svd(centred @ basis, full_matrices=False)
        rows = rows @ basis.T
    return Components(rows[:k], size[:k] ** 2 / (len(h) - 1))


def confine(delta: Tensor, components: Components) -> Tensor:
    """The part of `delta` (D,) that lies in the span of `components`: what is left out is mostly noise."""
    return (components.directions @ delta) @ components.directions


class Probe(NamedTuple):
    """A linear probe's `direction` (D,), and for every picture, target ones first, whether it is told `right`
    (bool) by a probe that has not seen who it shows."""

    direction: Tensor
    right: Tensor

    @property
    def accuracy(self) -> float:
        """The share told right, in [0, 1]; 0.5 is chance where both labels are as frequent."""
        return float(self.right.double().mean())


def probe(
    target: Tensor, source: Tensor, *, ridge: float = 0.1, people: Sequence[object] | None = None
) -> Probe:
    """A ridge regression that tells target (N, D) from source (M, D); the direction is its weight vector w,
    scaled so that it moves the mean of one to the mean of the other along w.

    ridge   in units of a picture's mean squared length
    people  N + M keys of who is shown, to be left out together, in closed form by the hat matrix; None:
            everybody is shown once. (Left out singly, one picture of a pair is taken for the other, whose
            label is the opposite.)"""
    x = torch.cat([target, source]).double()
    label = torch.cat([torch.ones(len(target)), -torch.ones(len(source))]).to(x)
    x, y = x - x.mean(0), label - label.mean()
    gram = x @ x.T
    ridged = gram + ridge * gram.diagonal().mean() * torch.eye(len(x), dtype=x.dtype, device=x.device)
    hat = torch.linalg.solve(ridged, gram)  # symmetric: both are functions of gram
    w = x.T @ torch.linalg.solve(ridged, y)
    residual, rows = y - hat @ y, {}
    for i, person in enumerate(range(len(x)) if people is None else people):
        rows.setdefault(person, []).append(i)
    guess = y.clone()
    for one in rows.values():
        rest = torch.eye(len(one), dtype=x.dtype, device=x.device) - hat[one][:, one]
        guess[one] -= torch.linalg.solve(rest, residual[one])
    right = (guess + label.mean()).sign() == label
    difference = mean_difference(target, source).to(w)
    return Probe((w * (w @ difference) / (w @ w)).to(target), right.cpu())


@torch.no_grad()
def influence(
    backbone: Backbone,
    z: Tensor,
    timesteps: Sequence[int],
    *,
    generator: torch.Generator,
    prompt: str = "",
    place: str = hspace.MIDDLE,
) -> list[float]:
    """How much of what tells pictures apart passes through h, at each of `timesteps`.

    Pictures (latents z, at least two) under one noise; each is given the next one's h: RMS change of its
    predicted x0, over the RMS difference between the two predictions. Near 0 the network does without h, and
    no direction there will show; it is 1 where all goes through h (the last block of a network that predicts
    x0)."""
    cond, found = backbone.embed(prompt), []
    for t in timesteps:
        noise = torch.randn((1, *z.shape[1:]), generator=generator, device=generator.device).to(z)
        noisy = add_noise(z, noise.expand_as(z), backbone.alphas_cumprod[t].item()).to(backbone.device)
        plain = backbone.predict(noisy, int(t), cond).x0
        with hspace.shifted(backbone.unet, lambda h, t: h.roll(-1, 0) - h, place=place):
            moved = backbone.predict(noisy, int(t), cond).x0
        apart = (plain.roll(-1, 0) - plain).square().mean()
        found.append(float(((moved - plain).square().mean() / apart).sqrt()))
    return found


def fit(
    backbone: Backbone,
    z: Tensor,
    labels: Sequence[str],
    *,
    generator: torch.Generator,
    source: str | None = None,
    groups: Sequence[object] | None = None,
    method: str = "mean",
    levels: int = 10,
    components: int = 20,
    prompt: str = "",
    place: str = hspace.MIDDLE,
    pooled: bool = False,
) -> Directions:
    """Directions from latents `z` (N, c, h', w') of pictures with these `labels`: `collect`, then `solve`.

    levels  at how many evenly spaced noise levels; the other arguments are those of the two. InputError as
            `solve`, before anything is computed."""
    one_of(method, METHODS, "method")
    for name in check_labels(labels, source):
        rows_of(labels, name, source, groups)
    timesteps = sorted(backbone.timesteps(levels)[:-1])
    shared = {"generator": generator, "groups": groups, "prompt": prompt, "place": place}
    h = collect(backbone, z, timesteps, pooled=pooled, **shared)
    return solve(
        backbone, h, timesteps, labels, source=source, method=method, components=components, **shared
    )


def solve(
    backbone: Backbone,
    h: Tensor,
    timesteps: Sequence[int],
    labels: Sequence[str],
    *,
    generator: torch.Generator,
    source: str | None = None,
    groups: Sequence[object] | None = None,
    method: str = "mean",
    components: int = 20,
    prompt: str = "",
    place: str = hspace.MIDDLE,
) -> Directions:
    """Directions from h (K, N, C, h, w) of N pictures with these `labels`, collected at K `timesteps`.

    source      the label where directions start; None: each starts at the mean of all other pictures
    groups      for each picture who it shows; with it, only people seen under both labels count (pairs)
    method      "mean"; "pca": the mean difference confined to the first `components`; "probe"
    Raises InputError: fewer than two labels, or two pictures of a label (with `groups`: two pairs)."""
    one_of(method, METHODS, "method")
    flat, shifts, notes, bases = h.flatten(2), {}, {}, []
    if method == "pca":
        bases = [principal(x, min(components, len(x) - 1), generator=generator) for x in flat]
    for name in check_labels(labels, source):
        target, start = rows_of(labels, name, source, groups)
        pairs = [(x[target], x[start]) for x in flat]
        notes[name] = {"pictures": len(target)}
        notes[name]["agreement"] = sum(agreement(*pair) for pair in pairs) / len(flat)
        found = [mean_difference(*pair) for pair in pairs]
        if method == "pca":
            found = [confine(delta, basis) for delta, basis in zip(found, bases, strict=True)]
        if method == "probe":
            people = [i if groups is None else groups[i] for i in (*target, *start)]
            probes = [probe(*pair, people=people) for pair in pairs]
            found = [one.direction for one in probes]
            notes[name]["accuracy"] = sum(one.accuracy for one in probes) / len(probes)
        shifts[name] = Table(torch.stack(found).unflatten(1, h.shape[2:]), torch.tensor(timesteps))
    size, width = hspace.channels(backbone.unet, place), backbone.unet.config.cross_attention_dim
    return Directions(shifts, source or "", prompt, backbone.name, size, width, method, place, notes=notes)


def check_labels(labels: Sequence[str], source: str | None) -> list[str]:
    """The labels to find directions for. InputError: fewer than two, or no `source` among them."""
    names = sorted(set(labels))
    if len(names) < 2:
        found = f"all pictures are {names[0]!r}" if names else "there is no picture"
        raise InputError(f"directions need pictures of two emotions at least; {found}")
    if source is not None:
        one_of(source, names, "emotion to start from")
    return [name for name in names if name != source]


def rows_of(
    labels: Sequence[str], name: str, source: str | None, groups: Sequence[object] | None
) -> tuple[list[int], list[int]]:
    """Rows of the pictures of `name` and of those to compare with; with `groups` pairs, in the same order."""
    other = lambda label: label == source if source is not None else label != name  # noqa: E731
    target = [i for i, label in enumerate(labels) if label == name]
    start = [i for i, label in enumerate(labels) if other(label)]
    if groups is not None:
        if source is None:
            raise InputError("pairs need an emotion that they start from: name it, --source")
        by_group = {groups[i]: i for i in start}
        target = [i for i in target if groups[i] in by_group]
        start = [by_group[groups[i]] for i in target]
    if min(len(target), len(start)) < 2:
        what = "pairs" if groups is not None else "pictures"
        raise InputError(f"{name!r}: {min(len(target), len(start))} {what}; at least two are needed")
    return target, start
