"""Look into attention and change it: controllers, injection, cross-attention maps, blend masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from emolib.diffusion.sampling import Prediction
from emolib.interventions.alignment import Transfer
from emolib.runtime import InputError


class Layer(NamedTuple):
    """One attention layer at work: its kind, the timestep, the size (h, w) of its grid of pixels, and by how
    much that is smaller than the latents (1, 2, 4, ...)."""

    cross: bool
    t: int
    size: tuple[int, int]
    reduction: int


class Controller(Protocol):
    """What `controlled` asks at every attention layer. `rows` is the number of conditional rows."""

    rows: int

    def wants(self, layer: Layer) -> bool:
        """Whether one of the two functions below is to be called."""
        ...

    def edit(self, maps: Tensor, layer: Layer) -> Tensor:
        """Cross-attention probabilities (rows, heads, pixels, tokens) -> those to use."""
        ...

    def followed(self, layer: Layer) -> Sequence[int] | None:
        """For each row the row whose self-attention map it uses; None: each its own."""
        ...


@dataclass(frozen=True, eq=False)
class Injection:
    """Prompt-to-prompt (Hertz et al. 2022, algorithm 1): targets take over the attention of their sources.

    sources              for each row, the row that it copies from; a source names itself: (0, 0, 0) is one
                         source with two targets, (0, 1, 0, 1) are two pairs
    transfers            for each row how its prompt takes over the source's maps (`alignment.replace` or
                         `refine`), None for a source
    timesteps            the levels of the whole walk, as `Trajectory.timesteps`, by which steps are counted
    cross_replace_steps  (start, end) as shares of the walk, between which cross-attention is taken over ...
    self_replace_steps   ... and self-attention
    weights              (rows, L) factors for tokens' maps, while cross-attention is taken over ("attention
                         re-weighting"); None: all 1
    largest              self-attention is taken over in layers of at most so many pixels (32 x 32, as theirs)
    """

    sources: Sequence[int]
    transfers: Sequence[Transfer | None]
    timesteps: Sequence[int]
    cross_replace_steps: tuple[float, float] = (0.0, 0.8)
    self_replace_steps: tuple[float, float] = (0.0, 0.4)
    weights: Tensor | None = None
    largest: int = 1024

    @property
    def rows(self) -> int:
        return len(self.sources)

    def wants(self, layer: Layer) -> bool:
        if layer.cross:
            return self._during(self.cross_replace_steps, layer.t)
        small = layer.size[0] * layer.size[1] <= self.largest
        return small and self._during(self.self_replace_steps, layer.t)

    def _during(self, interval: tuple[float, float], t: int) -> bool:
        steps = len(self.timesteps) - 1
        # The network is asked at the noisier end of a step, whichever way the walk goes.
        step = sorted(self.timesteps, reverse=True).index(t)
        return round(interval[0] * steps) <= step < round(interval[1] * steps)

    def edit(self, maps: Tensor, layer: Layer) -> Tensor:
        result = maps.clone()
        for row, (source, transfer) in enumerate(zip(self.sources, self.transfers, strict=True)):
            if transfer is not None:
                share = transfer.share.to(maps)
                taken = maps[source] @ transfer.mapper.to(maps)
                result[row] = share * taken + (1 - share) * maps[row]
        return result if self.weights is None else result * self.weights.to(maps)[:, None, None]

    def followed(self, layer: Layer) -> Sequence[int]:
        return self.sources


@contextmanager
def controlled(unet: Any, *controllers: Controller) -> Iterator[None]:
    """Let `controllers` act on every evaluation of `unet` inside, one after the other.

    Two edits of one picture that keep its attention, and where the word "angry" looked meanwhile:

        texts = ["photo of a man", "photo of an angry man", "photo of a sad man"]
        source, *targets = (alignment.spans(model.pipe, text) for text in texts)
        transfers = [None, *(alignment.refine(source, target) for target in targets)]
        injection = Injection((0, 0, 0), transfers, levels)  # rows 1 and 2 copy from row 0
        maps, walk = AttentionMaps(rows=3), Trajectory(levels, start=noise.expand(3, -1, -1, -1))
        with controlled(model.unet, injection, maps):
            z = denoise(model.guided(model.embed(texts), 2.0), walk)
        heat = maps.word(1, alignment.new_words(source, targets[0]), size=z.shape[-2:])  # (h, w) in [0, 1]

    Nested, the outer ones act first. Leaving restores the processors that were there. InputError if the
    network has none, or some with weights of their own (IP-Adapter), which would be lost."""
    before = dict(getattr(unet, "attn_processors", {}))
    if not before or any(isinstance(processor, torch.nn.Module) for processor in before.values()):
        raise InputError(
            "prompt-to-prompt needs a text-to-image UNet: this network has no attention to control, or one"
            " with weights of its own (an IP-Adapter?), which have to be unloaded first"
        )
    call = _Call()
    hook = unet.register_forward_pre_hook(call.note, with_kwargs=True)
    try:
        unet.set_attn_processor({name: _Controlled(old, controllers, call) for name, old in before.items()})
        yield
    finally:
        hook.remove()
        unet.set_attn_processor(before)


@dataclass
class _Call:
    """What the UNet is being asked, noted before its layers run."""

    t: int = -1
    size: tuple[int, int] = (0, 0)

    def note(self, module: Any, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]
        timestep = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten()
        if not bool((timestep == timestep[0]).all()):
            raise ValueError("attention can be controlled at one timestep at a time")
        self.t, self.size = int(timestep[0]), tuple(sample.shape[-2:])

    def layer(self, cross: bool, pixels: int) -> Layer:
        """Find this call's layer that has so many pixels: the latents' grid, halved some times."""
        (height, width), reduction = self.size, 1
        while height * width > pixels:
            height, width, reduction = -(-height // 2), -(-width // 2), 2 * reduction
        return Layer(cross, self.t, (height, width), reduction)


@dataclass(eq=False)
class _Controlled:
    """An attention processor: the one before it, or the same mathematics with the maps open to change."""

    before: Any
    controllers: tuple[Controller, ...]
    call: _Call

    def __post_init__(self) -> None:
        if isinstance(self.before, _Controlled):
            self.controllers = (*self.before.controllers, *self.controllers)
            self.before = self.before.before

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        cross = encoder_hidden_states is not None
        if hidden_states.ndim != 3:  # attention of a plain (not a transformer) block: no text, left alone
            return self.before(attn, hidden_states, encoder_hidden_states, attention_mask)
        layer = self.call.layer(cross, hidden_states.shape[1])
        active = [controller for controller in self.controllers if controller.wants(layer)]
        if not active:
            return self.before(attn, hidden_states, encoder_hidden_states, attention_mask)
        for controller in active:
            if len(hidden_states) not in (controller.rows, 2 * controller.rows):
                raise ValueError(f"a batch of {len(hidden_states)}, controlled as {controller.rows} rows")
        # 1. What is looked at: the prompt's L tokens, or the picture's own pixels.
        text = encoder_hidden_states if cross else hidden_states  # (B, L, D) or (B, pixels, C)
        if cross and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
        # 2. Look, with the maps open to change.
        attend = _cross if cross else _self
        hidden = attend(attn, query, key, value, mask, active, layer)  # (B, pixels, C)
        # 3. Go on as the processor before does.
        hidden = attn.to_out[1](attn.to_out[0](hidden))  # projection, dropout
        hidden = hidden + hidden_states if attn.residual_connection else hidden
        return hidden / attn.rescale_output_factor


def _cross(attn, query, key, value, mask, active, layer) -> Tensor:
    query, key, value = (attn.head_to_batch_dim(x) for x in (query, key, value))  # (B heads, ..., C / heads)
    maps = attn.get_attention_scores(query, key, mask).unflatten(0, (-1, attn.heads))  # (B, heads, pixels, L)
    for controller in active:
        free = len(maps) - controller.rows  # the unconditional rows of a guided batch come first
        maps = torch.cat([maps[:free], controller.edit(maps[free:], layer)])
    return attn.batch_to_head_dim(torch.bmm(maps.flatten(0, 1), value))


def _self(attn, query, key, value, mask, active, layer) -> Tensor:
    for controller in active:
        sources, free = controller.followed(layer), len(query) - controller.rows
        if sources is not None:
            # A map is query times key: rows that take both over from another attend as that one does.
            rows = [*range(free), *(free + source for source in sources)]
            query, key = query[rows], key[rows]
    # (B, heads, pixels, C / heads)
    query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    if mask is not None:
        mask = mask.unflatten(0, (-1, attn.heads))
    hidden = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
    return hidden.transpose(1, 2).flatten(2)


class AttentionMaps:
    """A controller that changes nothing and adds up the cross-attention of `rows` conditional rows.

    reductions   which layers count, by how much smaller than the latents their grid is
    Behind an `Injection` it sees the maps that were used, before it the network's own.
    """

    def __init__(self, rows: int, reductions: Sequence[int] = (2, 4)) -> None:
        self.rows, self.reductions = rows, tuple(reductions)
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._calls = 0

    def wants(self, layer: Layer) -> bool:
        return layer.cross and layer.reduction in self.reductions

    def edit(self, maps: Tensor, layer: Layer) -> Tensor:
        mean = maps.detach().float().mean(1).mT.unflatten(2, layer.size)  # (rows, tokens, h, w)
        self._sums[layer.size] = self._sums.get(layer.size, 0) + mean
        self._calls += 1
        return maps

    def followed(self, layer: Layer) -> None:
        return None

    def word(self, row: int, tokens: Sequence[int], size: tuple[int, int]) -> Tensor:
        """(h, w) = `size`, in [0, 1]: how much each pixel of `row` attends to `tokens`, the mean over heads,
        layers and steps so far. ValueError before the network ran with a layer that counts."""
        if not self._sums:
            raise ValueError(f"no maps yet, or no cross-attention layer of reduction {self.reductions}")
        total = torch.zeros(size)
        for value in self._sums.values():
            part = value[row, list(tokens)].sum(0)[None, None]
            total = total + F.interpolate(part, size, mode="bilinear", align_corners=False)[0, 0].cpu()
        return total / self._calls


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """A `denoise` callback: outside the mask of the words' attention, targets keep their source's latents.

    Hertz et al. 2022, "local editing" (section 3.2 and algorithm 1, line 8): maps are maximum-pooled over
    3 x 3, divided by their largest value and cut at `threshold`; the mask is the target's united with its
    source's. (Their code's threshold is 0.3.)

    tokens   for each row the positions of its words
    sources  as in `Injection`
    start    the step it begins with: the maps of the first steps are vague
    """

    maps: AttentionMaps
    tokens: Sequence[Sequence[int]]
    sources: Sequence[int]
    threshold: float = 0.3
    start: int = 0

    def mask(self, size: tuple[int, int]) -> Tensor:
        """(rows, 1, h, w) bool: where each row may differ from its source."""
        heat = torch.stack([self.maps.word(row, each, size) for row, each in enumerate(self.tokens)])
        heat = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)
        inside = heat > self.threshold * heat.amax((2, 3), keepdim=True)
        return inside | inside[list(self.sources)]

    def __call__(self, i: int, z: Tensor, prediction: Prediction) -> Tensor | None:
        if i < self.start:
            return None
        return blend(z, self.mask(tuple(z.shape[-2:])), self.sources)


def blend(z: Tensor, mask: Tensor, sources: Sequence[int]) -> Tensor:
    """Latents (B, C, h, w) that are their own where `mask` (B, 1, h, w) holds, their source's elsewhere."""
    return torch.where(mask.to(z.device), z, z[list(sources)])
