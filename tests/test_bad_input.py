"""Bad input on the command line: exit code 2, one line that says what and how to mend it, nothing written."""

import io
import os
import struct
import sys
import zlib

import pytest
import tiny_pipelines
from PIL import Image

from emolib import diffusion
from emolib.cli import edit, main
from emolib.diffusion import backbone

GOOD = {"picture": "good.png", "--to": "anger", "-o": "out.png", "--model": "minisd", "--box": "4,4,40,40"}


def encoded(mode="RGB", size=(64, 48), file_format="PNG"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


def bomb(width, height):
    """A PNG that claims to be that large, in a hundred bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with good and bad files, and no model anywhere."""
    files = {
        "good.png": encoded(),
        "cut.jpg": encoded(file_format="JPEG")[:700],
        "bomb.png": bomb(40_000, 40_000),
        "text.jpg": b"this is not a picture\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    return tmp_path


def refused(capfd, folder, **changes):
    """Run `emolib edit` with one thing changed; the one line it answers. Nothing may be written."""
    options = {**GOOD, **changes}
    before = sorted(folder.rglob("*"))
    arguments = ["edit", options.pop("picture")]
    for name, value in options.items():
        arguments += [f"{name}={value}"] if name.startswith("--") else [name, value]
    code = main.main(arguments)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert (code, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("emolib: ") and sorted(folder.rglob("*")) == before
    return lines[0]


def test_pictures_that_cannot_be_read(folder, capfd):
    refusals = {"none.png": "this file is missing", "cut.jpg": "get a whole copy", ".": "is a directory"}
    refusals |= {"bomb.png": "scale it down", "text.jpg": "convert it to PNG"}
    for name, says in refusals.items():
        line = refused(capfd, folder, picture=name)
        assert name in line and says in line


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_picture_without_permission(folder, capfd):
    (folder / "good.png").chmod(0)
    assert "cannot be read" in refused(capfd, folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--to": "angr"}, "did you mean 'angry'?"),
        ({"--to": "zzzz"}, "choose among neutral, amusement"),
        ({"--to": ""}, "no emotion is known"),
        ({"--to": "happiness"}, "could be amusement or contentment or excitement"),
        ({"--model": "minsd"}, "did you mean 'minisd'?"),
        ({"--model": "stable diffusion"}, "give minisd, sd15, sd21, sdxl, a folder, or a Hub id"),
        ({"--model": "minisd"}, "MiniSD is not in"),
        ({"--model": "sd15"}, "the Hub cannot be reached"),
        ({"--model": "someone/something"}, "the Hub cannot be reached"),
        ({"--budget": "1"}, "--budget is for --method hosted"),
        ({"--model": "."}, "has no model_index.json"),
        ({"--model": "good.png"}, "not a diffusers model folder"),
        ({"-o": "none/out.png"}, "folder 'none' does not exist"),
        ({"-o": "."}, "is a folder"),
        ({"-o": "out.xyz"}, "change the suffix"),
        ({"-o": "out"}, "change the suffix"),
        ({"-o": "good.png"}, "is an input of this command"),
        ({"--strength": "1.5"}, "strength must lie in [0, 1], not 1.5"),
        ({"--strength": "nan"}, "strength must lie in [0, 1], not nan"),
        ({"--box": "1,2,3"}, "give four whole numbers"),
        ({"--box": "a,b,c,d"}, "give four whole numbers"),
        ({"--box": "0,0,65,48"}, "inside the 64 x 48 picture"),
        ({"--memory": "lo"}, "did you mean 'low'"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_options_that_cannot_be_followed(folder, capfd, changes, says):
    assert says in refused(capfd, folder, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--margin": "nan"}, "margin must lie in [0, 4], not nan"),
        ({"--margin": "-1"}, "margin must lie in [0, 4], not -1.0"),
        ({"--margin": "1e300"}, "margin must lie in [0, 4], not 1e+300"),
        ({"--seed": "9" * 23}, "seed must lie in [-9223372036854775808, "),
        ({"--steps": "0"}, "steps (num_inference_steps) must lie in [1, 1000], not 0"),
        ({"--guidance-scale": "inf"}, "guidance_scale must lie in [-1000, 1000], not inf"),
        ({"--token": "none.safetensors"}, "none.safetensors: no such file"),
        ({"--box": "10,10,5,20"}, "with 0 <= X0 < X1"),
        ({"--box": "10,10,20,10"}, "with 0 <= X0 < X1 and 0 <= Y0 < Y1"),
        ({"--box": "-1,10,20,20"}, "with 0 <= X0 < X1"),
        ({"--device": "gpu"}, "unknown device 'gpu'"),
        ({"--memory": "lots"}, "unknown memory option 'lots'"),
        ({"--side-by-side": "./out.png"}, "--side-by-side ./out.png: is the output itself"),
        ({"-o": "good.png/out.png"}, "'good.png' is a file; give another folder"),
        ({"-o": "o" * 300 + ".png"}, "o.png: file name too long"),
        ({"picture": "p" * 300 + ".png"}, "p.png: file name too long"),
        ({"--prompt": "a {mood} face"}, "can stand in braces"),
        ({"--to": "surprise"}, "or use a learned token: '<surprise>' with --token FILE"),
    ],
)
def test_what_can_be_known_without_a_model_is_said_at_once(folder, capfd, monkeypatch, changes, says):
    monkeypatch.delattr(diffusion, "backbone")
    monkeypatch.setitem(sys.modules, "emolib.diffusion.backbone", None)  # importing it is an error now
    assert says in refused(capfd, folder, **changes)


def test_a_folder_that_cannot_be_written_is_found_before_the_edit(folder, capfd, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setitem(sys.modules, "emolib.diffusion.backbone", None)
    assert "folder '.' is not writable" in refused(capfd, folder)


def test_memory_options_are_those_of_the_model():
    assert edit.MEMORY == backbone.MEMORY


def test_what_the_system_refuses_is_one_line(folder, capfd, monkeypatch):
    def fail(error):
        def load(name, **options):
            raise error

        monkeypatch.setattr(backbone, "load_backbone", load)

    for error, says in (
        (OSError(28, "No space left on device", "out.png"), "emolib: out.png: no space left on device"),
        (OSError(28, "No space left on device"), "emolib: no space left on device"),
        (OSError("cannot do it"), "emolib: cannot do it"),
    ):
        fail(error)
        assert refused_after_start(capfd, folder)[-1] == says


def test_settings_that_the_model_cannot_follow(folder, capfd):
    model = str(tiny_pipelines.folder("sd"))
    capfd.readouterr()  # what making the tiny model says
    lines = refused_after_start(capfd, folder, **{"--model": model, "--steps": "1001"})
    assert "num_inference_steps) must lie in [1, 1000], not 1001" in lines[-1]


def refused_after_start(capfd, folder, **changes):
    options = {**GOOD, **changes}
    arguments = ["edit", options.pop("picture"), "-o", options.pop("-o")]
    before = sorted(folder.rglob("*"))
    assert main.main([*arguments, *(f"{name}={value}" for name, value in options.items())]) == 2
    assert sorted(folder.rglob("*")) == before
    return capfd.readouterr().err.splitlines()


def test_an_old_output_survives_a_failed_edit(folder, capfd):
    (folder / "out.png").write_bytes(b"old")
    refused(capfd, folder, picture="cut.jpg")
    assert (folder / "out.png").read_bytes() == b"old"


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "1"])
def test_odd_but_valid_pictures_are_edited(folder, capfd, mode):
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    (folder / "odd").write_bytes(encoded(mode, file_format=file_format))
    model = str(tiny_pipelines.folder("sd"))
    command = ["edit", "odd", "--to", "awe", "-o", "odd-out.png", "--model", model, "--steps", "2"]
    command += ["--box", "4,4,44,44"]
    assert main.main(command) == 0
    assert Image.open("odd-out.png").size == (64, 48)
