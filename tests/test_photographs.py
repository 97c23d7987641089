"""Photographs as files: what survives an edit, and what an edit of a large one touches."""

import io
import sys

import numpy as np
import pytest
import tiny_pipelines
from PIL import Image, ImageCms

from emolib import images
from emolib.cli import main
from emolib.diffusion import backbone
from emolib.editors.person import Person, find_windows
from emolib.editors.recipe import Recipe, apply_recipe, edit_image
from emolib.runtime import InputError


def foreign_profile():
    """A profile whose red and green are exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"s\0R\0G\0B\0", b"o\0u\0r\0s\0").replace(b"\0s\0R\0G\0B", b"\0o\0u\0r\0s")
    return (
        data.replace(b"sRGB", b"ours")
        .replace(b"rXYZ", b"xXYZ")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"xXYZ", b"gXYZ")
    )


def photograph(path, mode="RGBA", side=(90, 60)):
    """A picture file with transparency, a colour profile, EXIF data and an orientation."""
    pixels = np.random.default_rng(0).integers(0, 256, (*side[::-1], len(mode)), dtype=np.uint8)
    exif = Image.Exif()
    exif.update({0x010F: "Camera", 0x0112: 6, 0x0132: "2026:01:02 03:04:05"})
    exif.get_ifd(0x8825)[1] = "N"
    extra = {"icc_profile": foreign_profile(), "exif": exif}
    extra |= {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels, mode).save(path, **extra)
    return path


@pytest.fixture
def model(monkeypatch):
    model = tiny_pipelines.tiny("sd")
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    return model


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".png", "RGBA"), (".png", "RGB"), (".webp", "RGBA"), (".jpg", "RGB")]
)
def test_transparency_profile_exif_and_size_survive_an_edit(tmp_path, model, suffix, mode):
    source = photograph(tmp_path / f"a{suffix}", mode)
    output = tmp_path / f"b{suffix}"
    command = ["edit", str(source), "--to", "awe", "-o", str(output), "--box", "8,8,28,28", "--steps", "3"]
    assert main.main([*command, "--model", str(tiny_pipelines.folder("sd"))]) == 0
    before, after = Image.open(source), Image.open(output)
    assert after.mode == mode and after.size == before.size[::-1] == (60, 90)  # turned upright
    assert after.info["icc_profile"] == before.info["icc_profile"]
    kept = after.getexif()
    assert (kept[0x010F], kept[0x0132], kept.get_ifd(0x8825)[1]) == ("Camera", "2026:01:02 03:04:05", "N")
    assert 0x0112 not in kept and images.read_provenance(output)["people"]
    stored, edited = np.asarray(images.open_original(source).stored), np.asarray(after)
    if suffix == ".jpg":
        assert after.quantization == before.quantization
        assert output.stat().st_size < 1.3 * source.stat().st_size
    else:
        assert np.array_equal(stored[..., 3:], edited[..., 3:])
    if suffix == ".png":
        assert np.array_equal(stored[60:], edited[60:]) and not np.array_equal(stored, edited)
        shown, seen = (np.asarray(images.open_image(path)).astype(int) for path in (source, output))
        assert np.abs(shown[60:] - seen[60:]).max() == 0


def test_colours_are_brought_back_into_the_files_own(tmp_path):
    """Where red and green are exchanged, a red patch is stored as green, and shown as red again."""
    original = images.open_original(photograph(tmp_path / "a.png", "RGB"))
    edited = original.rgb.copy()
    edited.paste((200, 10, 10), (5, 5, 15, 15))
    images.save_image(edited, tmp_path / "b.png", like=original)
    r, g, b = Image.open(tmp_path / "b.png").getpixel((10, 10))
    assert g > 180 and r < 60
    shown = np.array(images.open_image(tmp_path / "b.png").getpixel((10, 10)))
    assert np.abs(shown - (200, 10, 10)).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16"])
def test_other_modes_become_rgb_and_keep_their_transparency(tmp_path, mode):
    image = Image.new("RGB", (20, 20), (90, 120, 40)).convert({"I;16": "I", "LA": "LA"}.get(mode, mode))
    stream = io.BytesIO()
    image.convert("I;16").save(stream, "PNG") if mode == "I;16" else image.save(stream, "TIFF")
    original = images.open_original(stream.getvalue())
    edited = original.rgb.copy()
    edited.paste("red", (0, 0, 5, 5))
    images.save_image(edited, tmp_path / "b.png", like=original)
    saved = Image.open(tmp_path / "b.png")
    assert saved.mode == ("RGBA" if mode == "LA" else "RGB") and saved.getpixel((2, 2))[:3] == (255, 0, 0)
    assert np.array_equal(images.open_image(tmp_path / "b.png"), edited)


CROWD = [((30, 20, 60, 50), 1), ((70, 24, 100, 56), 2), ((100, 30, 120, 50), 2), ((150, 0, 170, 22), 3)]


@pytest.mark.parametrize("targets", [(0,), (3,), (0, 1, 3), (1, 2), (0, 1, 2, 3)])
def test_only_the_surroundings_of_people_become_tensors_with_the_same_result(model, targets):
    picture = images.to_pil(tiny_pipelines.pictures(1, side=180))[0].crop((0, 0, 180, 100))
    people = [
        Person(
            box, "awe" if k in targets else None, eyes=((box[0] + 8, box[1] + 9), (box[0] + 20, box[1] + 14))
        )
        for k, (box, _) in enumerate(CROWD)
    ]
    recipe = Recipe(tuple(people), method="img2img", model="sd15", num_inference_steps=3, margin=0.2)
    whole = images.to_pil(apply_recipe(recipe, model, images.to_tensor(picture)))[0]
    assert np.array_equal(edit_image(recipe, model, picture), whole)
    windows = find_windows(people, targets, 100, 180, 0.2)
    assert sorted(k for _, members in windows for k in members) == list(targets)
    assert len(windows) == {(0,): 1, (3,): 1, (0, 1, 3): 2}.get(targets, len(windows))


def test_of_a_large_photograph_only_a_crop_becomes_a_tensor(tmp_path, model, monkeypatch):
    Image.new("RGB", (6000, 4000), "teal").save(tmp_path / "a.jpg")
    sizes, to_tensor = [], images.to_tensor
    monkeypatch.setattr(images, "to_tensor", lambda x: sizes.append(x.size) or to_tensor(x))
    command = ["edit", str(tmp_path / "a.jpg"), "--to", "awe", "-o", str(tmp_path / "b.jpg"), "--steps", "3"]
    command += ["--side-by-side", str(tmp_path / "c.png")]
    command += ["--box", "100,100,300,300", "--model", str(tiny_pipelines.folder("sd"))]
    assert main.main(command) == 0
    assert sizes and max(map(max, sizes)) < 1000
    assert Image.open(tmp_path / "c.png").size == (12000, 4000)


def heic():
    return b"\0\0\0\x18ftypheic" + bytes(64)


def test_a_heic_file_names_the_package_that_reads_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.heic").write_bytes(heic())
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="a HEIC picture; pip install pillow-heif"):
        images.open_image(tmp_path / "a.heic")


def test_a_heic_file_is_opened_where_the_package_is(monkeypatch):
    stand_in = type(sys)("pillow_heif")
    opener = (lambda file, name: Image.new("RGB", (4, 4), "red"), None)
    stand_in.register_heif_opener = lambda: monkeypatch.setitem(Image.OPEN, "HEIF", opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    monkeypatch.setattr(images, "find_spec", lambda name: True)
    assert images.open_image(heic()).getpixel((0, 0)) == (255, 0, 0)
