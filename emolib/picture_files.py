"""Picture files that nobody vouches for, opened safely. Without torch, so that bad ones are refused at once.

`images` passes this on; import it from there wherever torch is loaded anyhow.
"""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from emolib.runtime import InputError, check_output, first_line

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded."""

# Only decoders that never start another program (EPS runs Ghostscript) and are well exercised.
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def open_image(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture file (a path, or its bytes) that nobody vouches for: upright, 8-bit, sRGB, mode RGB.

    EXIF rotation is applied, an embedded colour profile converted, transparency laid over white, 16-bit
    scaled down, CMYK and palettes resolved; an animation gives its first frame. Raises InputError if the file
    is missing, not a picture of a known format, truncated or broken, or has more than `max_pixels`.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    stream = io.BytesIO(source) if isinstance(source, bytes) else _stream(Path(source))
    try:
        with stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about bombs and odd metadata; the limit is ours
            with Image.open(stream, formats=READABLE) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise InputError(_too_large(name, f"{width} x {height}", max_pixels))
                image.load()
                return _to_rgb(_upright(image))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_too_large(name, "enormous", max_pixels)) from None
    except Image.UnidentifiedImageError:
        known = "PNG, JPEG, WebP, GIF, BMP or TIFF"
        raise InputError(f"{name}: not a picture in a format read here; convert it to {known}") from None
    except Exception as error:  # a decoder fed hostile bytes raises nearly anything
        reason = first_line(error)
        raise InputError(f"{name}: broken or truncated picture ({reason}); get a whole copy of it") from None


def _stream(path: Path) -> BinaryIO:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: not a file; give a picture file")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _too_large(name: str, size: str, limit: int) -> str:
    return f"{name}: {size} pixels is more than the {limit / 1e6:.0f} million read here; scale it down first"


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # malformed EXIF says nothing about the picture: leave it as it lies
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # a broken profile: take the colours as sRGB
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode != "RGB" or "srgb" not in ImageCms.getProfileDescription(given).lower():
                srgb = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB") or image
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    if image.mode.startswith("I;16"):
        top = 65535.0
    else:  # 32-bit integers or floats say nothing of their white: the smallest usual one that holds them
        steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((step for step in steps if values.max() <= step), values.max())
    return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))


def writable_format(path: str | os.PathLike[str]) -> str:
    """The format that a path's suffix names: PNG, JPEG or WEBP. Raises InputError for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise InputError(f"{path}: pictures are written as {', '.join(WRITABLE)}; change the suffix")
    return WRITABLE[suffix]


def check_edit(output: str | os.PathLike[str], picture: str | os.PathLike[str]) -> None:
    """InputError unless the edit of `picture` can be written to `output`, as far as can be known before."""
    output, picture = Path(output), Path(picture)
    check_output(output)
    if output.exists() and picture.exists() and output.samefile(picture):
        raise InputError(f"output {str(output)!r} is the source picture; give another name")
    writable_format(output)
