"""Pictures: files that nobody vouches for, tensors and back, crop, feather, paste, provenance."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from emolib import images
from emolib.runtime import InputError


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise_picture(width=12, height=8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_tensor_round_trip_is_exact_for_every_value():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = images.to_tensor(Image.fromarray(values))
    assert (tensor.shape, tensor.dtype) == ((1, 3, 16, 16), torch.float32)
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
    pair = images.beside(Image.new("RGB", (5, 4), "red"), Image.new("RGB", (5, 4), "blue"))
    assert (
        pair.size == (10, 4) and pair.getpixel((4, 0)) == (255, 0, 0) and pair.getpixel((5, 3)) == (0, 0, 255)
    )


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
    assert corner[0, 0] == 0 and corner[5:11, 5:11].min() > 0.99
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


# Files ------------------------------------------------------------------------------------------------------


def png_claiming(width, height):
    """A valid PNG header of that size, and no pixels to speak of."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_open_to_their_pixels(file_format, tmp_path):
    picture = noise_picture()
    (tmp_path / "a").write_bytes(encoded(picture, file_format))
    for source in (tmp_path / "a", str(tmp_path / "a"), encoded(picture, file_format)):
        opened = images.open_image(source)
        assert opened.mode == "RGB" and np.array_equal(opened, picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    # Undo what the tag says to do, store that, and opening must give the picture back.
    flip = Image.Transpose
    undo = (None, flip.FLIP_LEFT_RIGHT, flip.ROTATE_180, flip.FLIP_TOP_BOTTOM)
    undo += (flip.TRANSPOSE, flip.ROTATE_90, flip.TRANSVERSE, flip.ROTATE_270)
    picture, exif = noise_picture(), Image.Exif()
    exif[0x0112] = orientation
    stored = picture if orientation == 1 else picture.transpose(undo[orientation - 1])
    assert np.array_equal(images.open_image(encoded(stored, exif=exif)), picture)


def test_broken_exif_does_not_matter():
    picture = noise_picture()
    assert np.array_equal(images.open_image(encoded(picture, exif=b"Exif\x00\x00II*\x00\xff\xff")), picture)


def test_palettes_bits_and_transparency_over_white():
    half, palette = Image.new("RGBA", (2, 1), (255, 0, 0, 0)), Image.new("P", (2, 1))
    half.putpixel((0, 0), (*BLUE, 255))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([1, 0])
    for data, expected in (
        (encoded(Image.new("RGB", (2, 1), GREEN).quantize(4)), [GREEN, GREEN]),
        (encoded(Image.new("1", (2, 1), 1)), [WHITE, WHITE]),
        (encoded(half), [BLUE, WHITE]),
        (encoded(palette, transparency=0), [BLUE, WHITE]),
        (encoded(Image.new("LA", (2, 1), (0, 0))), [WHITE, WHITE]),
    ):
        assert [images.open_image(data).getpixel((x, 0)) for x in (0, 1)] == expected


@pytest.mark.parametrize(
    ("values", "file_format", "grey"),
    [
        (np.uint16([[0, 257, 128 * 257, 65535]]), "PNG", [0, 1, 128, 255]),
        (np.uint16([[0, 257, 128 * 257, 65535]]), "TIFF", [0, 1, 128, 255]),
        (np.float32([[0.0, 0.5, 1.0, np.nan]]), "TIFF", [0, 128, 255, 0]),
        (np.int32([[0, 65535, 6553]]), "TIFF", [0, 255, 25]),
    ],
)
def test_deep_pictures_are_scaled_not_clipped(values, file_format, grey):
    opened = np.asarray(images.open_image(encoded(Image.fromarray(values), file_format)))
    assert (opened == np.array(grey)[None, :, None]).all()


def test_cmyk_jpeg():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = images.open_image(encoded(cyan, "JPEG", quality=95)).getpixel((4, 4))
    assert red < 30 and green > 200 and blue > 200


def test_colour_profiles_are_converted_and_broken_ones_ignored():
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"rubbish"):
        assert images.open_image(encoded(picture, icc_profile=profile)).getpixel((0, 0)) == (200, 100, 50)
    lab = Image.new("L", (4, 4), 128)
    assert images.open_image(encoded(lab, icc_profile=srgb)).getpixel((0, 0)) == (128, 128, 128)


def test_a_long_text_does_not_hide_the_pixels(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 2**22, zip=True)
    path = tmp_path / "drawn.png"
    picture = noise_picture()
    picture.save(path, pnginfo=texts)
    assert images.open_image(path).tobytes() == picture.tobytes()
    assert images.open_image(path.read_bytes()).tobytes() == picture.tobytes()
    assert images.read_provenance(path) is None


@pytest.mark.parametrize("file_format", ["GIF", "MPO"])  # MPO: the stereo JPEG of some cameras
def test_of_several_frames_the_first_is_opened(file_format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    red, _, blue = images.open_image(data).getpixel((2, 2))
    assert red > 250 and blue < 5


@pytest.mark.parametrize(("width", "height"), [(11_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_decoding(width, height):
    with pytest.raises(InputError, match="scale it down"):
        images.open_image(png_claiming(width, height))


def test_the_pixel_limit_is_the_callers():
    picture = encoded(noise_picture(12, 8))
    assert images.open_image(picture, max_pixels=96).size == (12, 8)
    with pytest.raises(InputError, match="12 x 8"):
        images.open_image(picture, max_pixels=95)


def test_every_truncation_is_an_input_error_or_opens():
    data = encoded(noise_picture(40, 40), "JPEG")
    for cut in range(0, len(data) - 2, 37):
        with pytest.raises(InputError):
            images.open_image(data[:cut])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]), st.data())
def test_corrupted_bytes_open_or_give_an_input_error(file_format, data):
    damaged = bytearray(encoded(noise_picture(), file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        assert images.open_image(bytes(damaged)).mode == "RGB"
    except InputError as error:
        assert "\n" not in str(error)


def test_other_files_folders_and_nothing_are_refused_with_a_way_out(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for content in (b"", b"hello, this is text", b"%PDF-1.7\n", eps, b"\x80\x04\x95pickle"):
        (tmp_path / "notes.png").write_bytes(content)
        with pytest.raises(InputError, match="notes.png: not a picture .* convert it to PNG"):
            images.open_image(tmp_path / "notes.png")
    with pytest.raises(InputError, match="this file is missing"):
        images.open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a directory"):
        images.open_image(tmp_path)
