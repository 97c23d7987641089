"""The landmark network: its places, its error, and a short training that can be taken up again."""

import json
import sys

import numpy as np
import pytest
import torch
from train import landmarks

from emolib.data.framing import LANDMARKS
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rendered people of train, one of val, one of concepts: noise with points in the middle."""
    where, rng = tmp_path_factory.mktemp("portraits"), np.random.default_rng(0)
    for seed in (3, 4, 8, 100_000):
        records = [{"landmarks": rng.uniform(40, 90, (len(LANDMARKS), 2)).tolist()} for _ in range(2)]
        pictures = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
        meta = np.array(json.dumps({"seed": seed, "records": records}))
        np.savez(where / f"{seed:06d}.npz", pictures=pictures, masks=pictures[..., 0], meta=meta)
    return where


def test_only_people_of_the_split_are_read(folder, tmp_path):
    images, masks, points = landmarks.load_renders(folder, "train")
    assert images.shape == (4, 3, 128, 128) and masks.shape == (4, 1, 128, 128)
    assert points.shape == (4, len(LANDMARKS), 2)
    assert len(landmarks.load_renders(folder, "val")[0]) == 2
    with pytest.raises(InputError, match="nobody of train"):
        landmarks.load_renders(tmp_path, "train")


def test_places_lie_in_the_picture_and_follow_it():
    torch.manual_seed(0)
    model = landmarks.LandmarkNet().eval()
    with torch.no_grad():
        found = model(torch.randn(3, 3, 128, 128))
    assert found.shape == (3, len(LANDMARKS), 2) and found.min() > 0 and found.max() < 1


def test_errors_are_shares_of_the_face():
    points = torch.zeros(1, len(LANDMARKS), 2)
    points[0, landmarks.EYES] = torch.tensor([[0.6, 0.4], [0.4, 0.4]])
    points[0, landmarks.MOUTH] = torch.tensor([[0.55, 0.8], [0.45, 0.8]])  # eyes to mouth: 0.4
    error = landmarks.face_errors(points + torch.tensor([0.0, 0.04]), points)
    assert torch.allclose(error, torch.full_like(error, 0.1))


def test_training_saves_a_small_file_that_opens_and_can_be_taken_up(folder, tmp_path, monkeypatch):
    out, work = tmp_path / "landmarks.safetensors", tmp_path / "run"
    words = f"--portraits {folder} --out {out} --work {work} --batch 2 --warmup 0 --device cpu"
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["landmarks", *words.split(), "--steps", steps])
        landmarks.main()
    logged = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert any("val_error_as_photographs" in row for row in logged)
    assert out.stat().st_size <= 2e6
    model = landmarks.load_landmarks(out)
    assert not model.training and torch.isfinite(model(torch.zeros(1, 3, 128, 128))).all()
