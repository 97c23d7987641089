"""A bank of h-space directions, one an emotion, and its file format."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emolib.data.files import load_tensors, save_tensors
from emolib.diffusion.backbone import Backbone
from emolib.diffusion.presets import MINISD
from emolib.interventions import hspace
from emolib.interventions.asyrp import T_EDIT, per_step
from emolib.runtime import InputError, one_of, repo_path

FORMAT = "emolib-hspace-1"
SUPERVISED = "supervised"
RECIPE = (
    "emolib hspace fit data/emofaces/portraits-train.parquet --method supervised --place up1 --limit 100"
    " --out data/minisd/hspace.safetensors"
)
"""The command that makes the directions that ship with MiniSD."""
HOW = f"make some with `emolib hspace fit`; MiniSD's own: `{RECIPE}`"


class Table(nn.Module):
    """delta_h looked up by time: a shift for `hspace.shifted`.

    delta (K, C, h, w) or (K, C, 1, 1) float32, one for each of `timesteps` (K,); the nearest one is taken,
    and resized (bilinear) where h has another grid. It can be trained as it is, with K = 1 as a delta_h
    shared by all times. Like `Network`, it answers on h's device, wherever it lies itself.
    """

    def __init__(self, delta: Tensor, timesteps: Tensor) -> None:
        super().__init__()
        self.delta = nn.Parameter(delta.float(), requires_grad=False)
        self.register_buffer("timesteps", timesteps.long())

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w) or (B, C, 1, 1) for h (B, C, h, w) at timesteps t (B,)."""
        nearest = (self.timesteps[:, None] - t.to(self.timesteps.device)).abs().argmin(0)
        delta = self.delta[nearest].to(h.device)
        if delta.shape[-2:] in ((1, 1), h.shape[-2:]):
            return delta
        return F.interpolate(delta, h.shape[-2:], mode="bilinear", align_corners=False)


class Network(nn.Module):
    """f_t(h), the implicit function of Asyrp (Kwon et al. 2023, section 3.4): a shift that depends on h.

    1 x 1 convolution, plus an embedding of the time, group norm, SiLU, 1 x 1 convolution. The last one starts
    at zero, so that an untrained network shifts nothing.
    """

    def __init__(self, channels: int, hidden: int | None = None, frequencies: int = 32) -> None:
        super().__init__()
        hidden = hidden or channels
        self.first = nn.Conv2d(channels, hidden, 1)
        self.time = nn.Linear(2 * frequencies, hidden)
        self.norm = nn.GroupNorm(1, hidden)
        self.last = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w) for h (B, C, h, w) at timesteps t (B,)."""
        own = self.first.weight.device
        x = self.first(h.to(own, torch.float32))
        x = x + self.time(time_features(t.to(own), self.time.in_features // 2))[:, :, None, None]
        return self.last(F.silu(self.norm(x))).to(h.device)


def untrained(channels: int, generator: torch.Generator) -> Network:
    """A network to train, its weights drawn by `generator`; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        return Network(channels)


