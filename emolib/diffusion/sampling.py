"""The diffusion process by itself: noise levels, one DDIM step, one loop. Imports torch only.

A *level* is an index into `alphas_cumprod` (0 is the cleanest, T-1 the noisiest). `abar` is the value there:
z = sqrt(abar) x0 + sqrt(1 - abar) eps. A walk is a list of levels, and its order is the direction of time:
descending denoises, ascending inverts. The clean end is level 0, not abar = 1 (`set_alpha_to_one=False` in
diffusers): at abar = 1 the last step's noise vanishes and edit-friendly inversion could not be exact.

Latents, and all that is made of them (predictions, trajectories), live on the model's device. Noise may come
from anywhere, and does from the CPU, where `runtime.generator` draws the same numbers for every device: the
functions that take it bring it to the device and dtype of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from torch import Tensor

CLEAN = 0
SPACINGS = ("leading", "trailing", "linspace")


class Prediction(NamedTuple):
    """What a network believes about noisy latents: the clean latents and the noise in them.

    The two are kept apart, not derived from each other, so that a method may change only one of them
    (Asyrp moves `x0` and leaves `eps`).
    """

    x0: Tensor
    eps: Tensor


class Predictor(Protocol):
    """`predictor(z, t, level=None, uncond=None) -> Prediction`, plus the schedule it was trained on.

    `z` are latents at `level` (default `t`), `t` the timestep that the network is told; they differ only in
    inversion. Both are ints, or int64 (B,), one for each latent. `uncond` replaces the predictor's own
    unconditional embedding for this call. `alphas_cumprod` is (T,), float32 or float64, on the CPU.
    """

    alphas_cumprod: Tensor

    def __call__(
        self, z: Tensor, t: int | Tensor, *, level: int | Tensor | None = None, uncond: Any = None
    ) -> Prediction: ...


Callback = Callable[[int, Tensor, Prediction], "Tensor | None"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A walk through noise levels and what was recorded along it; every inversion fills in some fields.

    timesteps  N + 1 levels, descending to denoise; step i goes from timesteps[i] to timesteps[i + 1]
    latents    (N + 1, B, C, h, w), latents[i] belongs to timesteps[i]; None when only the start is known
    uncond     N unconditional embeddings, one a step; None leaves the predictor's own
    noise      (N, B, C, h, w), the noise that step i adds; needed when eta > 0
    eta        0 is DDIM (deterministic), 1 is DDPM
    start      (B, C, h, w) latents at timesteps[0]; default latents[0]
    """

    timesteps: Sequence[int]
    latents: Tensor | None = None
    uncond: Sequence[Any] | None = None
    noise: Tensor | None = None
    eta: float = 0.0
    start: Tensor | None = None

    def __post_init__(self) -> None:
        steps = len(self.timesteps) - 1
        expected = {"latents": steps + 1, "uncond": steps, "noise": steps}
        for name, length in expected.items():
            value = getattr(self, name)
            if value is not None and len(value) != length:
                raise ValueError(f"{name} has {len(value)} entries; {steps + 1} levels need {length}")
        if self.start is None and self.latents is None:
            raise ValueError("a trajectory needs start or latents")

    def skip(self, steps: int) -> Trajectory:
        """The same walk without its first `steps` steps (the noisiest), from the latents recorded there.

        Raises ValueError if there are no recorded latents to start from, or fewer steps than that."""
        if steps == 0:
            return self
        if self.latents is None or not 0 < steps < len(self.timesteps):
            raise ValueError(f"cannot skip {steps} steps: no latents are recorded there")
        rest = {
            name: None if getattr(self, name) is None else getattr(self, name)[steps:]
            for name in ("timesteps", "latents", "uncond", "noise")
        }
        return replace(self, start=None, **rest)

    def expand(self, n: int) -> Trajectory:
        """The same walk for n edits of one picture, or of the n pictures that it has. Views."""
        start = self.latents[0] if self.start is None else self.start
        return replace(self, start=start.expand(n, *start.shape[1:]))


