"""Judges with random weights, in the form in which real ones are saved."""

import json

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from emolib.emotions.sets import EMOFACES

NETWORKS = {
    "resnet": lambda **names: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", **names)
    ),
    "wide": lambda **names: ResNetForImageClassification(
        ResNetConfig(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", **names)
    ),
    "convnext": lambda **names: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, **names)
    ),
    "vit": lambda **names: ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            **names,
        )
    ),
}


def judge_folder(
    path,
    kind="resnet",
    *,
    labels=EMOFACES,
    outputs=11,
    temperature=1.5,
    mean=0.5,
    std=0.5,
    names=None,
    seed=0,
):
    """A randomly initialised judge, saved as the training recipe saves them (fp16)."""
    torch.manual_seed(seed)
    more = {} if names is None else {"id2label": dict(enumerate(names))}
    network = NETWORKS[kind](**(more or {"num_labels": outputs})).eval()
    network.half().save_pretrained(path)
    square = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=square, image_mean=[mean] * 3, image_std=[std] * 3, resample=3).save_pretrained(
        path
    )
    calibration = {"temperature": temperature, "ece": 0.01, "labels": list(labels), "n": 10}
    (path / "calibration.json").write_text(json.dumps(calibration))
    return network.float()
