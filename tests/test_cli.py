"""The command line on real files with a tiny model: what it writes, and what it loads to say no."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image
from skimage import data

import emolib
from emolib import diffusion, images
from emolib.cli import edit as edit_cli
from emolib.cli import main
from emolib.diffusion import backbone
from emolib.editors import METHODS
from emolib.judges import emotion as judges
from emolib.runtime import repo_path

SIDE = tiny_pipelines.SIDE


@pytest.fixture
def tiny_model(monkeypatch):
    """The tiny model under its folder's name, loaded once for all commands."""
    model = tiny_pipelines.tiny("sd")
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    return str(tiny_pipelines.folder("sd"))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "source.png"
    images.save_image(tiny_pipelines.pictures(1, side=48), path)
    return path


def edit(picture, output, model, *options, box="4,4,44,44"):
    if box and "--box" not in options:
        options = ("--box", box, *options)
    return main.main(
        ["edit", str(picture), "--to", "anger", "-o", str(output), "--model", model, "--steps", "3", *options]
    )


def test_an_edit_is_written_with_its_provenance(picture, tmp_path, tiny_model, capsys):
    output = tmp_path / "out.png"
    assert edit(picture, output, tiny_model, "--describe", "woman", "--seed", "4", "--box", "2,2,40,40") == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert images.open_image(output).size == (48, 48)
    assert not np.array_equal(images.open_image(output), images.open_image(picture))
    record = images.read_provenance(output)
    (person,) = record.pop("people")
    assert record == {
        "software": f"emolib {emolib.__version__}",
        "edited": "by emolib: this picture is not a photograph",
        "method": "edit-friendly",
        "model": "sd",
        "guidance_scale": 15.0,
        "num_inference_steps": 3,
        "margin": 0.3,
        "options": {"source_guidance_scale": 3.5},
        "template": "photo of {article} {word} {description}",
        "keep_detail": True,
        "seed": 4,
        "via": None,
    }
    assert person == {
        "box": [2, 2, 40, 40],
        "emotion": "anger",
        "description": "woman",
        "prompt": "photo of an angry woman",
        "strength": 0.64,
    }
    assert str(tmp_path) not in output.read_bytes().decode("latin-1")


# Asyrp needs directions of the tiny model: test_hspace_cli.
@pytest.mark.parametrize("method", [method for method in METHODS if method != "asyrp"])
def test_every_method_edits(picture, tmp_path, tiny_model, method):
    options = ["--method", method, "--strength", "1", "--guidance-scale", "50"]  # the tiny model hears badly
    if method == "ledits++":  # it has no attention where the mask is read off
        assert edit(picture, tmp_path / "out.png", tiny_model, *options) == 2
        file, own = tmp_path / "preset.json", {method: {"use_intersect_mask": False}}
        about = {"kind": "emolib preset 1", "family": "Stable Diffusion 1.x", "about": "no mask"}
        file.write_text(json.dumps(about | {"settings": own}))
        options += ["--preset", str(file)]
    assert edit(picture, tmp_path / "out.png", tiny_model, *options) == 0
    assert images.read_provenance(tmp_path / "out.png")["method"] == method
    assert not np.array_equal(images.open_image(tmp_path / "out.png"), images.open_image(picture))


def people(path):
    return [(p["emotion"], p["strength"], p["box"]) for p in images.read_provenance(path)["people"]]


def changed(before, after):
    return (np.asarray(images.open_image(before), int) != np.asarray(images.open_image(after), int)).any(2)


def test_people_are_named_by_number_and_nobody_else_changes(picture, tmp_path, tiny_model):
    output = tmp_path / "out.png"
    command = ["edit", str(picture), "-o", str(output), "--model", tiny_model, "--steps", "4"]
    command += ["--box", "2,2,18,18", "--box", "20,20,40,44", "--margin", "0.4", "--method", "img2img"]
    assert main.main([*command, "--person", "2=furious:0.5"]) == 0
    assert people(output) == [("anger", 0.5, [20, 20, 40, 44])]
    difference = changed(picture, output)
    assert difference[26:36, 26:36].all()
    assert not difference[2:18, 2:18].any()
    assert main.main([*command, "--to", "awe", "--person", "1=sadness", "--strength", "0.4"]) == 0
    assert people(output) == [("sadness", 0.4, [2, 2, 18, 18]), ("awe", 0.4, [20, 20, 40, 44])]


