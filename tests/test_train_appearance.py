"""The changes that carry renders over to photographs, and the landmark network that learns on them."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from train import appearance, landmarks, standin

from emolib.data.framing import LANDMARKS

SIZE = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def faces():
    """Eight pictures of smooth colour, masks of a disc, points spread over the middle."""
    coarse = torch.rand(8, 3, 8, 8, generator=seeded(3)) * 2 - 1
    x = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(-1, 1)
    at = torch.arange(SIZE) - SIZE / 2 + 0.5
    masks = ((at**2 + at[:, None] ** 2) < (0.3 * SIZE) ** 2).float().expand(8, 1, SIZE, SIZE)
    points = 16 + 32 * torch.rand(8, len(LANDMARKS), 2, generator=seeded(4))
    return x, masks, points


def spot(points: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, SIZE, SIZE) of a soft bright spot about the first point."""
    at = torch.arange(SIZE) + 0.5
    dx, dy = at - points[:, 0, 0, None, None], at[:, None] - points[:, 0, 1, None, None]
    return 2 * torch.exp(-(dx**2 + dy**2) / 18)[:, None].expand(-1, 3, -1, -1) - 1


def test_points_stay_on_what_they_mark(faces):
    x, masks, points = faces
    pupil = LANDMARKS.index("left_pupil"), LANDMARKS.index("right_pupil")
    points[:, 0] = points[:, pupil[0]] = points[:, pupil[1]]  # the brow's two ends are told apart below
    points[:, 1] = points[:, 0]  # left and right of the first pair: the same place, so flips do not matter
    moved, _, after = appearance.frame(spot(points), masks, points, seeded(), shift=0.05, zoom=0.1)
    light = ((moved[:, 0] + 1) / 2).clamp(min=0) ** 2
    at = torch.arange(SIZE) + 0.5
    centre = torch.stack([(light * at).sum((1, 2)), (light * at[:, None]).sum((1, 2))], 1)
    centre = centre / light.sum((1, 2))[:, None]
    assert (after[:, 0] - points[:, 0]).abs().max() > 1
    assert torch.allclose(centre, after[:, 0], atol=0.6)


def test_mirrored_faces_have_their_sides_exchanged():
    left, right = LANDMARKS.index("left_eye_outer"), LANDMARKS.index("right_eye_outer")
    assert appearance.MIRRORED[left] == right and appearance.MIRRORED[right] == left
    assert appearance.MIRRORED[LANDMARKS.index("chin")] == LANDMARKS.index("chin")
    points = torch.full((16, len(LANDMARKS), 2), SIZE / 2)
    points[:, left, 0], points[:, right, 0] = 44.0, 20.0  # the person's left eye is right in the picture
    x, masks = torch.zeros(16, 3, SIZE, SIZE), torch.ones(16, 1, SIZE, SIZE)
    *_, after = appearance.frame(x, masks, points, seeded(), turn=0, zoom=0, shift=0)
    assert torch.allclose(after[:, left, 0], torch.tensor(44.0), atol=1e-4)


def test_another_background_leaves_the_person_as_they_are(faces):
    x, masks, _ = faces
    swapped = appearance.swap_background(x, masks, seeded(), chance=1)
    assert torch.equal(swapped * masks, x * masks)
    assert ((swapped - x) * (1 - masks)).abs().mean() > 0.1


def test_relit_pictures_stay_in_range_and_grey_means_grey(faces):
    x = faces[0]
    relit = appearance.relight(x, seeded(), grey=1)
    assert relit.abs().max() <= 1 and (relit - x).abs().mean() > 0.05
    assert (relit[:, 0] - relit[:, 2]).abs().max() < 1e-5


@pytest.mark.parametrize("quality", [20, 60, 90])
def test_jpeg_damages_as_a_real_encoder_does(faces, quality):
    x = faces[0][:1]
    ours = appearance.jpeg(x, torch.tensor([float(quality)]))
    picture = ((x[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    theirs = torch.from_numpy(np.array(Image.open(buffer)).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    error, gap = (theirs - x[0]).square().mean(), (theirs - ours[0]).square().mean()
    assert gap < 0.5 * error or gap < 2e-5


def test_a_rectangle_is_hidden(faces):
    x = faces[0]
    changed = (appearance.cut_out(x, seeded(), chance=1) != x).any(1).float().mean((1, 2))
    assert changed.max() <= 0.36**2 and changed.mean() > 0.005
    assert torch.equal(appearance.cut_out(x, seeded(), chance=0), x)


def test_photographs_follow_their_generator(faces):
    one, again, other = (appearance.photograph(*faces, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == faces[0].shape and one[0].abs().max() <= 1 and one[1].shape == faces[2].shape


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


def test_training_saves_a_small_file_that_opens_and_can_be_taken_up(tmp_path, monkeypatch):
    standin.write(tmp_path, {"train": 2, "val": 1})
    out, work = tmp_path / "landmarks.safetensors", tmp_path / "run"
    words = f"--data {tmp_path} --renders {tmp_path}/renders --out {out} --work {work}"
    words += " --batch 2 --warmup 0 --device cpu"
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["landmarks", *words.split(), "--steps", steps])
        landmarks.main()
    logged = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert any("val_error_as_photographs" in row for row in logged)
    assert out.stat().st_size <= 2e6
    model = landmarks.load_landmarks(out)
    assert not model.training and torch.isfinite(model(torch.zeros(1, 3, 128, 128))).all()
