"""Pictures in and out: PIL <-> tensor, crop, resize, paste, saving with provenance; opening untrusted files.

The one range convention: float32 (B, 3, H, W) in [-1, 1]. Nothing else in emolib converts.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import struct
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin
from torch import Tensor
from torch.nn import functional as F

from emolib import __version__
from emolib.runtime import BROKEN, InputError, atomic_write, check_output, reading

Box = tuple[int, int, int, int]
"""[x0, y0, x1, y1] in pixels; x1 and y1 are outside."""

_SOFTWARE, _DESCRIPTION = 0x0131, 0x010E  # EXIF tags


def to_tensor(images: Image.Image | Sequence[Image.Image]) -> Tensor:
    """Turn PIL picture(s) into float32 (B, 3, H, W) in [-1, 1]. ValueError if their sizes differ."""
    images = [images] if isinstance(images, Image.Image) else list(images)
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def to_pil(images: Tensor) -> list[Image.Image]:
    """Turn (B, 3, H, W) or (3, H, W) in [-1, 1] into 8-bit PIL pictures; values outside are clipped.

    `to_pil(to_tensor(picture))` is the picture, bit for bit."""
    images = images.detach()[None] if images.ndim == 3 else images.detach()
    pixels = images.float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def resize(images: Tensor, size: int | tuple[int, int], *, mode: str = "bicubic") -> Tensor:
    """Resample (B, 3, H, W) to `size` (a side, or height and width), antialiased, cut off at [-1, 1].

    mode  "bicubic" or "bilinear"
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True).clamp(-1, 1)


