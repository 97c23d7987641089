"""The judges: emotion classifiers that measure edits. They know nothing of the methods that they judge.

Two roles with disjoint training people: the *guide* may be used inside a method, the *held-out* judge gives
the headline numbers and is used for nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from emolib.emotions import words
from emolib.emotions.sets import EMOFACES
from emolib.runtime import InputError, first_line, one_of, pick_device, repo_path

ROLES = ("guide", "heldout")
AFFECT = ("valence", "arousal")
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "calibration.json")


class Verdict(NamedTuple):
    """What a judge sees in B pictures: float32 on the CPU, wherever the pictures and the judge are.

    probs            (B, K) calibrated probabilities in the order of `Judge.labels`
    valence, arousal (B,) in [-1, 1]
    """

    probs: Tensor
    valence: Tensor
    arousal: Tensor

    @property
    def emotion(self) -> Tensor:
        """(B,) int64: the most probable label's position."""
        return self.probs.argmax(1)


class Judge:
    """A classifier with K emotion logits and two affect outputs: `judge(images) -> Verdict`. Made by `load`.

    name, labels  its role or folder name, and its K emotions in order
    size          the side it resizes every picture to, px
    mean, std     of the pixels it was trained on, scale [0, 1]
    temperature   divides the logits (Guo et al. 2017, eq. 9), fitted on validation people
    """

    def __init__(
        self,
        network: torch.nn.Module,
        name: str,
        *,
        labels: tuple[str, ...] = EMOFACES,
        temperature: float = 1.0,
        size: int = 96,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        self.network, self.name = network.eval().requires_grad_(False), name
        self.labels, self.temperature, self.size = tuple(labels), float(temperature), int(size)
        self.device = next(network.parameters()).device
        self.mean, self.std = tuple(mean), tuple(std)
        # A pixel x in [-1, 1] is (x + 1) / 2 in the units that mean and std are stated in.
        self._centre = (2 * torch.tensor(mean) - 1).view(3, 1, 1).to(self.device)
        self._spread = (2 * torch.tensor(std)).view(3, 1, 1).to(self.device)

    def __repr__(self) -> str:
        return f"Judge({self.name!r})"

    def logits(self, images: Tensor) -> Tensor:
        """Raw outputs (B, K + 2), float32 on the CPU, of (B, 3, H, W) pictures in [-1, 1]. Differentiable."""
        images = images.to(self.device)
        if tuple(images.shape[-2:]) != (self.size, self.size):
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
        # The resampling overshoots at edges; no real picture leaves the range.
        pixels = (images.clamp(-1, 1) - self._centre) / self._spread
        return self.network(pixels).logits.float().cpu()

    def __call__(self, images: Tensor, *, batch_size: int = 256) -> Verdict:
        """Judge pictures, float32 (B, 3, H, W) in [-1, 1] of any size, `batch_size` at a time."""
        return self.describe(images, batch_size=batch_size)[0]

    @torch.no_grad()
    def describe(self, images: Tensor, *, batch_size: int = 256) -> tuple[Verdict, Tensor]:
        """The verdict, and the features (B, D) that the last layer reads, float32 on the CPU, from one pass.

        The features serve Frechet distances and the like. Valence and arousal are NaN for a network that has
        no outputs for them.
        """
        seen: list[Tensor] = []
        last = [module for module in self.network.modules() if isinstance(module, torch.nn.Linear)][-1]
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
        try:
            outputs = torch.cat([self.logits(part) for part in images.split(batch_size)])
        finally:
            hook.remove()
        k = len(self.labels)
        probs = (outputs[:, :k] / self.temperature).softmax(1)
        affect = (
            outputs[:, k:].tanh() if outputs.shape[1] > k else outputs.new_full((len(outputs), 2), torch.nan)
        )
        return Verdict(probs, *affect.unbind(1)), torch.cat(seen)


def load_judge(name: str | Path, *, device: str = "auto") -> Judge:
    """Load the "guide" or "heldout" judge of `data/judges`, or a judge folder. Runs in float32.

    A folder holds a transformers image classifier of any class (`config.json`, `model.safetensors`,
    `preprocessor_config.json`) with K outputs, or K + 2, the last two valence and arousal before their tanh,
    and `calibration.json` with `temperature` and the K `labels`. Raises InputError for anything else.
    """
    where, known = pick_device(device), str(name) in ROLES
    if not known and not Path(name).is_dir():
        one_of(str(name), ROLES, "judge (or folder)")
    folder = repo_path("data", "judges", str(name)) if known else Path(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        mend = "get the repository's data/ folder, or train it with data/build"
        raise InputError(f"judge {str(name)!r}: {folder} lacks {', '.join(missing)}; {mend}")
    prepared, calibration = (_json(folder / file) for file in FILES[2:])
    try:
        network = network_of(folder)
        judge = Judge(
            network.to(where),
            str(name) if known else folder.resolve().name,
            labels=tuple(calibration["labels"]),
            temperature=calibration["temperature"],
            size=_side(prepared["size"]),
            mean=prepared["image_mean"],
            std=prepared["image_std"],
        )
    except Exception as error:  # broken files make nearly any error
        reason = first_line(error)
        raise InputError(f"{folder}: not a readable judge ({reason}); get a whole copy of it") from error
    outputs, k = network.config.num_labels, len(judge.labels)
    if outputs not in (k, k + len(AFFECT)) or judge.temperature <= 0:
        raise InputError(
            f"{folder}: {outputs} outputs and temperature {judge.temperature} do not fit"
            f" {k} labels, or {k} + {len(AFFECT)}"
        )
    return judge


def classifier(name: str | Path, *, device: str = "auto") -> Judge:
    """Any transformers image classifier as a judge of the emotions it names: a folder, or a cached Hub id.

    Its own labels, brought to ours where a word says which ("angry" is anger) and no two say the same; no
    temperature, no valence and arousal. Nothing is downloaded: InputError where it is not on this machine.
    """
    from huggingface_hub import try_to_load_from_cache

    where = pick_device(device)
    cached = None if Path(name).is_dir() else try_to_load_from_cache(str(name), "config.json")
    folder = Path(str(cached)).parent if isinstance(cached, str) else Path(name)
    if not folder.is_dir():
        raise InputError(f"judge {str(name)!r}: neither a folder nor in the local Hub cache; fetch it first")
    try:
        network, prepared = network_of(folder), _json(folder / FILES[2])
        names = network.config.id2label
        return Judge(
            network.to(where),
            str(name) if isinstance(cached, str) else folder.resolve().name,
            labels=_own_labels([str(names[i]) for i in range(network.config.num_labels)]),
            size=_side(prepared["size"]),
            mean=prepared["image_mean"],
            std=prepared["image_std"],
        )
    except Exception as error:  # broken files make nearly any error
        reason = first_line(error)
        raise InputError(
            f"{folder}: not a readable image classifier ({reason}); get a whole copy of it"
        ) from error


def _own_labels(names: list[str]) -> tuple[str, ...]:
    meant = []
    for name in names:
        try:
            meant.append(words.resolve(name, "emofaces-all"))
        except InputError:
            meant.append(name.casefold())
    return tuple(
        label if meant.count(label) == 1 else name.casefold()
        for name, label in zip(names, meant, strict=True)
    )


def network_of(folder: Path, *, headless: bool = False) -> torch.nn.Module:
    """The transformers image classifier in `folder`, float32. `headless` allows one whose last layer is
    missing, for its features: the layer is then noise. ValueError or OSError for a folder that is no such
    thing."""
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    head = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)][-1]
    missing = sorted(key for key in info["missing_keys"] if not (headless and key.startswith(f"{head}.")))
    if missing:  # transformers would fill them with noise and only warn
        raise ValueError(f"weights lack {missing[0]}")
    return network


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def _side(size: dict[str, int] | int) -> int:
    """The side that a processor's `size` means: an int, {"height", "width"} or {"shortest_edge"}."""
    if isinstance(size, int):
        return size
    return size["height"] if "height" in size else size["shortest_edge"]
