"""How pictures are prepared for networks: as their own image processors do it, differentiably."""

import json

import numpy as np
import pytest
import torch
from judge_standins import judge_folder
from PIL import Image
from skimage import data
from transformers import AutoImageProcessor

from emolib import images
from emolib.data.preparation import load_preparation
from emolib.judges import emotion

SQUARE = {"height": 48, "width": 48}
HALF = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
PLAIN = {
    "squeezed, bilinear": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "resample": 2},
    "squeezed, bicubic": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "resample": 3},
    "of old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 48, "resample": 2},
    "cropped": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": SQUARE,
        "resample": 3,
    },
    "crop_pct": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 48},
        "crop_pct": 0.75,
    },
    "large with crop_pct": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "not normalised": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "do_normalize": False},
}
ODD = {
    "blue, green, red": {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": SQUARE,
    },
    "a size of its own": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 64}},
}


def photograph():
    """160 x 240, not square."""
    return Image.fromarray(data.astronaut()).crop((60, 0, 300, 160))


def prepared(folder, settings):
    """(ours, the processor's own) pixels of a photograph."""
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(HALF | settings))
    theirs = AutoImageProcessor.from_pretrained(folder)(photograph(), return_tensors="pt")["pixel_values"]
    return load_preparation(folder)(images.to_tensor(photograph())), theirs


@pytest.mark.parametrize("settings", PLAIN.values(), ids=PLAIN)
def test_what_the_processor_says_is_done_and_differentiable(settings, tmp_path):
    ours, theirs = prepared(tmp_path, settings)
    torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0)  # it works on 8-bit pictures
    prepare = load_preparation(tmp_path)
    assert prepare.processor is None and prepare.side == theirs.shape[-2]
    shown = images.to_tensor(photograph()).requires_grad_()
    prepare(shown).sum().backward()
    assert shown.grad.abs().sum() > 0


@pytest.mark.parametrize("settings", ODD.values(), ids=ODD)
def test_a_processor_that_does_something_else_does_it_itself(settings, tmp_path):
    ours, theirs = prepared(tmp_path, settings)
    torch.testing.assert_close(ours, theirs)


def test_a_judge_sees_the_middle_of_a_photograph_that_its_processor_crops(tmp_path):
    network = judge_folder(tmp_path / "hub", "vit", names=["angry", "sad"])
    (tmp_path / "hub" / "calibration.json").unlink()
    settings = {**PLAIN["cropped"], "crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 40}}
    _, pixels = prepared(tmp_path / "hub", settings)
    judge = emotion.load_judge(tmp_path / "hub", device="cpu")
    with torch.no_grad():
        expected = network(pixels).logits
    torch.testing.assert_close(judge.logits(images.to_tensor(photograph())), expected, atol=1e-2, rtol=1e-2)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 33, 3), dtype=np.uint8))
    assert judge(images.to_tensor(noise)).probs.shape == (1, 2)
