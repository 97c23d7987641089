"""Pictures as tensors and back: exact round trips, crop, feather, paste, provenance."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emolib import images
from emolib.runtime import InputError


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise_picture(width=12, height=8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_tensor_round_trip_is_exact_for_every_value():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = images.to_tensor(Image.fromarray(values))
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(images.to_pil(tensor)[0], values)


def test_batches_keep_their_order_and_sizes_must_agree():
    pictures = [noise_picture(seed=i) for i in range(3)]
    back = images.to_pil(images.to_tensor(pictures))
    assert all(np.array_equal(a, b) for a, b in zip(back, pictures, strict=True))
    with pytest.raises(ValueError, match="same shape"):
        images.to_tensor([noise_picture(8, 8), noise_picture(9, 8)])


def test_out_of_range_values_are_clipped():
    tensor = torch.tensor([-3.0, 0.0, 3.0]).expand(3, 1, 3)
    assert np.asarray(images.to_pil(tensor)[0])[0, :, 0].tolist() == [0, 128, 255]


def test_resize_keeps_constants_range_and_identity():
    flat = torch.full((1, 3, 10, 14), 0.25)
    assert torch.allclose(images.resize(flat, (33, 7)), torch.tensor(0.25), atol=1e-6)
    picture = images.to_tensor(noise_picture())
    assert images.resize(picture, (8, 12)) is picture
    scaled = images.resize(picture, 31)
    assert scaled.shape == (1, 3, 31, 31)
    assert scaled.abs().max() <= 1


def test_square_box_centres_grows_and_stays_inside():
    assert images.square_box((10, 10, 20, 20), 100, 100) == (10, 10, 20, 20)
    assert images.square_box((10, 10, 20, 20), 100, 100, margin=0.5) == (5, 5, 25, 25)
    assert images.square_box((0, 40, 10, 60), 100, 100) == (0, 40, 20, 60)  # shifted in from the left
    assert images.square_box((90, 90, 100, 100), 100, 100, margin=1) == (70, 70, 100, 100)
    assert images.square_box((0, 0, 100, 50), 50, 100) == (25, 0, 75, 50)  # as large as fits


def test_the_middle_square():
    wide = torch.arange(5.0).expand(1, 3, 2, 5)
    assert images.crop_middle(wide)[0, 0].tolist() == [[1, 2], [1, 2]]
    assert torch.equal(images.crop_middle(wide.mT), images.crop_middle(wide).mT)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (-1, 0, 4, 4), (0, 0, 101, 4), (0, 0, 4, 51)])
def test_impossible_boxes(box):
    with pytest.raises(InputError, match="inside the 100 x 50 picture"):
        images.square_box(box, 50, 100)


def test_feather_lies_inside_and_picture_borders_are_no_rim():
    mask = torch.zeros(20, 30)
    mask[:, :15] = 1  # touches the left, upper and lower border
    opacity = images.feather(mask, 4)
    assert (opacity[mask == 0] == 0).all()
    assert (opacity[:, :11] > 0.999).all()
    # A box blur of width 9 sees, c columns left of the rim, (4 + 1 + c) / 9 of the mask (c = 0 at the rim).
    expected = torch.tensor([2 * (5 + c) / 9 - 1 for c in range(4)])
    assert torch.allclose(opacity[10, 11:15].flip(0), expected, atol=1e-6)
    assert torch.equal(images.feather(mask, 0), mask)
    assert torch.allclose(images.feather(torch.ones(5, 5), 3), torch.ones(5, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_feather_is_the_clipped_box_blur(seed, width):
    mask = (torch.rand((13, 17), generator=torch.Generator().manual_seed(seed)) > 0.4).float()
    padded = torch.nn.functional.pad(mask[None, None], (width,) * 4, mode="replicate")
    blurred = torch.nn.functional.avg_pool2d(padded, 2 * width + 1, stride=1)[0, 0]
    expected = (2 * blurred - 1).clamp(0, 1) * mask
    torch.testing.assert_close(images.feather(mask, width), expected, rtol=0, atol=1e-6)


def test_pictures_beside_each_other():
    a, b = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 2)
    pair = images.beside(a, b)
    assert pair.shape == (2, 3, 4, 7)
    assert torch.equal(images.crop(pair, (5, 0, 7, 4)), b)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 5))
def test_paste_leaves_everything_outside_bit_identical(seed, width):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand((2, 3, 16, 20), generator=generator) * 2 - 1
    patch = torch.rand((2, 3, 9, 7), generator=generator) * 2 - 1
    mask = torch.rand((16, 20), generator=generator) > 0.3
    opacity = images.feather(mask, width)
    before, box = picture.clone(), (4, 3, 11, 12)
    pasted = images.paste(picture, patch, box, opacity)
    assert torch.equal(picture, before)  # a copy
    changed = torch.zeros(16, 20, dtype=torch.bool)
    changed[3:12, 4:11] = mask[3:12, 4:11]
    assert torch.equal(pasted[..., ~changed], picture[..., ~changed])
    if width == 0:
        assert torch.equal(images.crop(pasted, box)[..., mask[3:12, 4:11]], patch[..., mask[3:12, 4:11]])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_saved_pictures_carry_their_provenance(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    record = {"method": "img2img", "emotion": "awe", "strength": 0.6, "prompt": "фото"}
    images.save_image(images.to_tensor(noise_picture()), path, provenance=record)
    saved = images.read_provenance(path)
    assert saved.pop("software").startswith("emolib ")
    assert saved == record
    assert images.open_image(path).size == (12, 8)


def test_png_is_lossless_and_plain_files_have_no_provenance(tmp_path):
    picture = noise_picture()
    images.save_image(picture, tmp_path / "a.png")
    assert np.array_equal(images.open_image(tmp_path / "a.png"), picture)
    assert images.read_provenance(tmp_path / "a.png") is None


def test_rotation_by_right_angles_is_exact_and_turns_the_stated_way():
    square = torch.rand((1, 3, 7, 7), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert images.rotate(square, 0.0) is square
    quarter = images.rotate(square, np.pi / 2)
    torch.testing.assert_close(quarter, square.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.rotate(quarter, -np.pi / 2), square, rtol=0, atol=1e-5)
    corner = images.rotate(torch.ones(1, 3, 16, 16), np.pi / 4, corners="zeros")[0, 0]
    assert corner[0, 0] == 0
    assert corner[5:11, 5:11].min() > 0.99
    assert images.rotate(torch.ones(1, 3, 8, 8), np.pi / 4).min() > 0.99


def test_source_metadata_does_not_leak(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    source = images.open_image(encoded(noise_picture(), "JPEG", exif=exif))
    images.save_image(source, tmp_path / "a.jpg", provenance={"method": "none"})
    assert b"SecretCamera" not in (tmp_path / "a.jpg").read_bytes()


def test_failed_writes_leave_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="change the suffix"):
        images.save_image(noise_picture(), tmp_path / "a.xyz")
    with pytest.raises(InputError, match="does not exist"):
        images.save_image(noise_picture(), tmp_path / "none" / "a.png")
    (tmp_path / "old.png").write_bytes(b"old")

    def disk_full(self, path, *args, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", disk_full)
    with pytest.raises(InputError, match="No space left"):
        images.save_image(noise_picture(), tmp_path / "old.png")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_a_picture_as_webp_and_as_an_address_that_holds_it():
    picture = noise_picture(8, 6)
    exact = images.encode_webp(images.to_tensor(picture), 20, lossless=True, method=1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(exact))), np.asarray(picture))
    assert len(images.encode_webp(picture, 20)) < len(exact)
    head, _, data = images.data_uri(exact).partition(",")
    assert head == "data:image/webp;base64" and base64.b64decode(data) == exact
    assert images.data_uri(b"x", "png") == "data:image/png;base64,eA=="
