"""The denoising loss in the network's own terms, with and without pairs, and its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import PartialState
from torch import Tensor

from emolib.diffusion.backbone import Backbone, Embedding
from emolib.diffusion.sampling import Prediction, add_noise
from emolib.interventions import splice
from emolib.training.examples import Batch, Batches, pick
from emolib.training.settings import Settings, autocast, compute_dtype


def output_error(
    prediction: Prediction, x0: Tensor, noise: Tensor, abar: Tensor, prediction_type: str
) -> Tensor:
    """What the network's own output (noise, v, or x0) missed by, (B, C, h, w); `abar` broadcasts over it."""
    if prediction_type == "epsilon":
        return prediction.eps - noise
    if prediction_type == "sample":
        return prediction.x0 - x0
    return abar**0.5 * (prediction.eps - noise) - (1 - abar) ** 0.5 * (prediction.x0 - x0)


def loss_weight(abar: Tensor, gamma: float, prediction_type: str, floor: float = 0.0) -> Tensor:
    """Min-SNR-gamma weights of the output's squared error at levels `abar`; gamma 0 switches them off (ones).

    Hang et al. 2023 (arXiv 2303.09556, section 3.4): min(SNR, gamma), which is stated for x0, divided by SNR
    for a network that predicts noise and by SNR + 1 for v. `floor` (<= gamma) keeps the weight for x0 from
    falling below it where there is hardly any signal: there a picture's large colours are decided, and a
    network that predicts noise is paid next to nothing for them.
    """
    if not gamma:
        return torch.ones_like(abar)
    snr = abar / (1 - abar)
    return snr.clamp(floor, gamma) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[prediction_type]


def change_map(felt: Tensor, calm: Tensor) -> Tensor:
    """How much two latents (B, C, h, w) differ in each place: mean |difference| over channels, (B, 1, h, w),
    divided by its mean over places, so that it is 1 on average.

    An expression moves a brow and a corner of the mouth, and nearly all of a picture stays: weighted so, the
    loss hears those few places above the many where nothing happens. Two equal latents get ones.
    """
    change = (felt - calm).abs().mean(1, keepdim=True)
    mean = change.mean((2, 3), keepdim=True)
    return torch.where(mean > 0, change / mean.clamp(min=1e-12), 1.0)


