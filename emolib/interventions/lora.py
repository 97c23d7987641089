"""LoRA (Hu et al. 2021, arXiv 2106.09685) in a UNet: W + scale B A beside the frozen W, and its files.

peft puts the layers in. Here alpha is the rank everywhere, so that W + (alpha / rank) B A is W + B A and
every program reads a file alike. The text encoder is left alone: what is learned there is lost between
versions of diffusers and transformers that name its layers differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from emolib import __version__
from emolib.data.files import load_tensors, save_tensors
from emolib.runtime import InputError, first_line, in_range

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

    from emolib.diffusion.backbone import Backbone

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Ends of the names of the layers that are adapted: all attention, as in diffusers' training scripts."""
Scale = float | Sequence[float] | Tensor
"""How often a change is taken: a number, negative allowed, or one for each of n pictures."""

_PREFIX, _DOWN, _UP = "unet.", ".lora_A.weight", ".lora_B.weight"
_KOHYA = "lora_unet_"
_count = itertools.count()


@dataclass(frozen=True, eq=False)
class Lora:
    """Low-rank changes of the layers of one model's UNet.

    layers   {name of a layer: (A, B)}: (r, in) and (out, r); of a convolution (r, in, k, k), (out, r, 1, 1)
    model    name of the base model
    emotion, steps, licence   for the file
    template  of the prompts that it was trained with, see `words.TEMPLATE`; a slider's names no emotion
    """

    layers: Mapping[str, tuple[Tensor, Tensor]]
    model: str = ""
    emotion: str = ""
    steps: int = 0
    licence: str = ""
    template: str = ""

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max(len(a) for a, _ in self.layers.values())

    def check(self, unet: nn.Module) -> None:
        """InputError unless these are changes of layers that `unet` has."""
        own = dict(unet.named_modules())
        for name, (a, b) in self.layers.items():
            weight = getattr(own.get(name), "weight", None)
            if weight is None or (len(b), *a.shape[1:]) != tuple(weight.shape):
                has = "has no such layer" if weight is None else f"its layer is {tuple(weight.shape)}"
                raise InputError(
                    f"this LoRA was made for {self.model or 'another model'}: {name} takes"
                    f" {(len(b), *a.shape[1:])}, but this model {has}; use it with its own base"
                )


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply B A into the change of the weight: (out, in) or (out, in, k, k)."""
    return (b.flatten(1) @ a.flatten(1)).unflatten(1, a.shape[1:])


def factorise(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find the (A, B) of this rank nearest to a change of a weight (out, in, ...), by SVD (Eckart-Young)."""
    u, s, v = torch.linalg.svd(change.flatten(1).float(), full_matrices=False)
    root = s[:rank].sqrt()
    a, b = (root[:, None] * v[:rank]), (u[:, :rank] * root)
    return a.unflatten(1, change.shape[1:]), b.unflatten(1, (rank, *(1,) * (change.ndim - 2)))


def start_lora(
    backbone: Backbone, rank: int, generator: torch.Generator, *, targets: Sequence[str] = TARGETS
) -> Lora:
    """Make the LoRA that training starts from: A normal with deviation 1 / rank (diffusers), B zero.

    targets  ends of the names of linear and convolutional layers. InputError: a rank above a layer's width
    """
    layers = {}
    for name, layer in backbone.unet.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and name.endswith(tuple(targets)):
            out, *inside = layer.weight.shape
            in_range(rank, 1, min(out, math.prod(inside)), f"rank of {name}")
            a = torch.randn((rank, *inside), generator=generator) / rank
            layers[name] = a, torch.zeros(out, rank, *(1,) * (len(inside) - 1))
    return Lora(layers, backbone.name)


class Attached:
    """A LoRA in a UNet, for as long as `lora` lasts. `scale` may be changed at any time.

    parameters  {layer: (A, B)}, float32 and trainable if so asked
    """

    def __init__(self, parameters: Mapping[str, tuple[nn.Parameter, nn.Parameter]], scale: Scale) -> None:
        self.parameters, self.scale = parameters, scale

    def copy(self, like: Lora) -> dict[str, tuple[Tensor, Tensor]]:
        """Give the present values, layer by layer, as `like` orders them."""
        return {name: tuple(p.detach().cpu().clone() for p in self.parameters[name]) for name in like.layers}


