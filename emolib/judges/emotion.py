"""Judge emotions: classifiers that measure edits. They know nothing of the methods that they judge.

Two roles with disjoint training people: the *guide* may be used inside a method, the *held-out* judge gives
the headline numbers and is used for nothing else. Photographs have two of their own, "photo-guide" and
"photo-heldout" (`networks.NAMES`). Any transformers image classifier can judge beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from emolib.data.preparation import Preparation, load_preparation
from emolib.emotions import mappings, words
from emolib.emotions.sets import EMOFACES, EMOFACES_ALL
from emolib.judges import networks
from emolib.runtime import InputError, local_folder, nearest, pick_device, read_json, reading, repo_path

ROLES = ("guide", "heldout")
AFFECT = ("valence", "arousal")
PROCESSOR, CALIBRATION = "preprocessor_config.json", "calibration.json"
DEFAULT = Preparation()
FER_LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
"""What OpenCV's expression network sees, in its order: its file names nothing."""
SURE, UNCALIBRATED_SURE = 0.6, 0.9
"""A guess is sure at this probability: of a calibrated judge, and of one that is not and so overstates."""


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
    """A classifier with K emotion logits and perhaps two affect outputs: `judge(images) -> Verdict`.

    Made by `load_judge`.

    name, labels  its role or folder name, and its K emotions in order
    prepare       makes the network's pixels of pictures; `size` is their side, px
    temperature   divides the logits (Guo et al. 2017, eq. 9), fitted on validation people
    sure          the probability from which its answer may be relied on
    aligned       it wants faces laid on five points (`faces.align_face`), not framed as EmoFaces are
    """

    def __init__(
        self,
        network: torch.nn.Module,
        name: str,
        *,
        labels: tuple[str, ...] = EMOFACES,
        temperature: float = 1.0,
        prepare: Preparation = DEFAULT,
        sure: float = SURE,
        aligned: bool = False,
    ) -> None:
        self.network, self.name = network.eval().requires_grad_(False), name
        self.labels, self.temperature = tuple(labels), float(temperature)
        self.prepare, self.size = prepare, prepare.side
        self.sure, self.aligned = sure, aligned
        self.device = next(network.parameters()).device

    def __repr__(self) -> str:
        return f"Judge({self.name!r})"

    @property
    def role(self) -> str | None:
        """Its role: "guide", "heldout", or None for a judge that has none."""
        names = [self.name, *(short for short, hub_id in networks.NAMES.items() if hub_id == self.name)]
        return next((role for role in ROLES for name in names if name in (role, f"photo-{role}")), None)

    def find_label(self, emotion: str) -> int | None:
        """Find the position of the label that says an emotion of EmoFaces, if need be by Ekman's faces.

        A smile is happiness, whether amusement or contentment is meant. None: no label says it."""
        if emotion not in self.labels and emotion in EMOFACES_ALL and emotion != "neutral":
            table = mappings.mapping("emofaces-all", "ekman7")
            row = table.matrix[table.rows.index(emotion)]
            best = [table.columns[k] for k in (row == row.max()).nonzero()[0]]
            emotion = best[0] if len(best) == 1 else emotion
        return self.labels.index(emotion) if emotion in self.labels else None

    def logits(self, images: Tensor) -> Tensor:
        """Compute raw outputs (B, K) or (B, K + 2), float32 on the CPU, of pictures (B, 3, H, W) in [-1, 1].

        Differentiable."""
        return self._network(self.prepare(images.to(self.device)))

    def _network(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.to(self.device)).logits.float().cpu()

    def __call__(self, images: Tensor, *, batch_size: int = 256) -> Verdict:
        """Judge pictures, float32 (B, 3, H, W) in [-1, 1] of any size, `batch_size` at a time."""
        return self.describe(images, batch_size=batch_size)[0]

    @torch.no_grad()
    def describe(
        self, images: Tensor, *, batch_size: int = 256, prepared: bool = False
    ) -> tuple[Verdict, Tensor]:
        """Give the verdict, and the features (B, D) that the last layer reads, float32 on the CPU.

        The features serve Frechet distances and the like. Valence and arousal are NaN for a network that has
        no outputs for them. `prepared`: `images` are what `prepare` made.
        """
        features: list[Tensor] = []  # each (batch, D)
        head = self.network.get_submodule(find_head(self.network))
        hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float().cpu()))
        logits = self._network if prepared else self.logits
        try:
            outputs = torch.cat([logits(part) for part in images.split(batch_size)])
        finally:
            hook.remove()
        k = len(self.labels)
        probs = (outputs[:, :k] / self.temperature).softmax(1)
        affect = outputs[:, k:].tanh()  # (B, 2) or (B, 0)
        affect = affect if affect.shape[1] else outputs.new_full((len(outputs), 2), torch.nan)
        return Verdict(probs, *affect.unbind(1)), torch.cat(features)


