"""Directions from labelled pictures: mean difference, principal components, linear probe.

All three work on h of *noised* pictures: that takes one network evaluation a picture and level, where an
inversion would need all the steps before it. Pictures of one group (one person under several emotions) get
the same noise, which then cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from torch import Tensor

from emolib.diffusion.backbone import Backbone
from emolib.diffusion.sampling import add_noise
from emolib.interventions import hspace
from emolib.interventions.directions import Directions, Table, made_for
from emolib.runtime import InputError, one_of, progress

METHODS = ("mean", "pca", "probe")


@torch.no_grad()
def collect_h(
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
    cond, levels = backbone.embed(prompt), []
    for t in progress(timesteps, "h-space"):
        noise = torch.randn((len(index), *z.shape[1:]), generator=generator, device=generator.device).cpu()
        noisy = add_noise(z, noise[row].to(z), backbone.alphas_cumprod[t].item())
        with hspace.record(backbone.unet, place=place) as seen:
            for part in noisy.split(batch):
                backbone.predict(part.to(backbone.device), int(t), cond)
        h = torch.cat([part.h.float() for part in seen])
        levels.append((h.mean((2, 3), keepdim=True) if pooled else h).cpu())
    return torch.stack(levels)


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
    """Find the first k principal components of h (N, D): Haas et al. 2023 (arXiv 2303.11073), in h-space.

    Without `generator` exactly; with it by a randomised range finder (Halko et al. 2011), for large N, D."""
    solver: dict[str, Any] = {"svd_solver": "full"}
    if generator is not None:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        solver = {"svd_solver": "randomized", "iterated_power": 4, "random_state": seed}
    pca = PCA(k, **solver).fit(h.cpu().numpy())
    return Components(*(torch.from_numpy(x).to(h) for x in (pca.components_, pca.explained_variance_)))


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
    people  N + M keys of who is shown, to be left out together; None: everybody is shown once. (Left out
            singly, one picture of a pair is taken for the other, whose label is the opposite.)"""
    x = torch.cat([target, source]).double().cpu().numpy()  # (N + M, D)
    label = np.repeat([1.0, -1.0], [len(target), len(source)])
    x, y = x - x.mean(0), label - label.mean()
    # There are fewer pictures than dimensions: all is told by their inner products.
    gram = x @ x.T
    model = KernelRidge(alpha=ridge * gram.diagonal().mean(), kernel="precomputed")
    groups = (
        np.arange(len(x)) if people is None else np.unique(list(map(str, people)), return_inverse=True)[1]
    )
    guess = cross_val_predict(model, gram, y, groups=groups, cv=LeaveOneGroupOut())
    right = np.sign(guess + label.mean()) == label
    w = torch.from_numpy(x.T @ model.fit(gram, y).dual_coef_)
    difference = mean_difference(target, source).to(w)
    return Probe((w * (w @ difference) / (w @ w)).to(target), torch.from_numpy(right))


@torch.no_grad()
def measure_influence(
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
    cond, shares = backbone.embed(prompt), []
    for t in timesteps:
        noise = torch.randn((1, *z.shape[1:]), generator=generator, device=generator.device).to(z)
        noisy = add_noise(z, noise.expand_as(z), backbone.alphas_cumprod[t].item()).to(backbone.device)
        plain = backbone.predict(noisy, int(t), cond).x0
        with hspace.shifted(backbone.unet, lambda h, t: h.roll(-1, 0) - h, place=place):
            moved = backbone.predict(noisy, int(t), cond).x0
        apart = (plain.roll(-1, 0) - plain).square().mean()
        shares.append(float(((moved - plain).square().mean() / apart).sqrt()))
    return shares


def fit_directions(
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
    """Find directions from latents `z` (N, c, h', w') of pictures with these `labels`.

    levels  at how many evenly spaced noise levels; the other arguments are those of `collect_h` and
            `solve_directions`, whose InputError comes before anything is computed"""
    one_of(method, METHODS, "method")
    for name in check_labels(labels, source):
        rows_of(labels, name, source, groups)
    timesteps = sorted(backbone.timesteps(levels)[:-1])
    shared = {"generator": generator, "groups": groups, "prompt": prompt, "place": place}
    h = collect_h(backbone, z, timesteps, pooled=pooled, **shared)
    return solve_directions(
        backbone, h, timesteps, labels, source=source, method=method, components=components, **shared
    )


def solve_directions(
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
    flat, shifts, notes, bases = h.flatten(2), {}, {}, []  # flat (K, N, D)
    if method == "pca":
        bases = [principal(x, min(components, len(x) - 1), generator=generator) for x in flat]
    for name in check_labels(labels, source):
        target, start = rows_of(labels, name, source, groups)
        levels = [(x[target], x[start]) for x in flat]
        notes[name] = {"pictures": len(target)}
        notes[name]["agreement"] = sum(agreement(*level) for level in levels) / len(flat)
        deltas = [mean_difference(*level) for level in levels]
        if method == "pca":
            deltas = [confine(delta, basis) for delta, basis in zip(deltas, bases, strict=True)]
        if method == "probe":
            people = [i if groups is None else groups[i] for i in (*target, *start)]
            probes = [probe(*level, people=people) for level in levels]
            deltas = [each.direction for each in probes]
            notes[name]["accuracy"] = sum(each.accuracy for each in probes) / len(probes)
        shifts[name] = Table(torch.stack(deltas).unflatten(1, h.shape[2:]), torch.tensor(timesteps))
    return made_for(backbone, shifts, source, prompt, method, place, notes=notes)


def check_labels(labels: Sequence[str], source: str | None) -> list[str]:
    """List the labels to find directions for. InputError: fewer than two, or no `source` among them."""
    names = sorted(set(labels))
    if len(names) < 2:
        raise InputError(f"directions need pictures of two emotions at least, not of {names}")
    if source is not None:
        one_of(source, names, "emotion to start from")
    return [name for name in names if name != source]


def rows_of(
    labels: Sequence[str], name: str, source: str | None, groups: Sequence[object] | None
) -> tuple[list[int], list[int]]:
    """Find the rows of the pictures of `name` and of those to compare with; with `groups` pairs, in order.

    InputError: fewer than two."""
    if groups is not None:
        start, target = zip(*pairs(labels, groups, name, source), strict=True)
        return list(target), list(start)
    target = [i for i, label in enumerate(labels) if label == name]
    start = [i for i, label in enumerate(labels) if label != name and source in (None, label)]
    _check_enough(name, min(len(target), len(start)), "pictures")
    return target, start


def pairs(
    labels: Sequence[str], groups: Sequence[object], name: str, source: str | None
) -> list[tuple[int, int]]:
    """Pair the rows (start, target) that show one person: `name` in the target; `source`, or any, before.

    InputError: fewer than two of them."""
    after = {group: i for i, (label, group) in enumerate(zip(labels, groups, strict=True)) if label == name}
    before = [i for i, label in enumerate(labels) if label != name and source in (None, label)]
    rows = [(i, after[groups[i]]) for i in before if groups[i] in after]
    _check_enough(name, len(rows), "pairs")
    return rows


def _check_enough(name: str, n: int, what: str) -> None:
    if n < 2:
        raise InputError(
            f"{name!r}: {n} {what}, at least two are needed; for pairs, pictures of one person need one name"
            " in both folders (or the same `identity` in a table)"
        )