def test_faces_are_found_and_counted_from_the_left(tmp_path, tiny_model, capsys):
    astronaut, output = tmp_path / "astronaut.png", tmp_path / "out.png"
    Image.fromarray(data.astronaut()).save(astronaut)
    assert edit(astronaut, output, tiny_model, "--steps", "2", "--margin", "0", box=None) == 0
    ((emotion, _, (x0, y0, x1, y1)),) = people(output)
    assert x0 < 222 < x1
    assert y0 < 115 < y1
    difference = changed(astronaut, output)
    left, top, right, bottom = images.square_box((x0, y0, x1, y1), 512, 512, margin=0)
    difference[top:bottom, left:right] = False
    assert not difference.any()
    assert edit(astronaut, output, tiny_model, "--person", "2=awe", box=None) == 2
    assert f"there is no person 2; there are 1: {x0},{y0},{x1},{y1}" in capsys.readouterr().err


def test_what_they_feel_now_and_who_they_are_reach_the_editor(picture, tmp_path, tiny_model, monkeypatch):
    heard = []
    embed = backbone.Backbone.embed
    monkeypatch.setattr(
        backbone.Backbone, "embed", lambda self, prompts: heard.append(prompts) or embed(self, prompts)
    )
    options = ["--method", "direct", "--from", "scared", "--describe", "old man", "--steps", "2"]
    assert edit(picture, tmp_path / "out.png", tiny_model, *options) == 0
    assert ["photo of a fearful old man"] in heard
    assert ["photo of an angry old man"] in heard


def test_the_same_command_gives_the_same_file(picture, tmp_path, tiny_model):
    for name in ("a.png", "b.png"):
        assert edit(picture, tmp_path / name, tiny_model) == 0
    assert edit(picture, tmp_path / "c.png", tiny_model, "--seed", "1") == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert a != c


def test_only_the_box_changes(picture, tmp_path, tiny_model):
    strongly = ("--strength", "1", "--margin", "0")  # the tiny model hears badly
    assert edit(picture, tmp_path / "out.png", tiny_model, "--box", "10,12,30,28", *strongly) == 0
    difference = changed(picture, tmp_path / "out.png")
    rows, columns = difference.nonzero()
    # the square around 20 x 16 px at (10, 12) is 20 x 20 at (10, 10)
    assert rows.min() >= 10
    assert rows.max() < 30
    assert columns.min() >= 10
    assert columns.max() < 30
    assert difference[18:22, 18:22].any()


def test_without_a_face_nothing_is_edited_unless_a_box_is_given(tmp_path, tiny_model, capsys):
    wide = tmp_path / "wide.jpg"
    Image.new("RGB", (60, 40), (90, 120, 60)).save(wide)
    assert edit(wide, tmp_path / "out.jpg", tiny_model, box=None) == 2
    said = capsys.readouterr().err
    assert "wide.jpg: no face found" in said and "--box" in said and said.count("\n") == 1
    assert not (tmp_path / "out.jpg").exists()
    assert edit(wide, tmp_path / "out.jpg", tiny_model, "--box", "10,0,50,40") == 0
    assert images.open_image(tmp_path / "out.jpg").size == (60, 40)


def test_strength_zero_writes_the_source(picture, tmp_path, tiny_model):
    assert edit(picture, tmp_path / "out.png", tiny_model, "--strength", "0") == 0
    assert np.array_equal(images.open_image(tmp_path / "out.png"), images.open_image(picture))


def test_side_by_side(picture, tmp_path, tiny_model):
    output, pair = tmp_path / "out.png", tmp_path / "pair.png"
    assert edit(picture, output, tiny_model, "--side-by-side", str(pair)) == 0
    both = images.open_image(pair)
    assert both.size == (96, 48)
    for x, path in ((0, picture), (48, output)):
        assert np.array_equal(both.crop((x, 0, x + 48, 48)), images.open_image(path))
    assert images.read_provenance(pair) == images.read_provenance(output)


def test_free_words_and_prompts(picture, tmp_path, tiny_model):
    command = ["edit", str(picture), "-o", str(tmp_path / "out.png"), "--model", tiny_model, "--steps", "2"]
    command += ["--box", "4,4,44,44"]
    assert main.main([*command, "--to", "Furious", "--prompt", "a portrait, {word}"]) == 0
    record = images.read_provenance(tmp_path / "out.png")
    (person,) = record["people"]
    assert (person["emotion"], person["prompt"]) == ("anger", "a portrait, angry")
    assert main.main([*command, "--to", "grief"]) == 0  # not MiniSD: any label with a prompt word
    assert people(tmp_path / "out.png")[0][0] == "grief"