def load_judge(name: str | Path, *, device: str = "auto") -> Judge:
    """Load a judge: a role of `data/judges` or of photographs, a folder, or a cached Hub id. Runs in float32.

    It is a transformers image classifier of any class, or one of OpenCV's. With `calibration.json` beside it
    (`temperature`, the K `labels`) it has K outputs, or K + 2, the last two valence and arousal before their
    tanh. Without, it judges the emotions that its labels name ("angry" is anger), in whichever order. Nothing
    is downloaded. InputError: nothing there, a broken folder, numbers that do not fit, odd labels.
    """
    own_folder = Path(name).is_dir() and str(name) not in ROLES
    called = Path(name).resolve().name if own_folder else str(name)
    where = pick_device(device)
    if (path := networks.find_onnx(name)) is not None:
        network, prepare = networks.OnnxNetwork(path, len(FER_LABELS)), Preparation((112, 112))
        about = {"labels": FER_LABELS, "sure": UNCALIBRATED_SURE, "aligned": True}
        return Judge(network.to(where), called, prepare=prepare, **about)
    folder = find_network(name, "judge")
    with reading(folder, "judge"):
        network, prepare = load_network(folder), load_preparation(folder)
    return Judge(network.to(where), called, prepare=prepare, **_read_calibration(folder, network.config))


def _read_calibration(folder: Path, config) -> dict:
    """Read labels, temperature and from when its answer is sure. InputError."""
    if not (folder / CALIBRATION).is_file():
        names = [str(config.id2label[i]) for i in range(config.num_labels)]
        return {"labels": _own_labels(names, folder), "sure": UNCALIBRATED_SURE}
    facts = read_json(folder / CALIBRATION)
    with reading(folder / CALIBRATION, "calibration"):
        labels, temperature = tuple(facts["labels"]), float(facts["temperature"])
    k, outputs = len(labels), config.num_labels
    if outputs not in (k, k + len(AFFECT)) or temperature <= 0:
        raise InputError(
            f"{folder}: {outputs} outputs and temperature {temperature} do not fit"
            f" {k} labels, or {k} + {len(AFFECT)}"
        )
    return {"labels": labels, "temperature": temperature}


def find_network(name: str | Path, kind: str) -> Path:
    """Find the folder of a role, of a folder's name or of a Hub id in the local cache. InputError."""
    role = str(name) in ROLES
    hub_id = networks.NAMES.get(str(name), name)
    folder = repo_path("data", "judges", str(name)) if role else local_folder(hub_id)
    if folder is None:
        known = (*ROLES, *networks.NAMES)
        guess = None if str(name) in known else nearest(str(name), known)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise InputError(
            f"{kind} {str(name)!r}: {hint}neither {' nor '.join(ROLES)}, nor a folder, nor in the local Hub"
            f" cache; fetch it first: emolib judge fetch {name}"
        )
    if not (folder / "config.json").is_file():
        mend = "get the repository's data/ folder, or train it with data/build" if role else "name another"
        raise InputError(f"{kind} {str(name)!r}: {folder} lacks config.json; {mend}")
    return folder


def _own_labels(names: list[str], folder: Path) -> tuple[str, ...]:
    """Bring a classifier's labels to our words; two that mean the same keep their own. InputError: none mean
    anything."""
    keys = [name.strip().casefold() for name in names]
    meant = [words.VOCABULARY.get(key, key) for key in keys]
    if len(set(meant) & set(words.ADJECTIVES)) < 2:
        raise InputError(
            f"{folder}: its labels ({', '.join(names[:9])}) name no two emotions; say in {CALIBRATION} beside"
            ' them what its outputs mean: {"temperature": 1, "labels": ["anger", ...]}'
        )
    return tuple(label if meant.count(label) == 1 else key for key, label in zip(keys, meant, strict=True))


def load_network(folder: Path, *, headless: bool = False) -> torch.nn.Module:
    """Load the transformers image classifier in `folder`, float32.

    `headless` allows one whose last layer is missing, for its features: the layer is then noise. Without
    safetensors `model.onnx` is taken, which has no features. ValueError or OSError for a folder that is no
    such thing.
    """
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    onnx = folder / networks.ANY_ONNX
    if onnx.is_file() and not any(folder.glob("*.safetensors")) and not headless:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        network = networks.OnnxNetwork(onnx, config.num_labels)
        network.config = config
        return network
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    head = find_head(network)
    missing = sorted(key for key in info["missing_keys"] if not (headless and key.startswith(f"{head}.")))
    if missing:  # transformers would fill them with noise and only warn
        raise ValueError(f"weights lack {missing[0]}")
    return network


def find_head(network: torch.nn.Module) -> str:
    """Find the last linear layer: the name of what turns a classifier's features into logits."""
    return [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)][-1]
