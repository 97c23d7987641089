"""Denoisers whose answers are known: Gaussian data in float64, with or without guidance."""

import torch

from emolib.diffusion import sampling


class Gaussian:
    """The exact denoiser of data N(mean, std^2): its probability-flow solution is known in closed form.

    With a guidance scale it is guided away from N(null, std^2); an uncond's `hidden` (B, 1, D) replaces null.
    """

    def __init__(self, mean, std, levels=4096, *, null=0.0, guidance_scale=1.0):
        betas = torch.linspace(1e-4 * 1000 / levels, 2e-2 * 1000 / levels, levels, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        self.mean, self.std, self.null, self.scale, self.asked = mean, std, null, guidance_scale, []

    def __call__(self, z, t, *, level=None, uncond=None):
        self.asked.append(t)
        abar = self.alphas_cumprod[t if level is None else level]
        abar = abar.view(-1, *[1] * (z.ndim - 1)) if abar.ndim else abar.item()
        eps = self.eps(z, abar, self.mean)
        if self.scale != 1:
            null = self.null if uncond is None else uncond.hidden[:, 0]
            eps = sampling.guide(self.eps(z, abar, null), eps, self.scale)
        return sampling.to_prediction(eps, z, abar, "epsilon")

    def eps(self, z, abar, mean):
        return (1 - abar) ** 0.5 * (z - abar**0.5 * mean) / (abar * self.std**2 + 1 - abar)

    def exact(self, z, level, target):
        """Where the unguided flow carries z from one level to another."""
        a, b = self.alphas_cumprod[level].item(), self.alphas_cumprod[target].item()
        scale = ((b * self.std**2 + 1 - b) / (a * self.std**2 + 1 - a)) ** 0.5
        return b**0.5 * self.mean + scale * (z - a**0.5 * self.mean)


def latents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