def test_minisd_is_asked_only_for_what_it_learned():
    assert edit_cli.parse_emotion("furious", "minisd") == "anger"
    with pytest.raises(ValueError, match="could be awe or excitement"):
        edit_cli.parse_emotion("surprise", "minisd")
    assert edit_cli.parse_emotion("surprise", "sd15") == "surprise"
    assert edit_cli.parse_emotion("Happy", "sd15") == "happiness"


def test_directions_are_asked_for_by_name_or_by_a_word_for_one():
    known = ("anger", "awe", "furious")
    assert edit_cli.parse_emotion(" Mad", "minisd", known) == "anger"
    assert edit_cli.parse_emotion("furious", "minisd", known) == "furious"  # a name goes before a meaning
    for word, message in (("sad", "unknown direction 'sad'"), ("angr", "did you mean 'anger'")):
        with pytest.raises(ValueError, match=message):
            edit_cli.parse_emotion(word, "minisd", known)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "awe", "--method", "edit-frendly"], "did you mean 'edit-friendly'"),
        ([], "say what to change: --to EMOTION for everybody, or --person N=EMOTION"),
        (["--person", "awe"], "give a number from 1 and an emotion"),
        (["--person", "0=awe"], "give a number from 1 and an emotion"),
        (["--person", "1=awe:much"], "give a number from 1 and an emotion"),
        (["--person", "1=awe:1.5"], "strength must lie in [0, 1], not 1.5"),
        (["--person", "1=awe", "--person", "1=fear"], "person 1 has an emotion already"),
        (["--to", "awe", "--from", "angr"], "did you mean 'angry'"),
        (["--to", "awe", "--strength", "-1"], "strength must lie in [0, 1], not -1.0"),
        (["--to", "awe", "--box", "1,2,3"], "give four whole numbers"),
        (["--to", "awe", "--side-by-side", "nowhere/pair.png"], "'nowhere' does not exist"),
    ],
)
def test_wrong_options_are_one_line_and_load_no_model(options, message, monkeypatch, capsys):
    monkeypatch.delattr(diffusion, "backbone")
    monkeypatch.setitem(sys.modules, "emolib.diffusion.backbone", None)  # importing it is an error now
    assert main.main(["edit", "none.png", "-o", "out.png", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_descriptions_must_fit_the_people(picture, tmp_path, tiny_model, capsys):
    options = ["--box", "2,2,18,18", "--describe", "man", "--describe", "woman"]
    assert edit(picture, tmp_path / "out.png", tiny_model, *options) == 2
    assert "2 descriptions for 1 people" in capsys.readouterr().err


def run(code, **options):
    """A process of its own, where nothing is imported yet."""
    command = [sys.executable, "-c", f"import sys\nfrom emolib.cli import main\n{code}"]
    return subprocess.run(command, cwd=repo_path(), capture_output=True, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["edit", "--help"], ["data", "--help"], ["--version"], []])
def test_help_and_version(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == (0 if arguments else 2)
    shown = f"emolib {emolib.__version__}\n" if "--version" in arguments else "usage: emolib"
    assert (said.out if arguments else said.err).startswith(shown)
    assert re.search(r"emolib edit \S+ --to \w+", said.out) or arguments[:1] != ["edit"]


REFUSALS = [
    ("none.png", ["--to", "angr", "-o", "x.png"], "did you mean"),
    ("none.png", ["--to", "anger", "-o", "x.png"], "none.png: this file is missing"),
    ("README.md", ["--to", "anger", "-o", "x.png"], "README.md: not a picture"),
    ("README.md", ["--to", "anger", "-o", "x.svg"], "x.svg: pictures are written as"),
    ("README.md", ["--to", "anger", "-o", "x.png", "--model", "sd51"], "did you mean 'sd21'"),
]


def test_refusals_load_no_model():
    commands = [["edit", picture, *options] for picture, options, _ in REFUSALS]
    commands.append(["token", "train", ".", "--token", "awe"])
    code = f"for command in {commands!r}: print(main.main(command), 'diffusers' in sys.modules)"
    answer = run(code, text=True)
    assert answer.stdout == "2 False\n" * len(commands)
    messages = [message for *_, message in REFUSALS] + ["write '<awe>'"]
    for line, message in zip(answer.stderr.splitlines(), messages, strict=True):
        assert message in line


def test_other_errors_are_not_hidden(monkeypatch, picture, tmp_path, capsys):
    def fail(message):
        def load(name, **options):
            raise RuntimeError(message)

        monkeypatch.setattr(backbone, "load_backbone", load)

    fail("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        edit(picture, tmp_path / "out.png", "minisd")
    for message in (
        "CUDA out of memory. Tried to allocate 20 GiB",
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
    ):
        fail(message)
        assert edit(picture, tmp_path / "out.png", "minisd") == 2
        said = capsys.readouterr().err
        assert "try --memory low" in said and said.count("\n") == 1


def test_debug_shows_where_a_refusal_comes_from(capsys):
    command = ["edit", "README.md", "--to", "anger", "-o", "README.svg"]
    assert main.main(command) == main.main(["--debug", *command]) == 2
    plain, *debug = capsys.readouterr().err.splitlines()
    assert debug[0].startswith("Traceback") and debug[-1] == plain


def test_help_of_all_commands_loads_none():
    loaded = "print(*(name for name in sys.modules if name == 'torch' or name.startswith('emolib.cli.')))"
    *said, names = run(
        f"try: main.main(['--help'])\nexcept SystemExit: {loaded}", text=True
    ).stdout.splitlines()
    assert names == "emolib.cli.main"
    assert all(any(line.strip().startswith(name) for line in said) for name in main.COMMANDS)


def test_a_terminal_that_cannot_show_a_name_stops_nothing():
    code = (
        "from emolib.cli import judge\n"
        "judge.add_parser = lambda commands: commands.add_parser('judge').set_defaults(\n"
        "    run=lambda args: print('\\u65e5.png') or print('next'))\n"
        "sys.exit(main.main(['judge']))"
    )
    answer = run(code, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (answer.returncode, answer.stdout) == (0, b"\\u65e5.png\nnext\n")
    command = [sys.executable, "-c", f"import sys\nfrom emolib.cli import main\n{code}"]
    with subprocess.Popen(
        command, cwd=repo_path(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", "1"], "too few to change anything"),
        (["--steps", "2", "--strength", "0.5"], "1 of 2 steps at strength 0.5: too few"),
        (["--prompt", "photo of a man"], "says nothing of the emotion; put {word} into it"),
        (["--prompt", "photo of an angry man"], "says the same before and after"),
        (["--prompt", "photo of a man " + "on a long road " * 40 + "{word}"], "is cut off before 'angry'"),
    ],
)
def test_an_edit_that_cannot_carry_the_emotion_is_refused(
    picture, tmp_path, tiny_model, capsys, options, says
):
    assert edit(picture, tmp_path / "out.png", tiny_model, *options) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out.png").exists()


def test_a_prompt_of_ones_own_words_and_a_long_description_are_edits(picture, tmp_path, tiny_model):
    own = ("--method", "img2img", "--prompt", "photo of an angry man")
    assert edit(picture, tmp_path / "own.png", tiny_model, *own) == 0
    assert edit(picture, tmp_path / "long.png", tiny_model, "--describe", "man " + "on a road " * 60) == 0


def test_the_guide_guesses_where_the_edit_is_made(picture, tmp_path, tiny_model, monkeypatch):
    asked = []
    guide = judges.load_judge("guide", device="cpu")
    monkeypatch.setattr(judges, "load_judge", lambda name, device: asked.append((name, device)) or guide)
    assert edit(picture, tmp_path / "out.png", "minisd", "--device", "cpu") == 0
    assert asked == [("guide", "cpu")]


def test_a_pickled_token_is_read_if_asked_for(picture, tmp_path, tiny_model, capsys):
    path, vector = tmp_path / "awe.pt", torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    torch.save({"string_to_param": {"*": vector}, "name": "<awe>"}, path)
    command = ["edit", str(picture), "--to", "<awe>", "--token", str(path), "-o", str(tmp_path / "out.png")]
    command += ["--box", "4,4,44,44"]
    command += ["--model", tiny_model, "--steps", "3"]
    assert main.main(command) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert main.main([*command, "--allow-pickle"]) == 0, capsys.readouterr().err
