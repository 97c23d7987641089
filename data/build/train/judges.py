"""The judges (guide and held-out): small image classifiers, trained from nothing.

A judge has eleven outputs: nine emotion logits in the order of EMOFACES, then valence and arousal, each
through tanh.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from emolib.emotions.sets import EMOFACES
from emolib.runtime import pick_device, repo_path, write_json
from train import appearance, data, files, options
from train.loop import train

LABELS = (*EMOFACES, "valence", "arousal")
HALF = {"guide": 0, "heldout": 1}


def network(kind: str, labels: tuple[str, ...]) -> nn.Module:
    """A randomly initialised classifier: "guide" is a ResNet, "heldout" a RegNetY."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    if kind == "heldout":
        # A ConvNeXt was tried first: from random weights it stays at chance for 40,000 pictures.
        config = RegNetConfig(
            embedding_size=32, hidden_sizes=[48, 96, 160, 256], depths=[1, 2, 3, 2], groups_width=16, **names
        )
        return RegNetForImageClassification(config)
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[2] * 4, layer_type="basic", **names
    )
    return ResNetForImageClassification(config)


def judge_loss(logits: torch.Tensor, emotion: torch.Tensor, affect: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the nine emotions plus the squared error of valence and arousal."""
    logits = logits.float()
    kind = F.cross_entropy(logits[:, :9], emotion, label_smoothing=0.05)
    return kind + F.mse_loss(torch.tanh(logits[:, 9:]), affect)


@torch.no_grad()
def outputs(model: nn.Module, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Logits (N, labels) float32 of pictures (N, 3, H, W): uint8, or float in [-1, 1]."""
    parts = images.split(batch)
    return torch.cat([model(x if x.is_floating_point() else data.pixels(x)).logits.float() for x in parts])


def calibrate(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The temperature with the least cross entropy on these logits, and the calibration error with it (ECE,
    15 equal bins; Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3 and section 4.2)."""
    grid = torch.logspace(math.log10(0.2), math.log10(10), 400).tolist()
    temperature = min(grid, key=lambda t: float(F.cross_entropy(logits / t, labels)))
    confidence, guess = (logits / temperature).softmax(1).max(1)
    bins = (confidence * 15).long().clamp(max=14)
    gaps = [
        float(
            (confidence[bins == b].mean() - (guess == labels)[bins == b].float().mean()).abs()
            * (bins == b).sum()
        )
        for b in bins.unique()
    ]
    return {"temperature": temperature, "ece": sum(gaps) / len(labels)}


def save(model: nn.Module, folder: Path, size: int, name: str, numbers: dict) -> None:
    """fp16 weights, configuration, the preprocessing of pictures of `size` px, and `numbers` as NAME.json."""
    half, square = [0.5] * 3, {"height": size, "width": size}
    with files.whole_folder(folder) as temporary:
        files.save_half(model, temporary)
        ViTImageProcessorPil(size=square, image_mean=half, image_std=half, resample=3).save_pretrained(
            temporary
        )
        write_json(temporary / f"{name}.json", numbers)


def train_judge(kind: str, args) -> None:
    """Train the guide or the held-out judge on its half of the people, calibrate it on val, save it."""
    plan = options.plan(args, f"judge-{kind}")
    device = pick_device(plan.device)
    people, val = data.load("train", args.data, renders=args.renders), data.load("val", args.data).to(device)
    people = people.keep(data.halves(people.frame) == HALF[kind]).to(device)
    torch.manual_seed(plan.seed)
    model = network(kind, LABELS)

    def losses(model, step, draw):
        rows = data.batch_rows(len(people), plan.batch, plan.seed, step).to(device)
        x = appearance.vary(people, rows, draw)
        return {"loss": judge_loss(model(x).logits, people.emotion[rows], people.affect[rows])}

    def evaluate(model, step):
        logits = outputs(model, val.images)
        error = (torch.tanh(logits[:, 9:]) - val.affect).abs().mean(0)
        right = float((logits[:, :9].argmax(1) == val.emotion).float().mean())
        return {
            "val_accuracy": right,
            "val_valence_error": float(error[0]),
            "val_arousal_error": float(error[1]),
        }

    trained = train(plan, model, losses, evaluate=evaluate)
    found = calibrate(outputs(trained, val.images)[:, :9], val.emotion)
    numbers = found | {"labels": list(EMOFACES), "n": len(val)}
    save(trained, args.out / kind, people.images.shape[-1], "calibration", numbers)
    print(f"saved {args.out / kind}; val: temperature {found['temperature']:.3f}, ECE {found['ece']:.3f}")


def main() -> None:
    text = "Trains one of the judges."
    parser = options.parser("judges", text, steps=4000, batch=64, lr=2e-3, ema=0.998, weight_decay=0.05)
    parser.add_argument("kind", choices=tuple(HALF))
    parser.add_argument("--out", type=Path, default=repo_path("data", "judges"), help="default data/judges")
    args = parser.parse_args()
    train_judge(args.kind, args)


if __name__ == "__main__":
    options.run(main)
