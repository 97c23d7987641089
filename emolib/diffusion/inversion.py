"""Inversion: from a picture's latents to a walk that leads back to them, as a `sampling.Trajectory`.

Every function takes a predictor of the *source* (its prompt describes the picture as it is), the clean
latents `z0` (B, C, h, w), and the N + 1 `levels` of denoising, strictly descending; z0 lies at the last. An
edit then walks the trajectory with another predictor. Costs are in network evaluations; a guided one is two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from emolib.diffusion.backbone import Embedding
from emolib.diffusion.sampling import (
    Callback,
    Prediction,
    Predictor,
    Trajectory,
    add_noise,
    ddim_step,
    ddpm_variance,
    denoise,
    guide,
)


def noised(predictor: Predictor, z0: Tensor, levels: Sequence[int], noise: Tensor) -> Trajectory:
    """Start from z0 under `noise` (B, C, h, w): image to image (SDEdit, Meng et al. 2021, algorithm 1).

    The source is forgotten to the degree that the noise hides it. Costs nothing.
    """
    return Trajectory(levels, start=add_noise(z0, noise, predictor.alphas_cumprod[levels[0]].item()))


def ddim(predictor: Predictor, z0: Tensor, levels: Sequence[int]) -> Trajectory:
    """Walk the deterministic step towards the noise: DDIM inversion (Song et al. 2020, section 4.3).

    Each step needs the noise predicted where it ends, and has only the one predicted where it begins. So the
    way back misses z0 by O(1 / N), and by far more where the edit is guided and the inversion was not.
    N evaluations.
    """
    latents = [z0]  # (B, C, h, w) each, from the clean end upwards
    upwards = Trajectory(check_levels(levels)[::-1], start=z0)
    denoise(predictor, upwards, callback=lambda i, z, prediction: latents.append(z))
    return Trajectory(levels, torch.stack(latents[::-1]))  # (N + 1, B, C, h, w), the noisy end first


def negative_prompt(predictor: Predictor, z0: Tensor, levels: Sequence[int], source: Any) -> Trajectory:
    """Take `source`, the source prompt's embedding, for uncond: negative-prompt inversion.

    Where both prompts are the source's, guidance changes nothing: every scale walks the unguided way, on
    which DDIM inversion is nearly exact (Miyake et al. 2023). `predictor` is unguided. N evaluations.
    """
    return replace(ddim(predictor, z0, levels), uncond=[source] * (len(levels) - 1))


def null_text(
    source: Predictor,
    unconditional: Predictor,
    z0: Tensor,
    levels: Sequence[int],
    uncond: Embedding,
    guidance_scale: float,
    *,
    inner_steps: int = 10,
    early_stop: float = 1e-5,
    learning_rate: float = 1e-2,
) -> Trajectory:
    """Learn for each step the uncond that leads back: null-text inversion (Mokady et al. 2022, algorithm 1).

    source, unconditional  unguided predictors: with the source prompt, and with the `uncond` of the call
    uncond                 where learning starts: the empty prompt
    early_stop             a picture's step is learned when its mean squared error is below this

    Each picture stops by itself, so that a batch gives what single pictures give. The latents returned are
    those of the guided walk: an edit that skips the first steps begins on it. At most N (inner_steps + 3)
    evaluations, of which N inner_steps also keep what backpropagation needs: see `gradient_memory`.
    Differentiates under `no_grad`, too.
    """
    # 1. The pivot: the unguided inversion, whose latents (N + 1, B, C, h, w) the guided walk shall meet.
    pivot = ddim(source, z0, levels).latents
    abar = [source.alphas_cumprod[level].item() for level in levels]
    uncond = uncond.expand(len(z0))  # (B, L, D)

    def as_embedding(hidden: Tensor) -> Embedding:
        return replace(uncond, hidden=hidden.to(uncond.hidden.dtype))

    def step(hidden: Tensor, i: int, z: Tensor, conditioned: Prediction) -> Tensor:
        unconditioned = unconditional(z, levels[i], uncond=as_embedding(hidden))
        guided = (guide(u, c, guidance_scale) for u, c in zip(unconditioned, conditioned, strict=True))
        return ddim_step(Prediction(*guided), abar[i], abar[i + 1])  # (B, C, h, w)

    # 2. Level by level: learn the text that leads the guided walk to the pivot's next latents, beginning with
    #    the text of the level before, and take the step with it.
    hidden, latents, learned_texts = uncond.hidden.float(), [pivot[0]], []
    for i in range(len(levels) - 1):
        step_from_here = partial(step, i=i, z=latents[-1], conditioned=source(latents[-1], levels[i]))
        hidden = _learn(step_from_here, hidden, pivot[i + 1], inner_steps, early_stop, learning_rate)
        latents.append(step_from_here(hidden))
        learned_texts.append(as_embedding(hidden))
    return Trajectory(levels, torch.stack(latents), uncond=learned_texts)


def _learn(
    step: Callable[[Tensor], Tensor],
    hidden: Tensor,
    target: Tensor,
    inner_steps: int,
    early_stop: float,
    learning_rate: float,
) -> Tensor:
    """Move `hidden` (B, L, D) by Adam until `step(hidden)` meets `target`, picture by picture."""
    hidden = hidden.detach().clone().requires_grad_()
    adam = torch.optim.Adam([hidden], lr=learning_rate)
    for _ in range(inner_steps):
        with torch.enable_grad():
            error = (step(hidden) - target).square().flatten(1)  # (B, C h w)
            total = error.sum()  # not the mean: Adam does not mind the scale, float16 gradients do
        unlearned = error.mean(1) > early_stop  # (B,)
        if not unlearned.any():
            break
        (hidden.grad,) = torch.autograd.grad(total, hidden)
        hidden_before = hidden.detach().clone()
        adam.step()
        with torch.no_grad():  # pictures that have arrived stay
            hidden[~unlearned] = hidden_before[~unlearned]
    return hidden.detach()


def gradient_memory(evaluate: Callable[[], Any]) -> int:
    """Measure how many bytes autograd keeps of one `evaluate()` for the way back, by running it once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):  # the weights are there anyway
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        evaluate()
    return sum(storage.nbytes() for storage in kept.values())