def time_features(t: Tensor, frequencies: int) -> Tensor:
    """(B, 2 frequencies): sines and cosines of t (B,), wavelengths from 2 pi to 2 pi 10^4."""
    rates = torch.exp(torch.linspace(0, -1, frequencies, device=t.device) * torch.log(torch.tensor(1e4)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


@dataclass(frozen=True, eq=False)
class Directions:
    """What leads from the emotion `source` to each of the others, in the h-space of one model.

    shifts   {emotion: Table or Network}
    source   where they start: an emotion, or "" for the mean of all pictures (any picture, if supervised)
    prompt   what the network was told while they were measured, and has to be told while they are used
    model    name of the model; `channels` of its h and the `width` of its text say whether it is the same
    method   how they were found: "mean", "pca", "probe", "trained", "supervised"
    place    where in the network: "mid", or a block of the decoder (see `hspace`)
    scale    how many times an edit of strength 1 takes them, in each of 30 steps: a network that sends little
             through this place needs more than the difference between pictures (lesson 05 measures it)
    notes    numbers worth keeping, e.g. pictures and agreement for each emotion
    """

    shifts: Mapping[str, nn.Module]
    source: str
    prompt: str
    model: str
    channels: int
    width: int
    method: str = "mean"
    place: str = hspace.MIDDLE
    scale: float = 1.0
    t_edit: int = T_EDIT
    t_start: int = 1000
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{', '.join(self.emotions)}; {self.scale:g} times down to timestep {self.t_edit}"
        return f"{self.method} directions at {self.place} of {self.model} ({what})"

    @property
    def emotions(self) -> tuple[str, ...]:
        """What a picture can be changed to, the source itself among them (there the shift is zero)."""
        names = tuple(self.shifts)
        return names if self.source in ("", *names) else (self.source, *names)

    def times(self, num_inference_steps: int) -> float:
        """How often each of so many steps takes a shift of scale 1 (`asyrp.per_step`).

        What was supervised has learned where to arrive, so the number of steps plays no part."""
        return 1.0 if self.method == SUPERVISED else per_step(num_inference_steps)

    def check(self, unet: Any) -> None:
        """InputError unless these directions can have been made with this UNet."""
        sizes = (hspace.channels(unet, self.place), unet.config.cross_attention_dim)
        if sizes != (self.channels, self.width):
            raise InputError(
                f"these directions were made with {self.model} ({self.channels} channels, text width"
                f" {self.width}), not with this model ({sizes[0]} and {sizes[1]}); fit them anew"
            )

    def to(self, device: torch.device | str) -> Directions:
        """Return the bank with its tensors on `device`; this one stays where it is."""
        shifts = {name: copy.deepcopy(shift).to(device) for name, shift in self.shifts.items()}
        return replace(self, shifts=shifts)

    def shift(
        self, emotions: str | Sequence[str], *, away: str | Sequence[str | None] | None = None
    ) -> hspace.Shift:
        """The shift towards an emotion for all rows of a batch, or one emotion for each of its n rows.

        `away` is what the pictures show (one, or one each), whose direction is taken off; None: `source`.
        Supervised networks see for themselves what a picture shows: there it plays no part.
        InputError: an emotion that is not in the bank."""
        away = None if self.method == SUPERVISED else away
        if isinstance(emotions, str):
            return self.mix({emotions: 1.0}, away=away)
        before = [away] * len(emotions) if away is None or isinstance(away, str) else away
        kinds = list(zip(emotions, before, strict=True))  # of each row
        mixes = {(name, old): self.mix({name: 1.0}, away=old) for name, old in kinds}

        def apply(h: Tensor, t: Tensor) -> Tensor:
            delta = torch.zeros_like(h, dtype=torch.float32)  # (B, C, h, w)
            # Each is asked once, with all of its rows; a guided batch holds the n twice.
            for kind, mix in mixes.items():
                rows = [i for i in range(len(h)) if kinds[i % len(kinds)] == kind]
                delta[rows] = mix(h[rows], t[rows]).to(delta)
            return delta

        return apply

    def mix(self, weights: Mapping[str, float], *, away: str | None = None) -> Mix:
        """A weighted sum of directions: {"fear": 0.5, "anger": 0.5}. InputError as `shift`."""
        terms = dict(weights)
        if away is not None:
            terms[away] = terms.get(away, 0.0) - sum(weights.values())
        for name in terms:
            one_of(name, self.emotions, "direction")
        used = {name: weight for name, weight in terms.items() if name in self.shifts and weight}
        return Mix([self.shifts[name] for name in used], tuple(used.values()))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file in half precision: what is lost is far below the shifts' noise."""
        kinds = {Table: "table", Network: "network"}
        about = {name: getattr(self, name) for name in ABOUT}
        about["kinds"] = {name: kinds[type(shift)] for name, shift in self.shifts.items()}
        tensors = {
            f"{name}/{part}": _stored(value)
            for name, shift in self.shifts.items()
            for part, value in shift.state_dict().items()
        }
        save_tensors(path, tensors, {"format": FORMAT, "about": json.dumps(about)})


class Mix(nn.Module):
    """A weighted sum of shifts, each asked with the same h."""

    def __init__(self, shifts: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.shifts, self.weights = nn.ModuleList(shifts), tuple(weights)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """Broadcasts over h (B, C, h, w) at timesteps t (B,)."""
        terms = (weight * shift(h, t) for weight, shift in zip(self.weights, self.shifts, strict=True))
        return sum(terms, torch.zeros_like(h[:1]))


ABOUT = tuple(name for name in Directions.__dataclass_fields__ if name != "shifts")
"""What a file's header says, besides the kinds of the shifts."""


def made_for(
    backbone: Backbone,
    shifts: Mapping[str, nn.Module],
    source: str | None,
    prompt: str,
    method: str,
    place: str,
    **more: Any,
) -> Directions:
    """Make the bank of `shifts` that were found in this model's h-space at `place`."""
    size, width = hspace.channels(backbone.unet, place), backbone.unet.config.cross_attention_dim
    return Directions(shifts, source or "", prompt, backbone.name, size, width, method, place, **more)


def load_directions(path: str | Path) -> Directions:
    """Read what `Directions.save` wrote. InputError: no such file, another kind of file, a damaged one."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; {HOW}")
    tensors, metadata = load_tensors(path)
    try:
        about = json.loads(metadata["about"])
        shifts = {name: _shift(kind, name, tensors) for name, kind in about["kinds"].items()}
        about = {"t_edit": T_EDIT, "t_start": 1000, **about}  # older files do not say
        return Directions(shifts, **{name: about[name] for name in ABOUT})
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path}: holds no h-space directions, or damaged ones; {HOW}") from None


def load_shipped_directions() -> Directions:
    """The directions that came with MiniSD: networks that lead from any emotion to each of the nine,
    trained on pairs of EmoFaces' train people.

    InputError where they are not there."""
    return load_directions(repo_path(MINISD.folder, "hspace.safetensors"))


def _stored(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value.clone()  # tables may share their timesteps


def _shift(kind: str, name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    state = {
        key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name
    }
    if kind == "table":
        return Table(state["delta"], state["timesteps"])
    hidden, channels = state["first.weight"].shape[:2]
    network = Network(channels, hidden, state["time.weight"].shape[1] // 2)
    network.load_state_dict(state)
    return network.requires_grad_(False)