def timestep_grid(
    num_inference_steps: int,
    *,
    num_train_timesteps: int = 1000,
    spacing: str = "leading",
    steps_offset: int = 0,
) -> list[int]:
    """The N + 1 levels of N denoising steps: descending, the last is `CLEAN`.

    The first N equal `DDIMScheduler.set_timesteps` for each `spacing` (Lin et al. 2024, Table 2). Raises
    ValueError for an unknown spacing or more steps than there are levels.
    """
    n, total = num_inference_steps, num_train_timesteps
    if not 1 <= n <= total:
        raise ValueError(f"num_inference_steps must be 1 to {total}, not {n}")
    if spacing == "leading":
        levels = [i * (total // n) + steps_offset for i in range(n)][::-1]
    elif spacing == "trailing":
        levels = [round(total - i * total / n) - 1 for i in range(n)]
    elif spacing == "linspace":
        levels = [round(i * ((total - 1) / max(n - 1, 1))) for i in range(n)][::-1]
    else:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
    if levels[0] >= total:
        raise ValueError(f"steps_offset {steps_offset} leaves no level for {n} steps of {total}")
    return [*levels, CLEAN]


def to_prediction(output: Tensor, z: Tensor, abar: float | Tensor, prediction_type: str) -> Prediction:
    """Turn a network's output into (x0, eps), consistent with `z` = sqrt(abar) x0 + sqrt(1 - abar) eps.

    "epsilon": Ho et al. 2020; "v_prediction": Salimans & Ho 2022, appendix D; "sample": the output is x0.
    `abar` is a float or broadcasts over `z`. Raises ValueError for another type.
    """
    a, b = abar**0.5, (1 - abar) ** 0.5
    if prediction_type == "epsilon":
        return Prediction((z - b * output) / a, output)
    if prediction_type == "v_prediction":
        return Prediction(a * z - b * output, a * output + b * z)
    if prediction_type == "sample":
        return Prediction(output, (z - a * output) / b)
    raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, not {prediction_type!r}")


def guide(plain: Tensor, conditioned: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, in Stable Diffusion's scale): 1 is no guidance."""
    return plain + scale * (conditioned - plain)


def add_noise(x0: Tensor, noise: Tensor, abar: float | Tensor) -> Tensor:
    """Draw from q(z | x0) with the given standard normal `noise`: Ho et al. 2020, eq. 4."""
    return abar**0.5 * x0 + (1 - abar) ** 0.5 * noise.to(x0)


def ddpm_variance(abar_from: float | Tensor, abar_to: float | Tensor) -> float | Tensor:
    """Variance of the DDPM posterior: Ho et al. 2020, eq. 7, for a step of any length (DDIM's eq. 16)."""
    return (1 - abar_to) / (1 - abar_from) * (1 - abar_from / abar_to)


def ddim_step(
    prediction: Prediction,
    abar_from: float | Tensor,
    abar_to: float | Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Move latents from level `abar_from` to `abar_to`: Song et al. 2020 (DDIM), eq. 12 with sigma of eq. 16.

    Towards less noise it samples, towards more noise it inverts (eta = 0 only). `eta` 1 is the DDPM posterior
    (Ho et al. 2020, eq. 7) and needs `noise`, standard normal, shaped like the latents; else ValueError.
    """
    x0, eps = prediction
    if eta == 0:
        return abar_to**0.5 * x0 + (1 - abar_to) ** 0.5 * eps
    if noise is None:
        raise ValueError("eta > 0 adds noise: give it")
    variance = eta**2 * ddpm_variance(abar_from, abar_to)
    direction = 1 - abar_to - variance
    # Rounding may leave -1e-17 under a root whose exact value is 0.
    if isinstance(variance, Tensor):
        variance, direction = variance.clamp(min=0), direction.clamp(min=0)
    else:
        variance, direction = max(variance, 0.0), max(direction, 0.0)
    return abar_to**0.5 * x0 + direction**0.5 * eps + variance**0.5 * noise.to(x0)


def denoise(predictor: Predictor, trajectory: Trajectory, *, callback: Callback | None = None) -> Tensor:
    """Walk `trajectory` and return the latents at its last level, in the dtype it started with.

    `callback(i, z, prediction)` runs after step i with the new latents at timesteps[i + 1]; a tensor that it
    returns takes their place. Runs under the caller's gradient mode.
    """
    abar = predictor.alphas_cumprod.tolist()  # python floats: float64 arithmetic, no device traffic
    z = trajectory.latents[0] if trajectory.start is None else trajectory.start
    levels = [int(level) for level in trajectory.timesteps]
    for i, (level, target) in enumerate(zip(levels, levels[1:], strict=False)):
        # The network is always asked at the noisier end of the step, so that inverting a step asks at the
        # same timestep as taking it does. (Null-text's choice; the field argues, both are first order.)
        t = max(level, target)
        uncond = None if trajectory.uncond is None else trajectory.uncond[i]
        prediction = predictor(z, t, level=level, uncond=uncond)
        noise = None if trajectory.noise is None else trajectory.noise[i]
        z = ddim_step(prediction, abar[level], abar[target], eta=trajectory.eta, noise=noise)
        if callback is not None:
            changed = callback(i, z, prediction)
            z = z if changed is None else changed
    return z
