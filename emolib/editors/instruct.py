"""Instruction editors of diffusers: told "make the person look angry", they draw the picture anew.

Nothing outside a face is safe from them: `PerPerson` around one keeps the rest of the picture. They are
called as diffusers has them, one picture at a time; what differs between them is the table `FAMILIES`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from emolib import images as pictures
from emolib.diffusion import hub
from emolib.diffusion.backbone import MEMORY
from emolib.diffusion.presets import INSTRUCT, Preset
from emolib.editors.base import SinglePictureEditor
from emolib.emotions import words
from emolib.runtime import InputError, first_line, in_range, one_of, pick_device, pick_dtype, reading

SHORT = "make the {description} look {word}"
TEMPLATE = SHORT + ", change nothing else"
KEEPING = (
    "Make the {description} look {word}. Keep the same person, pose and background, change nothing else."
)


@dataclass(frozen=True)
class Family:
    """How the pipelines of one class are called.

    template  of the instruction; may use {article}, {word} and {description}
    guidance  name of the argument that says how much the instruction rules
    sized     takes height and width; else it draws at its own size
    more      further arguments
    encode    the method that encodes instructions
    needs     a package beside diffusers and transformers
    """

    template: str = TEMPLATE
    guidance: str = "guidance_scale"
    sized: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)
    encode: str = "encode_prompt"
    needs: str = "torch"


# Its guidance_scale does nothing; transformers' processor for it wants torchvision, for videos.
_QWEN = Family(guidance="true_cfg_scale", more={"negative_prompt": " "}, needs="torchvision")
FAMILIES: Mapping[str, Family] = {
    "StableDiffusionInstructPix2PixPipeline": Family(SHORT, sized=False, encode="_encode_prompt"),
    "StableDiffusionXLInstructPix2PixPipeline": Family(SHORT),
    # It resizes to its trained shapes unless told not to; `fit_size` comes to the same ones.
    "FluxKontextPipeline": Family(KEEPING, more={"_auto_resize": False}),
    "Flux2KleinPipeline": Family(KEEPING),
    "QwenImageEditPipeline": _QWEN,
    "QwenImageEditPlusPipeline": _QWEN,
    "LongCatImageEditPipeline": Family(sized=False, needs="torchvision"),
}
"""Class of diffusers -> how it is called."""


class InstructModel:
    """A pipeline of one of the `FAMILIES`. Made by `load_model`.

    name, pipe    the model's name and diffusers' object
    family        how it is called
    unet          the network that denoises, a transformer in the newer ones; named as in `Backbone`
    size, stride  the side whose square it draws, and of what both sides must be a multiple, px
    """

    def __init__(self, pipe: DiffusionPipeline, name: str) -> None:
        self.pipe, self.name = pipe, name
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        self.family = FAMILIES[one_of(type(pipe).__name__, FAMILIES, "instruction pipeline")]
        self.unet = getattr(pipe, "transformer", None) or pipe.unet
        latent = getattr(pipe, "default_sample_size", None) or pipe.unet.config.sample_size
        self.size: int = latent * pipe.vae_scale_factor
        self.stride: int = pipe.image_processor.config.vae_scale_factor

    def __repr__(self) -> str:
        return self.name

    @property
    def preset(self) -> Preset:
        """Give what is known of it: the margin around faces."""
        return Preset(self.name, self.size, {})

    @property
    def template(self) -> str:
        """Give the template of its instructions."""
        return self.family.template


@dataclass(frozen=True)
class Instruct(SinglePictureEditor):
    """An `Editor` that tells a diffusers pipeline in words what to change.

    The picture is brought to the model's area, edited, and brought back to its own size.

    strength             where on the line from the instruction for "neutral" (0) to that for the emotion (1)
                         the text's embedding lies, also beyond 1 (PixelSmile, Hua et al. 2026); by the
                         `Editor` contract 0 is the source itself. Where the two texts differ in length,
                         tokens that the neutral one has not are the emotion's
    guidance_scale, num_inference_steps  None: the pipeline's own
    template             None: that of the model's family
    """

    model: InstructModel
    strength: float = 1.0
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        in_range(self.strength, 0, 2, "strength")

    def edit_one(
        self, source: Tensor, emotion: str, description: str, generator: torch.Generator | None
    ) -> Tensor:
        """Edit one picture (1, 3, H, W) as the instruction says."""
        pipe, family = self.model.pipe, self.model.family
        text, neutral = (
            words.prompt(label, description, self.template or self.model.template)
            for label in (emotion, "neutral")
        )
        height, width = fit_size(*source.shape[-2:], self.model.size, self.model.stride)
        options = {"num_inference_steps": self.num_inference_steps, family.guidance: self.guidance_scale}
        options = {name: value for name, value in options.items() if value is not None} | family.more
        if family.sized:
            options |= {"height": height, "width": width}
        if "_auto_resize" in family.more:
            options["max_area"] = height * width
        picture = pictures.to_pil(pictures.resize(source, (height, width)))[0]
        with hub.quiet(), _between(pipe, family.encode, neutral, text, self.strength):
            result = pipe(image=picture, prompt=text, generator=generator, output_type="pt", **options)
        edited = result.images.float().cpu().mul(2).sub(1).clamp(-1, 1)
        return pictures.resize(edited, source.shape[-2:]).to(source.device)


def fit_size(height: int, width: int, side: int, multiple: int) -> tuple[int, int]:
    """Choose (height, width) in px: a picture's shape, a square's area, multiples of `multiple`."""
    scale = side / math.sqrt(height * width)
    return tuple(max(round(length * scale / multiple), 1) * multiple for length in (height, width))


@contextmanager
def _between(pipe: Any, name: str, neutral: str, text: str, strength: float) -> Iterator[None]:
    """Let the pipeline's encoder answer `text` with a point on the line from `neutral` to it; 1 is `text`."""
    encode: Callable = getattr(pipe, name)

    def encode_between(*args: Any, **options: Any) -> Any:
        end = encode(*args, **options)
        if text not in (options.get("prompt"), *args[:1]):  # what guidance leads away from
            return end
        start = (
            encode(*args, **options | {"prompt": neutral})
            if "prompt" in options
            else encode(neutral, *args[1:], **options)
        )
        return _mix(start, end, strength)

    if strength != 1:
        setattr(pipe, name, encode_between)
    try:
        yield
    finally:
        vars(pipe).pop(name, None)