class Objective:
    """The loss of draws, for given text embeddings.

    Without pairs: the squared error of the network's output. With pairs: the squared difference between the
    error on a picture under its prompt and the frozen error on its neutral counterpart under the neutral
    prompt, with the same noise, timestep and posterior draw. What the prompt leaves unsaid about the person
    makes nearly the same error in both and cancels; what is left, and all that the parameters are paid for,
    is the emotion. It also takes most of the noise out of the gradient (a control variate). With
    `Settings.focus` the squares are weighted by where the two pictures differ, see `change_map`.
    """

    def __init__(self, backbone: Backbone, batches: Batches, settings: Settings) -> None:
        self.network = copy.copy(backbone)
        if settings.compile:
            self.network.unet = torch.compile(backbone.unet)
        self.batches, self.settings = batches, settings
        self.dtype = compute_dtype(backbone.device, settings.precision)

    def autocast(self) -> AbstractContextManager:
        """The context that networks run in."""
        return autocast(self.network.device, self.dtype)

    def losses(self, batch: Batch, embedding: Embedding) -> Tensor:
        """(B,) float32 losses of a batch under its own B embeddings."""
        error = self._error(batch, embedding, neutral=False)
        if self.batches.neutral_text is not None:
            with torch.no_grad():
                calm = pick(self.batches.neutral_text, batch.prompt.to(error.device))
                shared = self._error(batch, calm, neutral=True)
            error = error - shared
        kind = self.network.prediction_type
        weight = loss_weight(self.network.alphas_cumprod[batch.t], self.settings.min_snr, kind)
        return weight.to(error) * (self._weights_of_places(batch) * error.square()).mean((1, 2, 3))

    def _weights_of_places(self, batch: Batch) -> Tensor | float:
        """Weights of the latents' places, 1 on average."""
        if self.batches.neutral_text is None or not self.settings.focus:
            return 1.0
        return change_map(self.batches.latents(batch), self.batches.latents(batch, neutral=True))

    def _error(self, batch: Batch, embedding: Embedding, *, neutral: bool) -> Tensor:
        z0 = self.batches.latents(batch, neutral=neutral)  # (B, C, h, w)
        noise = batch.noise.to(z0.device)
        abar = self.network.alphas_cumprod[batch.t].to(z0).view(-1, 1, 1, 1)
        z = add_noise(z0, noise, abar).contiguous(memory_format=torch.channels_last)
        with self.autocast():
            prediction = self.network.predict(z, batch.t, embedding)
        return output_error(prediction, z0, noise, abar, self.network.prediction_type)

    def encode(self, batch: Batch) -> tuple[Embedding, Tensor]:
        """The batch's distinct prompts as embeddings, and which of them each draw has."""
        distinct, which = batch.prompt.unique(return_inverse=True)
        with self.autocast():
            embedding = splice.encode_tokens(self.network, [ids[distinct] for ids in self.batches.ids])
        return embedding, which.to(self.network.device)

    def __call__(self, step: int, groups: Sequence[str]) -> Iterator[tuple[Tensor | None, dict[str, Tensor]]]:
        """Yield the loss of each micro-batch of a step; of every group the mean over its own draws.

        What `loop.fit_parameters` asks for. Under several processes each takes its share of the draws."""
        processes, settings = PartialState(), self.settings
        batch = self.batches.training(step, settings.batch, groups)
        batch = batch[processes.process_index :: processes.num_processes]
        if not len(batch):
            yield None, self._by_group(batch, torch.zeros(0), groups)
            return
        # The distinct prompts go through the text encoder once, up to a cut just behind it, (P, L, D).
        embedding, which = self.encode(batch)
        parts = [part for part in (embedding.hidden, embedding.pooled) if part is not None]
        cuts = [part.detach().requires_grad_(part.requires_grad) for part in parts]
        # Micro-batches leave their gradients at the cut: the caller goes back as far as there.
        size = settings.micro_batch or len(batch)
        for i in range(0, len(batch), size):
            part = batch[i : i + size]
            losses = self.losses(part, pick(Embedding(*cuts), which[i : i + size])) / settings.batch  # (b,)
            yield losses.sum(), self._by_group(part, losses, groups)
        # One pass carries their sum on: the same gradient at a fraction of the text's cost.
        waiting = [(part, cut.grad) for part, cut in zip(parts, cuts, strict=True) if cut.grad is not None]
        if waiting:
            torch.autograd.backward(*zip(*waiting, strict=True))

    @torch.no_grad()
    def evaluate(self, step: int, groups: Sequence[str]) -> dict[str, float]:
        """Return each group's mean loss on fixed draws: same pictures, noise, timesteps every time, so that
        a change is learning and nothing else (Voronov et al. 2023, arXiv 2302.04841)."""
        settings, names = self.settings, self.batches.names
        batch = self.batches.evaluation(settings.evaluate_on)
        batch = batch[torch.tensor([name in groups for name in names])[batch.group]]
        embedding, which = self.encode(batch)
        size = settings.micro_batch or settings.batch * len(groups)
        losses = [
            self.losses(batch[i : i + size], pick(embedding, which[i : i + size]))
            for i in range(0, len(batch), size)
        ]
        sums = self._by_group(batch, torch.cat(losses), groups, "")
        return {name: float(value / settings.evaluate_on) for name, value in sums.items()}

    def _by_group(
        self, batch: Batch, losses: Tensor, groups: Sequence[str], label: str = "loss "
    ) -> dict[str, Tensor]:
        """Add up losses (B,) group by group."""
        names = self.batches.names
        sums = torch.zeros(len(names), device=losses.device)
        sums = sums.index_add_(0, batch.group.to(losses.device), losses.detach())
        return {label + name: sums[i] for i, name in enumerate(names) if name in groups}