@contextmanager
def lora(
    backbone: Backbone, change: Lora | str | Path, scale: Scale = 1.0, *, trainable: bool = False
) -> Iterator[Attached]:
    """Within, the UNet's weights are W + scale B A. Nests, several add up; leaving restores what was before.

        with lora(backbone, "awe.safetensors", 0.7):
            editor(images, "neutral", generator=generator)

    A and B stay float32 whatever the network computes in. InputError: what `load_lora` and `Lora.check`
    refuse, a scale that is not finite."""
    change = change if isinstance(change, Lora) else load_lora(change)
    finite = torch.as_tensor(scale, dtype=torch.float32).isfinite().all()
    if not finite:
        raise InputError(f"the scale of a LoRA must be a finite number, not {scale}")
    change.check(backbone.unet)
    name, hooks = f"lora{next(_count)}", []
    try:
        layers = _inject(backbone.unet, name, change)
        attached = Attached(
            {key: _fill(layer, name, change.layers[key]) for key, layer in layers.items()}, scale
        )
        for pair in attached.parameters.values():
            for parameter in pair:
                parameter.requires_grad_(trainable)
        hooks += [
            layer.register_forward_pre_hook(partial(_set_scale, name, attached)) for layer in layers.values()
        ]
        yield attached
    finally:
        for hook in hooks:
            hook.remove()
        _remove(backbone.unet, name)