def _mix(start: Any, end: Any, strength: float) -> Any:
    """Walk from start to end, embeddings or tuples of them; masks and positions are the end's."""
    if isinstance(end, tuple):
        return tuple(_mix(a, b, strength) for a, b in zip(start, end, strict=True))
    if not isinstance(end, Tensor) or not end.is_floating_point():
        return end
    n = min(start.shape[1], end.shape[1])  # of (B, L, D), as many tokens as both have; of (B, D), all of it
    return torch.cat([torch.lerp(start[:, :n], end[:, :n], strength), end[:, n:]], 1)


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto", memory: str = "auto", lora: Path | None = None
) -> InstructModel:
    """Load an instruction editor: an alias of `presets.INSTRUCT`, a diffusers folder, or a Hub id.

    Licence and memory of an alias are printed first; the class is checked before any weights are fetched.

    dtype   "auto": bfloat16 on CUDA (InstructPix2Pix: float16), float32 elsewhere
    memory  "fast": everything stays on the device; "balanced" (CUDA's "auto"): networks take turns on it, the
            VAE works in tiles; "low": layer by layer, slow
    lora    a safetensors file of a LoRA to add

    InputError: nothing there, a class that is no instruction editor, a LoRA that does not fit.
    """
    one_of(memory, MEMORY, "memory option")
    place, path = pick_device(device), name
    if name in INSTRUCT:
        about = INSTRUCT[name]
        path = about.repository
        print(f"{name}: {path}; licence: {about.licence}; memory: {about.memory}", file=sys.stderr)
    kind = hub.find_index(path).get("_class_name")
    family = FAMILIES[one_of(str(kind), FAMILIES, f"instruction pipeline in {path}:")]
    if find_spec(family.needs) is None:
        raise InputError(f"{name}: a {kind} needs {family.needs}; pip install {family.needs}")
    half = "float16" if "Pix2Pix" in kind else "bfloat16"
    weights = pick_dtype(place, half if dtype == "auto" and place.type == "cuda" else dtype)
    without = {"safety_checker": None} if kind == "StableDiffusionInstructPix2PixPipeline" else {}
    with hub.quiet(), reading(path, "instruction editor"):
        pipe = DiffusionPipeline.from_pretrained(path, dtype=weights, use_safetensors=True, **without)
    if lora is not None:
        add_lora(pipe, lora)
    _place(pipe, place, memory)
    title = Path(name).resolve().name if Path(name).is_dir() else name
    return InstructModel(pipe, title if lora is None else f"{title}+{lora.stem}")


def _place(pipe: DiffusionPipeline, device: torch.device, memory: str) -> None:
    """Set what `memory` says."""
    memory = {"auto": "balanced" if device.type == "cuda" else "fast"}.get(memory, memory)
    if memory != "fast":
        pipe.vae.enable_tiling()
    if memory == "fast" or device.type != "cuda":
        pipe.to(device)
    elif memory == "balanced":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_sequential_cpu_offload(device=device)


def add_lora(pipe: DiffusionPipeline, path: Path) -> None:
    """Add the LoRA in a safetensors file. InputError: no such file, or one that does not fit the pipeline."""
    kind = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise InputError(f"{path}: diffusers adds no LoRA to a {kind}")
    if not path.is_file():
        raise InputError(f"{path}: this file is missing")
    fault = f"{path}: this LoRA does not fit a {kind}"
    try:
        with hub.quiet():
            pipe.load_lora_weights(path.parent, weight_name=path.name)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, IndexError) as error:
        raise InputError(f"{fault} ({first_line(error)})") from None
    if not pipe.get_list_adapters():
        raise InputError(f"{fault} (it names none of its layers)")
