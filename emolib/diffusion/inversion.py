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
    """Image to image (SDEdit, Meng et al. 2021, algorithm 1): only a start, z0 under `noise` (B, C, h, w).

    The source is forgotten to the degree that the noise hides it. Costs nothing.
    """
    return Trajectory(levels, start=add_noise(z0, noise, predictor.alphas_cumprod[levels[0]].item()))


def ddim(predictor: Predictor, z0: Tensor, levels: Sequence[int]) -> Trajectory:
    """DDIM inversion (Song et al. 2020, section 4.3): the deterministic step, walked towards the noise.

    Each step takes the prediction at its near end for the one at its far end, so the way back misses z0 by
    O(1 / N), and by far more where the edit is guided and the inversion was not. N evaluations.
    """
    walked = [z0]
    up = Trajectory(check_levels(levels)[::-1], start=z0)
    denoise(predictor, up, callback=lambda i, z, prediction: walked.append(z))
    return Trajectory(levels, torch.stack(walked[::-1]))


def negative_prompt(predictor: Predictor, z0: Tensor, levels: Sequence[int], source: Any) -> Trajectory:
    """Negative-prompt inversion (Miyake et al. 2023): `source`, the source prompt's embedding, as uncond.

    Guidance between equals is no guidance: without an edit every scale walks the unguided way, on which DDIM
    inversion is nearly exact. `predictor` is unguided. N evaluations.
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
    """Null-text inversion (Mokady et al. 2022, algorithm 1): learn, step by step, the uncond that leads back.

    source, unconditional  unguided predictors: with the source prompt, and with the `uncond` of the call
    uncond                 where learning starts: the empty prompt
    early_stop             a picture's step is learned when its mean squared error is below this

    Each picture stops by itself, so that a batch gives what single pictures give. The latents are those of
    the guided walk, so `skip` stays on it. At most N (inner_steps + 3) evaluations, of which N inner_steps
    also keep what backpropagation needs: see `gradient_memory`. Differentiates under `no_grad`, too.
    """
    # 1. The pivot: the unguided inversion, whose latents (N + 1, B, C, h, w) the guided walk shall meet.
    pivot = ddim(source, z0, levels).latents
    abar = [source.alphas_cumprod[level].item() for level in levels]
    uncond = uncond.expand(len(z0))  # (B, L, D)

    def text(hidden: Tensor) -> Embedding:
        return replace(uncond, hidden=hidden.to(uncond.hidden.dtype))

    def step(hidden: Tensor, i: int, z: Tensor, conditioned: Prediction) -> Tensor:
        plain = unconditional(z, levels[i], uncond=text(hidden))
        guided = (guide(p, c, guidance_scale) for p, c in zip(plain, conditioned, strict=True))
        return ddim_step(Prediction(*guided), abar[i], abar[i + 1])

    # 2. Level by level: learn the text that leads the guided walk to the pivot's next latents, beginning with
    #    the text of the level before, and take the step with it.
    hidden, walked, learned = uncond.hidden.float(), [pivot[0]], []
    for i in range(len(levels) - 1):
        here = partial(step, i=i, z=walked[-1], conditioned=source(walked[-1], levels[i]))
        hidden = _learn(here, hidden, pivot[i + 1], inner_steps, early_stop, learning_rate)
        walked.append(here(hidden))
        learned.append(text(hidden))
    return Trajectory(levels, torch.stack(walked), uncond=learned)


def _learn(
    step: Callable[[Tensor], Tensor], hidden: Tensor, goal: Tensor, steps: int, enough: float, rate: float
) -> Tensor:
    """Move `hidden` (B, L, D) by Adam until `step(hidden)` meets `goal`, picture by picture."""
    hidden = hidden.detach().clone().requires_grad_()
    adam = torch.optim.Adam([hidden], lr=rate)
    for _ in range(steps):
        with torch.enable_grad():
            error = (step(hidden) - goal).square().flatten(1)  # (B, C h w)
            total = error.sum()  # not the mean: Adam does not mind the scale, float16 gradients do
        wrong = error.mean(1) > enough  # (B,)
        if not wrong.any():
            break
        (hidden.grad,) = torch.autograd.grad(total, hidden)
        before = hidden.detach().clone()
        adam.step()
        with torch.no_grad():  # who has arrived stays
            hidden[~wrong] = before[~wrong]
    return hidden.detach()


def gradient_memory(evaluate: Callable[[], Any]) -> int:
    """Bytes that autograd keeps of one `evaluate()` for the way back, measured by running it once."""
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
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2023, algorithm 1): noise that leads back.

    The latents are z0 under *independent* `noise` (N, B, C, h, w), so none waits for another: the network is
    asked for up to `batch_size` of them in one call. What each DDPM step (eta 1) then lacks is recorded as
    that step's noise. Exact for the predictor it was made with, guided or not. N evaluations.
    """
    check_levels(levels)
    abar = [predictor.alphas_cumprod[level].item() for level in levels]
    latents = torch.stack([*(add_noise(z0, e, a) for e, a in zip(noise, abar, strict=False)), z0])
    zero, added, at_once = torch.zeros_like(z0), [], max(1, batch_size // len(z0))
    for first in range(0, len(levels) - 1, at_once):
        z = latents[:-1][first : first + at_once]
        times = torch.tensor(levels[first : first + len(z)], device=z.device).repeat_interleave(len(z0))
        x0, eps = (part.reshape(z.shape) for part in predictor(z.flatten(0, 1), times))
        for k, i in enumerate(range(first, first + len(z))):
            mean = ddim_step(Prediction(x0[k], eps[k]), abar[i], abar[i + 1], eta=1.0, noise=zero)
            added.append((latents[i + 1] - mean) / ddpm_variance(abar[i], abar[i + 1]) ** 0.5)
    return Trajectory(levels, latents, noise=torch.stack(added), eta=1.0)


def direct(trajectory: Trajectory, *, follow: float = 0.0) -> Callback:
    """Direct (PnP) inversion (Ju et al. 2023, algorithm 1): hold the source branch on an inverted trajectory.

    For a walk of the batch [B sources, n edits], with B = n or one source: after every step each source is
    set back to where the inversion passed, whatever the predictor and its guidance. The edits take the
    share `follow` of that correction: 0 is the paper's main form, made for attention control, which looks at
    the sources; with 1 an edit that asks for nothing returns its source exactly. No evaluations of its own.
    """
    latents = trajectory.latents
    if latents is None:
        raise ValueError("direct inversion follows recorded latents; this trajectory has none")
    sources = latents.shape[1]

    def pin(i: int, z: Tensor, prediction: Prediction) -> Tensor:
        correction = latents[i + 1] - z[:sources]
        return torch.cat([latents[i + 1], z[sources:] + follow * correction])

    return pin


def exact(predictor: Predictor, z0: Tensor, levels: Sequence[int]) -> Trajectory:
    """Exact inversion by O-BELM (Wang et al. 2024): a two-step rule that reads the same backwards.

    Walk back with `two_step(predictor, trajectory)` as callback. N + 1 evaluations for both together.
    """
    up = list(check_levels(levels))[::-1]
    abar = [predictor.alphas_cumprod[level].item() for level in up]
    walked = [z0]
    for i in range(len(up) - 1):
        # Asked at the level where the latents lie: exactness needs the same question up and down.
        prediction = predictor(walked[-1], up[i])
        if i == 0:  # a two-step rule needs two latents: the second is DDIM's
            new = ddim_step(prediction, abar[0], abar[1])
        else:
            new = belm_step(*walked[-2:], prediction.eps, *abar[i - 1 : i + 2])
        walked.append(new)
    return Trajectory(levels, torch.stack(walked[::-1]))


def two_step(source: Predictor, trajectory: Trajectory) -> Callback:
    """Make the callback with which `denoise` walks back an `exact` trajectory, under any predictor.

    The second latents are the walker's own DDIM step plus what that step lacks of the recorded latents when
    `source` takes it: exact for the source, an edit from the start.
    """
    abar = [source.alphas_cumprod[level].item() for level in trajectory.timesteps]
    first, second = trajectory.latents[:2]
    lacking = second - ddim_step(source(first, trajectory.timesteps[0]), abar[0], abar[1])
    before = here = first

    def callback(i: int, z: Tensor, prediction: Prediction) -> Tensor:
        nonlocal before, here
        if i == 0:
            before, here = first, z + lacking
        else:
            before, here = here, belm_step(before, here, prediction.eps, *abar[i - 1 : i + 2])
        return here

    return callback


def belm_step(
    before: Tensor, here: Tensor, eps: Tensor, abar_before: float, abar_here: float, abar_next: float
) -> Tensor:
    """The latents at `abar_next`, from those at the two levels before it and the noise predicted at `here`.

    In y = z / sqrt(abar) and s = sqrt(1 / abar - 1) the probability flow is dy/ds = eps (Song et al. 2020,
    eq. 14). Of all rules y_next = a y_before + b y_here + c eps, the one whose Taylor series is right up to
    s^2 has a = r^2, b = 1 - r^2, c = h (1 + r), with the steps k before and h after and r = h / k: the
    optimal two-step BELM (Wang et al. 2024). With `before` and `next` exchanged it is its own inverse; on
    equal steps it is the leapfrog.
    """
    s_before, s_here, s_next = (math.sqrt(1 / abar - 1) for abar in (abar_before, abar_here, abar_next))
    h = s_next - s_here
    r = h / (s_here - s_before)
    y = r**2 / abar_before**0.5 * before + (1 - r**2) / abar_here**0.5 * here + h * (1 + r) * eps
    return abar_next**0.5 * y


def check_levels(levels: Sequence[int]) -> Sequence[int]:
    """The levels, if they descend strictly; else ValueError: a step that goes nowhere cannot be inverted."""
    if len(levels) < 2 or any(a <= b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError(f"an inversion needs at least two, strictly descending levels, not {list(levels)}")
    return levels
