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

from emolib.backbone import Backbone
from emolib.hspace import hooks
from emolib.hspace.directions import Directions, Table
from emolib.runtime import InputError, one_of, progress
from emolib.sampling import add_noise

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
        with hooks.record(backbone.unet) as seen:
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
    """A linear probe's `direction` (D,) and its leave-one-out `accuracy` in [0, 1]."""

    direction: Tensor
    accuracy: float


def probe(target: Tensor, source: Tensor, *, ridge: float = 0.1) -> Probe:
    """A ridge regression that tells target (N, D) from source (M, D); the direction is its weight vector w,
    scaled so that it moves the mean of one to the mean of the other along w.

    `ridge` is in units of a picture's mean squared length. Leave-one-out by the hat matrix, so the same
    person's other pictures may have helped."""
    x = torch.cat([target, source]).double()
    label = torch.cat([torch.ones(len(target)), -torch.ones(len(source))]).to(x)
    x, y = x - x.mean(0), label - label.mean()
    gram = x @ x.T
    ridged = gram + ridge * gram.diagonal().mean() * torch.eye(len(x), dtype=x.dtype, device=x.device)
    hat = torch.linalg.solve(ridged, gram)  # symmetric: both are functions of gram
    w = x.T @ torch.linalg.solve(ridged, y)
    left_out = y - (y - hat @ y) / (1 - hat.diagonal())
    accuracy = ((left_out + label.mean()).sign() == label).double().mean()
    difference = mean_difference(target, source).to(w)
    return Probe((w * (w @ difference) / (w @ w)).to(target), float(accuracy))


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
    pooled: bool = False,
) -> Directions:
    """Directions from latents `z` (N, c, h', w') of pictures with these `labels`.

    source      the label where directions start; None: each starts at the mean of all other pictures
    groups      for each picture who it shows; with it, only people seen under both labels count (pairs)
    method      "mean"; "pca": the mean difference confined to the first `components`; "probe"
    levels      at how many evenly spaced noise levels
    Raises InputError: fewer than two labels, or two pictures of a label (with `groups`: two pairs)."""
    one_of(method, METHODS, "method")
    names = check_labels(labels, source)
    pairs = {name: rows_of(labels, name, source, groups) for name in names}
    timesteps = sorted(backbone.timesteps(levels)[:-1])
    h = collect(backbone, z, timesteps, generator=generator, groups=groups, prompt=prompt, pooled=pooled)
    flat, shifts, notes = h.flatten(2), {}, {}
    bases = (
        [principal(x, min(components, len(x) - 1), generator=generator) for x in flat]
        if method == "pca"
        else []
    )
    for name, (target, start) in pairs.items():
        notes[name] = {
            "pictures": len(target),
            "agreement": sum(agreement(x[target], x[start]) for x in flat) / len(flat),
        }
        if method == "probe":
            probes = [probe(x[target], x[start]) for x in flat]
            found = [one.direction for one in probes]
            notes[name]["accuracy"] = sum(one.accuracy for one in probes) / len(probes)
        else:
            found = [mean_difference(x[target], x[start]) for x in flat]
        if method == "pca":
            found = [confine(delta, basis) for delta, basis in zip(found, bases, strict=True)]
        shifts[name] = Table(torch.stack(found).unflatten(1, h.shape[2:]), torch.tensor(timesteps))
    width = backbone.unet.config.cross_attention_dim
    size = hooks.channels(backbone.unet)
    return Directions(shifts, source or "", prompt, backbone.name, size, width, method, notes)


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
            raise InputError("pairs need an emotion that they start from; name it")
        by_group = {groups[i]: i for i in start}
        target = [i for i in target if groups[i] in by_group]
        start = [by_group[groups[i]] for i in target]
    if min(len(target), len(start)) < 2:
        what = "pairs" if groups is not None else "pictures"
        raise InputError(f"{name!r}: {min(len(target), len(start))} {what}; at least two are needed")
    return target, start