def square_box(box: Sequence[int], height: int, width: int, *, margin: float = 0.0) -> Box:
    """The square around `box`, wider by `margin` of its longer side on each side, shifted into the picture.

    Smaller than asked where the picture is. Raises InputError if `box` is empty or not inside the picture.
    """
    x0, y0, x1, y1 = (int(value) for value in box)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(f"box {x0},{y0},{x1},{y1} is not x0<x1, y0<y1 inside the {width} x {height} picture")
    side = min(round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)), height, width)
    left = min(max((x0 + x1 - side) // 2, 0), width - side)
    top = min(max((y0 + y1 - side) // 2, 0), height - side)
    return left, top, left + side, top + side


def crop(images: Tensor, box: Box) -> Tensor:
    """The part of (B, 3, H, W) inside `box`; a view, not a copy."""
    x0, y0, x1, y1 = box
    return images[..., y0:y1, x0:x1]


def crop_middle(images: Tensor) -> Tensor:
    """Cut the middle square out of (B, 3, H, W), as large as it fits; a view, not a copy."""
    height, width = images.shape[-2:]
    return crop(images, square_box((0, 0, width, height), height, width))


def rotate(images: Tensor, angle: float, *, corners: str = "border") -> Tensor:
    """Turn square pictures (B, C, S, S) about their centre, `angle` radians anticlockwise as seen; bicubic.

    What comes in at the corners repeats the "border" or is "zeros". Itself at angle 0.
    """
    if angle == 0:
        return images
    sin, cos = math.sin(angle), math.cos(angle)
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).to(images).expand(len(images), 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode=corners, align_corners=False)


def feather(mask: Tensor, width: int) -> Tensor:
    """Opacity (H, W) for pasting under `mask` (H, W; nonzero is inside): 0 at the rim, rising to 1 inside.

    The slope is `width` pixels wide and lies inside the mask, so that nothing outside changes; the picture's
    own border is no rim."""
    inside = (mask != 0).float()
    if width > 0:
        sums = F.pad(inside[None, None], (width,) * 4, mode="replicate")[0, 0]
        size = 2 * width + 1
        for dim in (0, 1):  # running sums, exact in float32: a wide rim costs no more than a narrow one
            total = F.pad(sums.cumsum(dim), (1, 0) if dim else (0, 0, 1, 0))
            count = total.shape[dim] - size
            sums = total.narrow(dim, size, count) - total.narrow(dim, 0, count)
        inside = (2 * sums / size**2 - 1).clamp(0, 1) * inside  # the blur is 1/2 on a straight rim
    return inside


def paste(images: Tensor, patch: Tensor, box: Box, opacity: Tensor) -> Tensor:
    """A copy of `images` (B, 3, H, W) with `patch` (B, 3, h, w) laid into `box` under `opacity` (H, W).

    Where opacity is 0, and outside `box`, the result is `images` bit for bit; where it is 1, `patch`."""
    x0, y0, x1, y1 = box
    out = images.clone()
    out[..., y0:y1, x0:x1] = torch.lerp(crop(images, box), patch, opacity[y0:y1, x0:x1].to(patch))
    return out


def beside(*pictures: Image.Image) -> Image.Image:
    """Lay RGB pictures of one size next to each other."""
    row = np.concatenate([np.asarray(picture) for picture in pictures], axis=1)
    return Image.fromarray(row)


def save_image(
    image: Image.Image | Tensor,
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, object] | None = None,
    like: Original | None = None,
) -> None:
    """Write one picture (PIL, or (3, H, W) / (1, 3, H, W) in [-1, 1]) atomically, format by suffix.

    `provenance` (JSON values) goes into the file's metadata with emolib's version. Transparency, colour
    profile, EXIF data (place and camera, too) and JPEG quality are those of the file `like`, of which the
    picture is an edit; without it nothing of a source's is kept. InputError: an unknown suffix, a folder that
    is not there, a full disk.
    """
    file_format = writable_format(path)
    image = to_pil(image)[0] if isinstance(image, Tensor) else image
    options: dict = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}[
        file_format
    ]
    exif = Image.Exif()
    if like is not None:
        image, exif = _lay_over(like, image), like.exif
        if file_format == "JPEG" and like.jpeg:
            options = dict(like.jpeg)
        options["icc_profile"] = image.info.get("icc_profile")
        if exif:
            options["exif"] = exif
    if file_format == "JPEG" and image.mode != "RGB":
        image = _to_rgb(image)
    if provenance is not None:
        software = f"emolib {__version__}"
        record = json.dumps({"software": software, **provenance}, default=str)
        if file_format == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_text("Software", software)
            options["pnginfo"].add_text("Description", record)
        else:
            exif.update({_SOFTWARE: software, _DESCRIPTION: record})
            options["exif"] = exif
    with atomic_write(path) as temporary:
        try:
            image.save(temporary, file_format, **options)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be written as {file_format} ({error})") from None


def encode_webp(
    picture: Image.Image | Tensor, quality: int = 82, *, lossless: bool = False, method: int = 4
) -> bytes:
    """Encode one picture (PIL, or (1, 3, H, W) in [-1, 1]) as WebP.

    quality  0 to 100; of a lossless picture, how hard it is pressed
    method   0 (fast) to 6 (small)"""
    stream = io.BytesIO()
    image = to_pil(picture)[0] if isinstance(picture, Tensor) else picture
    image.save(stream, "WEBP", quality=quality, lossless=lossless, method=method)
    return stream.getvalue()


def data_uri(data: bytes, kind: str = "webp") -> str:
    """Write the bytes of a picture file as an address that holds them, for pages that load nothing."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def read_provenance(path: str | os.PathLike[str]) -> dict | None:
    """Read what `save_image` recorded in the file's metadata; None if it is not one of emolib's."""
    with suppress(TypeError, ValueError):  # ValueError: also of a PNG's text that Pillow finds too long
        with Image.open(path, formats=READABLE) as image:
            record = image.info.get("Description") or image.getexif().get(_DESCRIPTION)
        value = json.loads(record)
        if isinstance(value, dict) and str(value.get("software", "")).startswith("emolib"):
            return value
    return None


MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded."""

# Only decoders that never start another program (EPS runs Ghostscript) and are well exercised.
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_PNG = b"\x89PNG\r\n\x1a\n"
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# What Pillow's decoders raise at hostile bytes.
_DECODER_ERRORS = (
    *BROKEN,
    struct.error,
    SyntaxError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
)


class Original(NamedTuple):
    """A decoded picture file: what `open_image` makes of it, and what an edit of it is to keep.

    rgb     8-bit sRGB, mode RGB
    stored  upright, with the file's own mode, transparency and colour profile
    exif    its metadata, less the orientation
    jpeg    options with which it was compressed, if it is a JPEG
    """

    rgb: Image.Image
    stored: Image.Image
    exif: Image.Exif
    jpeg: dict[str, Any]


def _lay_over(original: Original, edited: Image.Image) -> Image.Image:
    """Lay what an RGB edit changed over the file's own picture; what else is there stays bit for bit.

    Colours of a file that is neither RGB nor RGBA become sRGB; its transparency stays."""
    stored = original.stored
    if stored.mode not in ("RGB", "RGBA"):
        result = edited.copy()
        if stored.has_transparency_data:
            result.putalpha(stored.convert("RGBA").getchannel("A"))
        return result
    changes = ImageChops.difference(edited, original.rgb).split()
    changed = ImageChops.lighter(ImageChops.lighter(*changes[:2]), changes[2]).point(lambda v: 255 * (v > 0))
    result, box = stored.copy(), changed.getbbox()
    if box is not None:
        patch = edited.crop(box)
        if (profile := _read_profile(stored.info.get("icc_profile"), "RGB")) is not None:
            patch = ImageCms.profileToProfile(patch, ImageCms.createProfile("sRGB"), profile) or patch
        if stored.mode == "RGBA":
            patch.putalpha(stored.crop(box).getchannel("A"))
        result.paste(patch, box, changed.crop(box))
    return result


def open_image(
    source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, name: str = "the picture"
) -> Image.Image:
    """Decode a picture file (a path, or its bytes) that nobody vouches for: upright, 8-bit, sRGB, mode RGB.

    EXIF rotation is applied, an embedded colour profile converted, transparency laid over white, 16-bit
    scaled down, CMYK and palettes resolved; an animation gives its first frame. InputError if the file is
    missing, not a picture of a known format, truncated or broken, or has more than `max_pixels`. `name`: what
    messages call a picture given as bytes.
    """
    return open_original(source, max_pixels=max_pixels, name=name).rgb


def open_original(
    source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, name: str = "the picture"
) -> Original:
    """Decode a picture file as `open_image` does, and keep what else it holds."""
    name = name if isinstance(source, bytes) else str(source)
    with (
        reading(name, "picture", _DECODER_ERRORS),
        warnings.catch_warnings(),
        io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file,
    ):
        warnings.simplefilter("ignore")  # Pillow warns about bombs and odd metadata; the limit is ours
        try:
            image = Image.open(_without_text(file), formats=_formats(file, name))
            size = f"{image.width} x {image.height}" if image.width * image.height > max_pixels else ""
        except Image.DecompressionBombError:
            size = "enormous"
        except Image.UnidentifiedImageError:
            formats = "PNG, JPEG, WebP, GIF, BMP or TIFF"
            raise InputError(
                f"{name}: not a picture in a format read here; convert it to {formats}"
            ) from None
        if size:
            limit = f"{max_pixels / 1e6:.0f} million read here"
            raise InputError(f"{name}: {size} pixels is more than the {limit}; scale it down first")
        image.load()
        jpeg = {}
        if image.format == "JPEG" and image.mode == "RGB":
            jpeg = {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
        stored, exif = _upright(image), Image.Exif()
        with suppress(*_DECODER_ERRORS):
            exif = stored.getexif()
        return Original(_to_rgb(stored), stored, exif, jpeg)


def _formats(file: BinaryIO, name: str) -> tuple[str, ...]:
    """List the formats to try; HEIF, which phones write, is read by a package that may be installed."""
    start = file.read(12)
    file.seek(0)
    if start[4:8] != b"ftyp" or start[8:11] not in (b"hei", b"hev", b"mif", b"msf"):
        return READABLE
    if find_spec("pillow_heif") is None:
        raise InputError(f"{name}: a HEIC picture; pip install pillow-heif to read it, or save it as JPEG")
    import_module("pillow_heif").register_heif_opener()
    return (*READABLE, "HEIF")


def _without_text(stream: BinaryIO) -> BinaryIO:
    """The file without a PNG's texts: Pillow refuses long ones, such as the workflows of diffusion editors.

    Texts that may hold the orientation stay."""
    data = stream.read() if stream.read(len(_PNG)) == _PNG else b""
    stream.seek(0)
    if not data:
        return stream
    kept, start = [_PNG], 0
    while start < len(data):  # a chunk: length, kind, content, checksum
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        text = data[start + 4 : start + 8] in (b"tEXt", b"zTXt", b"iTXt")
        if not text or data[start + 8 : end].startswith((b"XML:com.adobe.xmp", b"Raw profile type exif")):
            kept.append(data[start:end])
        start = end
    return io.BytesIO(b"".join(kept))


def _upright(image: Image.Image) -> Image.Image:
    with suppress(*_DECODER_ERRORS):  # malformed EXIF says nothing about the picture: leave it as it lies
        return ImageOps.exif_transpose(image)
    return image


def _read_profile(data: bytes | None, mode: str) -> ImageCms.ImageCmsProfile | None:
    """Read the colour profile of a picture of this mode; None where it is sRGB, broken or missing."""
    if data and mode in ("RGB", "CMYK", "L"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # a broken profile: take the colours as sRGB
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            if mode != "RGB" or "srgb" not in ImageCms.getProfileDescription(profile).lower():
                return profile
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    data = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    if (profile := _read_profile(data, image.mode)) is not None:
        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # one that does not fit the pixels
            srgb = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image
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
    """Look up the format that a path's suffix names: PNG, JPEG or WEBP. InputError for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise InputError(f"{path}: pictures are written as {', '.join(WRITABLE)}; change the suffix")
    return WRITABLE[suffix]


def check_edit(output: str | os.PathLike[str], picture: str | os.PathLike[str]) -> None:
    """InputError unless the edit of `picture` can be written to `output`, as far as can be known before."""
    check_output(output, [picture])
    writable_format(output)