def edit_friendly(
    predictor: Predictor, z0: Tensor, levels: Sequence[int], noise: Tensor, *, batch_size: int = 16
) -> Trajectory:
    """Find the noise that leads back: edit-friendly inversion (Huberman et al. 2023, algorithm 1).

    The latents are z0 under *independent* `noise` (N, B, C, h, w). None depends on another, so that one call
    of the network predicts up to `batch_size` of them. What each DDPM step (eta 1) misses of the next latents
    is recorded as that step's noise. Exact for the predictor it was made with, guided or not. N evaluations.
    """
    check_levels(levels)
    abar = [predictor.alphas_cumprod[level].item() for level in levels]
    # 1. Latents (N + 1, B, C, h, w): the picture under its own noise at every level, clean at the last.
    latents = torch.stack([*(add_noise(z0, e, a) for e, a in zip(noise, abar, strict=False)), z0])
    no_noise, step_noise, levels_per_call = torch.zeros_like(z0), [], max(1, batch_size // len(z0))
    for first in range(0, len(levels) - 1, levels_per_call):
        # 2. Predict K levels of B pictures as one batch, level by level.
        z = latents[:-1][first : first + levels_per_call]  # (K, B, C, h, w)
        timesteps = torch.tensor(levels[first : first + len(z)], device=z.device).repeat_interleave(len(z0))
        x0, eps = (part.reshape(z.shape) for part in predictor(z.flatten(0, 1), timesteps))  # of (K B, ...)
        # 3. What the step without noise misses of the next latents, in units of the step's deviation.
        for k, i in enumerate(range(first, first + len(z))):
            mean = ddim_step(Prediction(x0[k], eps[k]), abar[i], abar[i + 1], eta=1.0, noise=no_noise)
            step_noise.append((latents[i + 1] - mean) / ddpm_variance(abar[i], abar[i + 1]) ** 0.5)
    return Trajectory(levels, latents, noise=torch.stack(step_noise), eta=1.0)


def direct(trajectory: Trajectory, *, follow: float = 0.0) -> Callback:
    """Hold the source branch on an inverted trajectory: direct (PnP) inversion (Ju et al. 2023, algorithm 1).

    For a walk of the batch [B sources, n edits], with B = n or one source: after every step each source is
    replaced by the latents that the inversion recorded, whatever the predictor and its guidance. The edits
    take the share `follow` of that correction: 0 is the paper's main form, made for attention control, which
    looks at the sources; with 1 an edit that asks for nothing returns its source exactly. No evaluations.
    """
    latents = trajectory.latents
    if latents is None:
        raise ValueError("direct inversion follows recorded latents; this trajectory has none")
    sources = latents.shape[1]

    def correct(i: int, z: Tensor, prediction: Prediction) -> Tensor:
        correction = latents[i + 1] - z[:sources]  # (B, C, h, w)
        return torch.cat([latents[i + 1], z[sources:] + follow * correction])

    return correct


def exact(predictor: Predictor, z0: Tensor, levels: Sequence[int]) -> Trajectory:
    """Invert exactly by a two-step rule that reads the same backwards: O-BELM (Wang et al. 2024).

    Walk back with `two_step(predictor, trajectory)` as callback. N + 1 evaluations for both together.
    """
    upwards = list(check_levels(levels))[::-1]
    abar = [predictor.alphas_cumprod[level].item() for level in upwards]
    latents = [z0]  # (B, C, h, w) each
    for i in range(len(upwards) - 1):
        # Predicted at the level where the latents lie: exactness needs the same question up and down.
        prediction = predictor(latents[-1], upwards[i])
        if i == 0:  # a two-step rule needs two latents: the second is DDIM's
            latents.append(ddim_step(prediction, abar[0], abar[1]))
        else:
            latents.append(belm_step(*latents[-2:], prediction.eps, *abar[i - 1 : i + 2]))
    return Trajectory(levels, torch.stack(latents[::-1]))


def two_step(source: Predictor, trajectory: Trajectory) -> Callback:
    """Make the callback with which `denoise` walks back an `exact` trajectory, under any predictor.

    The first step is DDIM's, corrected by what the source's own first step misses of the recorded latents:
    exact for the source, and any other predictor edits from the start.
    """
    abar = [source.alphas_cumprod[level].item() for level in trajectory.timesteps]
    first, second = trajectory.latents[:2]  # (B, C, h, w) each
    missed = second - ddim_step(source(first, trajectory.timesteps[0]), abar[0], abar[1])
    z_before = z_here = first

    def callback(i: int, z: Tensor, prediction: Prediction) -> Tensor:
        nonlocal z_before, z_here
        z_next = z + missed if i == 0 else belm_step(z_before, z_here, prediction.eps, *abar[i - 1 : i + 2])
        z_before, z_here = z_here, z_next
        return z_next

    return callback


def belm_step(
    z_before: Tensor, z_here: Tensor, eps: Tensor, abar_before: float, abar_here: float, abar_next: float
) -> Tensor:
    """Step to the latents at `abar_next` from those at the two levels before it and the noise at z_here.

    In y = z / sqrt(abar) and s = sqrt(1 / abar - 1) the probability flow is dy/ds = eps (Song et al. 2020,
    eq. 14). Of all rules y_next = a y_before + b y_here + c eps, the one whose Taylor series is right up to
    s^2 has a = r^2, b = 1 - r^2, c = h (1 + r), with the steps k before and h after and r = h / k: the
    optimal two-step BELM (Wang et al. 2024). With `before` and `next` exchanged it is its own inverse; on
    equal steps it is the leapfrog.
    """
    s_before, s_here, s_next = (math.sqrt(1 / abar - 1) for abar in (abar_before, abar_here, abar_next))
    h = s_next - s_here
    r = h / (s_here - s_before)
    y = r**2 / abar_before**0.5 * z_before + (1 - r**2) / abar_here**0.5 * z_here + h * (1 + r) * eps
    return abar_next**0.5 * y


def check_levels(levels: Sequence[int]) -> Sequence[int]:
    """Return the levels if they descend strictly; else ValueError: a step to nowhere has no inverse."""
    if len(levels) < 2 or any(a <= b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError(f"an inversion needs at least two, strictly descending levels, not {list(levels)}")
    return levels
