"""The command line on real files with a tiny model: what it writes, and what it loads to say no."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_pipelines
from PIL import Image

import emolib
from emolib import backbone, cli, images
from emolib.runtime import repo_path

SIDE = tiny_pipelines.SIDE


@pytest.fixture
def tiny_model(monkeypatch):
    """The tiny model under its folder's name, loaded once for all commands."""
    model = tiny_pipelines.tiny("sd")
    monkeypatch.setattr(backbone, "load", lambda name, **options: model)
    return str(tiny_pipelines.folder("sd"))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "source.png"
    images.save_image(tiny_pipelines.pictures(1, side=48), path)
    return path


def edit(picture, output, model, *options):
    return cli.main(
        ["edit", str(picture), "--to", "anger", "-o", str(output), "--model", model, "--steps", "3", *options]
    )


def test_an_edit_is_written_with_its_provenance(picture, tmp_path, tiny_model, capsys):
    output = tmp_path / "out.png"
    assert edit(picture, output, tiny_model, "--describe", "woman", "--seed", "4") == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert images.open_image(output).size == (48, 48)
    assert not np.array_equal(images.open_image(output), images.open_image(picture))
    record = images.read_provenance(output)
    assert record == {
        "software": f"emolib {emolib.__version__}",
        "edited": "by emolib: this picture is not a photograph",
        "method": "img2img",
        "emotion": "anger",
        "model": "sd",
        "prompt": "photo of an angry woman",
        "strength": 0.6,
        "guidance_scale": 5.0,
        "num_inference_steps": 3,
        "seed": 4,
        "box": [0, 0, 48, 48],
    }
    assert str(tmp_path) not in output.read_bytes().decode("latin-1")


def test_the_same_command_gives_the_same_file(picture, tmp_path, tiny_model):
    for name in ("a.png", "b.png"):
        assert edit(picture, tmp_path / name, tiny_model) == 0
    assert edit(picture, tmp_path / "c.png", tiny_model, "--seed", "1") == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert a != c


def test_only_the_box_changes(picture, tmp_path, tiny_model):
    assert edit(picture, tmp_path / "out.png", tiny_model, "--box", "10,12,30,28") == 0
    before, after = (np.asarray(images.open_image(path)) for path in (picture, tmp_path / "out.png"))
    changed = (before != after).any(2)
    rows, columns = changed.nonzero()
    # the square around 20 x 16 px at (10, 12) is 20 x 20 at (10, 10)
    assert rows.min() >= 10
    assert rows.max() < 30
    assert columns.min() >= 10
    assert columns.max() < 30
    assert changed[18:22, 18:22].all()


def test_a_wide_picture_is_edited_in_its_middle_square(tmp_path, tiny_model, capsys):
    wide = tmp_path / "wide.jpg"
    Image.new("RGB", (60, 40), (90, 120, 60)).save(wide)
    assert edit(wide, tmp_path / "out.jpg", tiny_model) == 0
    assert "square 10,0,50,40" in capsys.readouterr().err
    assert images.open_image(tmp_path / "out.jpg").size == (60, 40)


def test_strength_zero_writes_the_source(picture, tmp_path, tiny_model):
    assert edit(picture, tmp_path / "out.png", tiny_model, "--strength", "0") == 0
    assert np.array_equal(images.open_image(tmp_path / "out.png"), images.open_image(picture))


def test_side_by_side(picture, tmp_path, tiny_model):
    assert edit(picture, tmp_path / "pair.webp", tiny_model, "--side-by-side", "--strength", "0") == 0
    pair = images.open_image(tmp_path / "pair.webp")
    assert pair.size == (96, 48)
    left, right = (np.asarray(pair.crop((x, 0, x + 48, 48)), dtype=int) for x in (0, 48))
    assert np.abs(left - right).max() < 40  # both are the source, but for WebP's losses


def test_free_words_and_prompts(picture, tmp_path, tiny_model):
    command = ["edit", str(picture), "-o", str(tmp_path / "out.png"), "--model", tiny_model, "--steps", "2"]
    assert cli.main([*command, "--to", "Furious", "--prompt", "a portrait, {word}"]) == 0
    record = images.read_provenance(tmp_path / "out.png")
    assert (record["emotion"], record["prompt"]) == ("anger", "a portrait, angry")
    assert cli.main([*command, "--to", "grief"]) == 0  # not MiniSD: any label with a prompt word
    assert images.read_provenance(tmp_path / "out.png")["prompt"] == "photo of a grieving person"


def test_minisd_is_asked_only_for_what_it_learned():
    assert cli._emotion("furious", "minisd") == "anger"
    with pytest.raises(ValueError, match="could be awe or excitement"):
        cli._emotion("surprise", "minisd")
    assert cli._emotion("surprise", "sd15") == "surprise"


def run(*arguments, code=None):
    command = [sys.executable, "-m", "emolib", *arguments] if code is None else [sys.executable, "-c", code]
    return subprocess.run(command, cwd=repo_path(), capture_output=True, text=True)


def test_help_and_version():
    assert run("--version").stdout == f"emolib {emolib.__version__}\n"
    for arguments in (["--help"], ["edit", "--help"], ["data", "--help"]):
        answer = run(*arguments)
        assert answer.returncode == 0
        assert "usage: emolib" in answer.stdout
    assert run().returncode == 2
    assert re.search(r"emolib edit \S+ --to \w+", run("edit", "--help").stdout)


def test_help_and_refusals_load_no_torch():
    code = (
        "import sys\nfrom emolib import cli\n"
        "code = cli.main(['edit', 'none.png', '--to', 'angr', '-o', 'x.png'])\n"
        "print(code, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    answer = run(code=code)
    assert answer.stdout == "2 False False\n"
    assert "did you mean" in answer.stderr


def test_other_errors_are_not_hidden(monkeypatch, picture, tmp_path, capsys):
    def fail(message):
        def load(name, **options):
            raise RuntimeError(message)

        monkeypatch.setattr(backbone, "load", load)

    fail("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        edit(picture, tmp_path / "out.png", "minisd")
    fail("CUDA out of memory. Tried to allocate 20 GiB")
    assert edit(picture, tmp_path / "out.png", "minisd") == 2
    assert "try --memory low" in capsys.readouterr().err
