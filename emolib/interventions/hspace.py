"""Reach the h-space of a UNet: record it, shift it, evaluate plain and shifted together.

h is the output of the UNet's middle block, (B, C, h, w) (Kwon et al. 2023, arXiv 2210.10960, section 3). Not
every network sends much through there; `place` names the output of a block of the decoder instead, "up0",
"up1", ... All this works by torch's forward hooks on the public `unet.mid_block` and `unet.up_blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from emolib.runtime import InputError, one_of

MIDDLE = "mid"

Shift = Callable[[Tensor, Tensor], Tensor]
"""`shift(h, t) -> delta_h`: h (B, C, h, w) plain, t (B,) timesteps; the result broadcasts over h."""


class Seen(NamedTuple):
    """One evaluation: timesteps t (B,) and h (B, C, h, w), detached, in the network's dtype."""

    t: Tensor
    h: Tensor


def block(unet: Any, place: str = MIDDLE) -> nn.Module:
    """Find the block whose output is h: the middle one, or "up0", ... of the decoder. InputError: none."""
    blocks = {} if getattr(unet, "mid_block", None) is None else {MIDDLE: unet.mid_block}
    blocks |= {f"up{i}": up for i, up in enumerate(getattr(unet, "up_blocks", ()))}
    return blocks[one_of(place, blocks, "place in the network")]


def channels(unet: Any, place: str = MIDDLE) -> int:
    """Count the channels C of h."""
    block(unet, place)
    widths = unet.config.block_out_channels
    return widths[-1] if place == MIDDLE else widths[::-1][int(place.removeprefix("up"))]


def scaled(shift: Shift, factor: float) -> Shift:
    """Take `shift` `factor` times, negative allowed: the strength of an edit."""
    return lambda h, t: factor * shift(h, t)


@contextmanager
def shifted(unet: Any, shift: Shift, *, place: str = MIDDLE) -> Iterator[None]:
    """Add `shift(h, t)` to h in every evaluation of `unet` inside.

    Nested shifts add up (an inner one is asked with the outer one's h); leaving restores what was before.
    InputError: no such block, a shift of another number of channels."""
    layer = block(unet, place)
    with _times(unet) as times:

        def add(module: nn.Module, args: tuple, h: Tensor) -> Tensor:
            return h + _delta(shift, h, times[-1])

        hook = layer.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def record(unet: Any, *, place: str = MIDDLE) -> Iterator[list[Seen]]:
    """Record h: the list that this yields grows by one `Seen` with every evaluation of `unet` inside."""
    layer, seen = block(unet, place), []
    with _times(unet) as times:

        def note(module: nn.Module, args: tuple, h: Tensor) -> None:
            seen.append(Seen(times[-1], h.detach()))

        hook = layer.register_forward_hook(note)
        try:
            yield seen
        finally:
            hook.remove()


@contextmanager
def paired(unet: Any, shift: Shift, n: int, *, place: str = MIDDLE) -> Iterator[None]:
    """Evaluate n pictures plain and shifted in one go, with the UNet's layers before h run once for both.

    Inside, a batch is one half of 2 n rows or several (guidance makes two): n rows, then the same n again
    (same latents, timestep, text), whose h is given `shift(h, t)`. The second n are cut off before the
    network runs and put back where h is: only the layers behind it see them. Not to be nested."""
    layer, halves = block(unet, place), []
    after = unet.up_blocks if place == MIDDLE else unet.up_blocks[int(place.removeprefix("up")) + 1 :]

    def cut(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        batch = len(args[0])  # a RuntimeError from here on: it does not hold n pictures twice in each half
        halves[:] = [batch // (2 * n)]
        once = lambda x: x.unflatten(0, (-1, 2, n))[:, 0].flatten(0, 1)  # noqa: E731
        return _each(args, batch, once), _each(kwargs, batch, once)

    def twice(x: Tensor) -> Tensor:
        x = x.unflatten(0, (-1, 1, n))
        return x.expand(-1, 2, *x.shape[2:]).flatten(0, 2)

    def branch(module: nn.Module, args: tuple, h: Tensor) -> Tensor:
        plain = h.unflatten(0, (-1, n))
        moved = (h + _delta(shift, h, times[-1])).unflatten(0, (-1, n))
        return torch.stack([plain, moved], 1).flatten(0, 2)

    def widen(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        batch = halves[0] * n
        return _each(args, batch, twice), _each(kwargs, batch, twice)

    hooks = [unet.register_forward_pre_hook(cut, with_kwargs=True)]
    try:
        with _times(unet) as times:  # after `cut`, so that the timesteps are those of the cut batch
            hooks.append(layer.register_forward_hook(branch))
            hooks += [up.register_forward_pre_hook(widen, with_kwargs=True) for up in after]
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _each(value: Any, batch: int, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor in `value` that has `batch` rows."""
    if isinstance(value, Tensor):
        return change(value) if value.ndim and len(value) == batch else value
    if isinstance(value, dict):
        return {name: _each(part, batch, change) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_each(part, batch, change) for part in value)
    return value


@contextmanager
def _times(unet: Any) -> Iterator[list[Tensor]]:
    """The timesteps (B,) of the latest evaluation, as the last entry of a list."""
    times: list[Tensor] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]
        t = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"], device=sample.device)
        times[:] = [t.expand(len(sample)) if t.ndim == 0 else t]

    hook = unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield times
    finally:
        hook.remove()


def _delta(shift: Shift, h: Tensor, t: Tensor) -> Tensor:
    delta = shift(h, t)
    if delta.ndim < 3 or delta.shape[-3] != h.shape[1]:
        raise InputError(
            f"a shift of shape {tuple(delta.shape)} for an h-space of {h.shape[1]} channels;"
            " directions belong to the model they were made with"
        )
    return delta.to(h)