def _inject(unet: nn.Module, name: str, change: Lora) -> dict[str, LoraLayer]:
    """Put empty layers of the right ranks into the UNet; those outside stay as active as they were."""
    from peft import LoraConfig, inject_adapter_in_model

    ranks = {key: len(a) for key, (a, _) in change.layers.items()}
    config = LoraConfig(r=1, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
    with torch.random.fork_rng(devices=[]):  # peft draws a start that is not used
        inject_adapter_in_model(config, unet, name)
    del unet.peft_config
    for _, layer in _find_layers(unet):
        layer.set_adapter(list(layer.lora_A), inference_mode=True)
    own = dict(unet.named_modules())
    return {key: own[key] for key in ranks}


def _fill(layer: LoraLayer, name: str, pair: tuple[Tensor, Tensor]) -> tuple[nn.Parameter, nn.Parameter]:
    parameters = layer.lora_A[name].weight, layer.lora_B[name].weight
    for parameter, value in zip(parameters, pair, strict=True):
        parameter.data = value.detach().to(parameter.device, torch.float32, copy=True)
    return parameters


def _remove(unet: nn.Module, name: str) -> None:
    for path, layer in _find_layers(unet):
        layer.delete_adapter(name)
        if layer.lora_A:
            layer.set_adapter(list(layer.lora_A), inference_mode=True)
        else:
            unet.set_submodule(path, layer.get_base_layer())


def _find_layers(unet: nn.Module) -> list[tuple[str, LoraLayer]]:
    from peft.tuners.lora import LoraLayer

    return [(path, module) for path, module in unet.named_modules() if isinstance(module, LoraLayer)]


def _set_scale(name: str, attached: Attached, layer: LoraLayer, args: tuple) -> None:
    layer.scaling[name] = _spread(attached.scale, args[0])


def _spread(scale: Scale, x: Tensor) -> float | Tensor:
    """Lay one scale for each of n pictures along a batch x of n rows or several times n, (B, 1, ...)."""
    if isinstance(scale, (int, float)):
        return float(scale)
    rows = torch.as_tensor(scale).to(x)
    return rows.repeat(len(x) // len(rows)).view(-1, *(1,) * (x.ndim - 1))


@contextmanager
def only_rows(unet: nn.Module, rows: Scale) -> Iterator[None]:
    """Within, every LoRA in `unet` is taken `rows` times more: 0 is the plain network, bit for bit; or one
    factor for each of n pictures, e.g. 0 for those that are walked as they are."""

    def weigh(layer: LoraLayer, args: tuple) -> None:
        for name in layer.lora_A:
            layer.scaling[name] = layer.scaling[name] * _spread(rows, args[0])

    hooks = [layer.register_forward_pre_hook(weigh) for _, layer in _find_layers(unet)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def merged(backbone: Backbone, change: Lora, scale: float = 1.0) -> Iterator[None]:
    """Within, scale B A is added into the weights themselves: no cost per evaluation, equal to `lora` but for
    rounding. The weights are restored from copies, bit for bit (to subtract would not)."""
    change.check(backbone.unet)
    weights = {name: backbone.unet.get_submodule(name).weight.data for name in change.layers}
    copies = {name: weight.clone() for name, weight in weights.items()}
    try:
        for name, (a, b) in change.layers.items():
            weights[name] += scale * product(a, b).to(weights[name])
        yield
    finally:
        for name, weight in weights.items():
            weight.copy_(copies[name])


def save_lora(change: Lora, path: str | Path, *, kohya: bool = False) -> None:
    """Write a LoRA, atomically, under the names of diffusers and peft, or of kohya (A1111, ComfyUI too).

    The header holds emotion, base_model, rank, steps, licence. InputError unless it can be written."""
    tensors = {}
    for name, (a, b) in change.layers.items():
        if kohya:
            stem = _KOHYA + name.replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
            tensors[f"{stem}.alpha"] = torch.tensor(float(len(a)))
        else:
            tensors |= {f"{_PREFIX}{name}{_DOWN}": a, f"{_PREFIX}{name}{_UP}": b}
    header = {
        "emotion": change.emotion,
        "base_model": change.model,
        "rank": str(change.rank),
        "steps": str(change.steps),
        "licence": change.licence,
        "template": change.template,
        "software": f"emolib {__version__}",
    }
    save_tensors(path, tensors, header)


def load_lora(path: str | Path) -> Lora:
    """Read a LoRA of a UNet in the names of diffusers and peft, or of kohya.

    kohya's alpha, where it is not the rank, is multiplied into B. InputError: no such file, half-written,
    other entries (the first is named), a text encoder's, a rank above a layer's width."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; `emolib lora train` makes one")
    tensors, header = load_tensors(path)
    text = next((key for key in tensors if key.startswith(("lora_te", "text_encoder"))), None)
    if text:
        raise InputError(
            f"{path}: changes the text encoder too ({text}), whose layers versions of diffusers and"
            " transformers name differently and lose; use a LoRA of the UNet alone"
        )
    try:
        layers = _read_layers(_from_kohya(tensors) if next(iter(tensors), "").startswith(_KOHYA) else tensors)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"{path}: not a LoRA of a UNet: {first_line(error)}") from None
    steps = header.get("steps", "")
    facts = {key: header.get(key, "") for key in ("emotion", "licence", "template")}
    return Lora(layers, header.get("base_model", ""), steps=int(steps) if steps.isdecimal() else 0, **facts)


def _read_layers(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pair the entries up. ValueError, naming the first that is none of a LoRA."""
    layers = {}
    for key in [key for key in tensors if key.startswith(_PREFIX) and key.endswith(_DOWN)]:
        a, b = tensors.pop(key), tensors.pop(key.replace(_DOWN, _UP), None)
        name = key.removeprefix(_PREFIX).removesuffix(_DOWN)
        if b is None or a.ndim not in (2, 4) or a.ndim != b.ndim or b.shape[1] != len(a):
            raise ValueError(f"{key} has no fitting counterpart")
        if len(a) > min(len(b), a[0].numel()):
            raise ValueError(f"rank {len(a)} is larger than the layer {name}, {len(b)} x {a[0].numel()}")
        layers[name] = a, b
    if tensors or not layers:
        raise ValueError(f"{len(tensors)} unknown entries, the first is {next(iter(tensors), 'none')}")
    return layers


def _from_kohya(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give kohya's entries the names of peft, by diffusers' own rules. ValueError, KeyError."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_unet_state_dict_to_peft

    for stem in [key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")]:
        alpha, rank = float(tensors.pop(f"{stem}.alpha")), len(tensors[f"{stem}.lora_down.weight"])
        if alpha != rank:
            tensors[f"{stem}.lora_up.weight"] = tensors[f"{stem}.lora_up.weight"] * (alpha / rank)
    state, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors)
    return convert_unet_state_dict_to_peft(state)
