"""Opening picture files that nobody vouches for: odd kinds, broken, hostile."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from emolib import images
from emolib.runtime import InputError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise_picture(width=12, height=8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


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
        assert opened.mode == "RGB"
        assert np.array_equal(opened, picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    # Undo what the tag says to do, store that, and opening must give the picture back.
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    picture = noise_picture()
    stored = picture if undo is None else picture.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(images.open_image(encoded(stored, exif=exif)), picture)


def test_broken_exif_does_not_matter():
    picture = noise_picture()
    assert np.array_equal(images.open_image(encoded(picture, exif=b"Exif\x00\x00II*\x00\xff\xff")), picture)


def test_palette_and_bilevel():
    picture = Image.new("RGB", (4, 4), GREEN)
    assert images.open_image(encoded(picture.quantize(4))).getpixel((1, 1)) == GREEN
    assert images.open_image(encoded(Image.new("1", (4, 4), 1))).getpixel((1, 1)) == (255, 255, 255)


def test_transparency_lies_over_white():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 2, 4))
    opened = images.open_image(encoded(half))
    assert opened.getpixel((0, 0)) == BLUE
    assert opened.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    opened = images.open_image(encoded(palette, transparency=0))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), BLUE]
    grey = Image.new("LA", (2, 2), (0, 0))
    assert images.open_image(encoded(grey)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_is_scaled_not_clipped():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    opened = np.asarray(images.open_image(encoded(Image.fromarray(values))))
    assert opened[0, :, 0].tolist() == [0, 1, 128, 255]
    opened = np.asarray(images.open_image(encoded(Image.fromarray(values), "TIFF")))
    assert opened[0, :, 1].tolist() == [0, 1, 128, 255]


def test_float_and_32_bit_tiff():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    assert np.asarray(images.open_image(encoded(unit, "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]
    ints = Image.fromarray(np.array([[0, 65535, 6553]], dtype=np.int32))
    assert np.asarray(images.open_image(encoded(ints, "TIFF")))[0, :, 0].tolist() == [0, 255, 25]


def test_cmyk_jpeg():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = images.open_image(encoded(cyan, "JPEG", quality=95)).getpixel((4, 4))
    assert red < 30
    assert green > 200
    assert blue > 200


def test_colour_profiles_are_converted_and_broken_ones_ignored():
    picture = Image.new("RGB", (4, 4), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert images.open_image(encoded(picture, icc_profile=srgb)).getpixel((0, 0)) == (200, 100, 50)
    assert images.open_image(encoded(picture, icc_profile=b"rubbish")).getpixel((0, 0)) == (200, 100, 50)
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


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.open_image(data).getpixel((2, 2)) == RED


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


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is text", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
)
def test_other_files_are_refused_with_a_way_out(content, tmp_path):
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(InputError, match="notes.png: not a picture .* convert it to PNG"):
        images.open_image(tmp_path / "notes.png")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="this file is missing"):
        images.open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a directory"):
        images.open_image(tmp_path)


def test_stereo_jpeg_of_some_cameras_opens():
    pair = encoded(noise_picture(), "MPO", save_all=True, append_images=[noise_picture(seed=1)], quality=95)
    assert images.open_image(pair).size == (12, 8)
