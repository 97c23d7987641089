"""What an editor is made of: networks, judges and tensors in its fields, and a digest of their weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emolib.judges.emotion import Judge

if TYPE_CHECKING:
    from emolib.diffusion.backbone import Backbone


def inside(value: Any) -> Iterator[Any]:
    """The backbones, judges, networks and tensors that an editor holds, however deep in its fields."""
    if is_judge(value) or isinstance(value, (torch.nn.Module, Tensor)) or hasattr(value, "unet"):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from inside(getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from inside(item)
    elif isinstance(value, Mapping):
        yield from inside(list(value.values()))


def is_judge(part: Any) -> bool:
    return isinstance(part, Judge)


def weights(part: Backbone | Judge | torch.nn.Module | Tensor) -> str:
    """Digest of all parameters of a backbone, judge or network, or of a tensor."""
    if isinstance(part, Tensor):
        values = [("", part)]
    elif isinstance(part, torch.nn.Module) or is_judge(part):
        values = list((part.network if is_judge(part) else part).state_dict().items())
    else:
        modules = [m for m in part.pipe.components.values() if isinstance(m, torch.nn.Module)]
        values = [pair for module in modules for pair in module.state_dict().items()]
    total = hashlib.sha256()
    for name, value in values:
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
