"""Recipes: what they change and leave alone, and that a saved one makes the identical picture again."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import tiny_pipelines
import torch

from emolib import diffusion, images
from emolib.cli import main
from emolib.diffusion import backbone
from emolib.diffusion.presets import MINISD, find_preset
from emolib.editors.compose import KeepDetail
from emolib.editors.inversion import Img2Img
from emolib.editors.person import PerPerson, Person
from emolib.editors.recipe import Recipe, apply_recipe, load_recipe
from emolib.playground import session
from emolib.playground.pictures import Picture
from emolib.runtime import InputError

BOXES = ((2, 4, 30, 36), (52, 4, 84, 36))


@pytest.fixture(scope="module")
def model():
    return tiny_pipelines.tiny("sd")


@pytest.fixture(scope="module")
def picture():
    (image,) = images.to_pil(torch.cat([tiny_pipelines.pictures(3, side=40)[[i]] for i in range(3)], dim=-1))
    return image.crop((0, 0, 90, 40))


def recipe(*emotions, strength=0.7, **options):
    people = [Person(box, felt, None, "woman", strength) for box, felt in zip(BOXES, emotions, strict=True)]
    return Recipe(
        tuple(people),
        **({"method": "img2img", "model": "sd", "num_inference_steps": 3, "margin": 0.06} | options),
    )


def test_a_recipe_is_the_edit_of_its_people(model, picture):
    source = images.to_tensor(picture)
    people = [Person(BOXES[0], description="woman"), Person(BOXES[1], "anger", description="woman")]
    editor = KeepDetail(Img2Img(model, strength=0.7, guidance_scale=7.5, num_inference_steps=3))
    direct = PerPerson(editor, model.size, margin=0.1)(source, people, seed=5)
    made = apply_recipe(recipe(None, "anger", seed=5, margin=0.1), model, source)
    torch.testing.assert_close(made, direct, atol=1e-6, rtol=0)
    assert images.to_pil(made)[0].tobytes() == images.to_pil(direct)[0].tobytes()


def test_one_persons_wish_alters_nobody_else(model, picture):
    source = images.to_tensor(picture)
    first, both = (apply_recipe(recipe("awe", second), model, source) for second in (None, "anger"))
    left = slice(0, 40)
    assert torch.equal(first[..., left], both[..., left])
    assert not torch.equal(first[..., left], source[..., left])
    assert not torch.equal(first[..., 50:], both[..., 50:])
    assert torch.equal(both[..., 40:50], source[..., 40:50])  # between them, bit for bit


def test_what_is_left_open_is_what_the_models_preset_says():
    assert Recipe().settings == {**MINISD.settings["edit-friendly"].fields, "margin": MINISD.margin}
    other = Recipe(method="img2img", model="sd15", margin=0.3, num_inference_steps=9)
    assert other.settings["guidance_scale"] == find_preset("sd15").settings["img2img"].guidance_scale
    assert (other.settings["margin"], other.settings["num_inference_steps"]) == (0.3, 9)


def test_nothing_asked_is_the_source(model, picture):
    source = images.to_tensor(picture)
    assert torch.equal(apply_recipe(recipe(None, None), model, source), source)
    assert torch.equal(apply_recipe(recipe("awe", "anger", strength=0.0), model, source), source)


def test_through_neutral_is_another_edit(model, picture):
    source = images.to_tensor(picture)
    plain, staged = (apply_recipe(recipe("awe", None, via=via), model, source) for via in (None, "neutral"))
    assert not torch.equal(plain, staged)


@pytest.fixture(scope="module")
def made(model, picture, tmp_path_factory):
    """A saved edit."""
    done = recipe("awe", "anger", method="negative-prompt", guidance_scale=3.0, seed=7, via="neutral")
    edited = apply_recipe(done, model, images.to_tensor(picture))
    shown = Picture("my photo.jpg", picture, done.people)
    return session.save_edit(tmp_path_factory.mktemp("made") / "out", shown, done, edited), done


@pytest.fixture
def saved(made, model, tmp_path, monkeypatch):
    """A copy of it, and a command line that loads the tiny model."""
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    path, done = made
    return shutil.copytree(path.parent, tmp_path / "out") / path.name, done


def test_the_command_line_makes_the_identical_picture(saved, capsys):
    path, done = saved
    ends = (".json", ".png", "-source.png")
    assert {f.name for f in path.parent.iterdir()} == {f"my-photo-1awe-2anger{end}" for end in ends}
    assert main.main(["edit", "--from", str(path)]) == 0
    again = path.with_name("my-photo-1awe-2anger-again.png")
    assert capsys.readouterr().out == f"{again}\n"
    first = path.with_suffix(".png")
    assert images.open_image(again).tobytes() == images.open_image(first).tobytes()
    assert images.read_provenance(again) == images.read_provenance(first)
    assert load_recipe(path).recipe == replace(done, margin=done.settings["margin"])
    assert str(path.parent) not in path.read_text() + again.read_bytes().decode("latin-1")


def test_saving_again_replaces_nothing(saved, picture):
    path, done = saved
    shown = Picture("my photo.jpg", picture, done.people)
    other = session.save_edit(path.parent, shown, done, images.to_tensor(picture))
    assert other.name == "my-photo-1awe-2anger-2.json" and path.exists()


def test_the_source_may_lie_elsewhere_and_must_be_the_one(saved, tmp_path, picture, capsys):
    path, _ = saved
    source = path.with_name(f"{path.stem}-source.png")
    moved = source.rename(tmp_path / "moved.png")
    assert main.main(["edit", "--from", str(path)]) == 2
    assert "this file is missing" in capsys.readouterr().err
    output = tmp_path / "again.webp"
    assert main.main(["edit", str(moved), "--from", str(path), "-o", str(output)]) == 0
    assert output.exists()
    picture.rotate(180).save(source)
    assert main.main(["edit", "--from", str(path)]) == 2
    assert "not the picture that" in capsys.readouterr().err
    assert main.main(["edit", str(path.with_suffix(".png")), "--from", str(path)]) == 2
    assert f"{path.with_suffix('.png')}: not the picture that {path}" in capsys.readouterr().err
    assert main.main(["edit", str(moved), "--from", str(path), "-o", str(moved)]) == 2
    assert "is an input of this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "anger"], "says all of the edit"),
        (["--strength", "0.2"], "says all of the edit"),
        (["--box", "1,2,3,4"], "says all of the edit; leave out --box"),
        (["--method", "ddim"], "leave out --method"),
        (["--describe", "a man"], "leave out --describe"),
        (["--seed", "1"], "leave out --seed"),
        (["--raw"], "leave out --raw"),
        (["--side-by-side", "pair.png"], "leave out --side-by-side"),
        (["-o", "out.xyz"], "change the suffix"),
    ],
)
def test_what_a_recipe_does_not_take(saved, options, says, capsys):
    assert main.main(["edit", "--from", str(saved[0]), *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "something"}, "not a recipe of this version"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"seed": "one"}, "seed is 'one', not a whole number"),
        ({"seed": 1.5}, "seed is 1.5, not a whole number"),
        ({"seed": True}, "seed is True, not a whole number"),
        ({"seed": 10**23}, "seed must lie in"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5, not a whole number"),
        ({"num_inference_steps": 0}, "must lie in [1, 1000]"),
        ({"margin": float("nan")}, "margin must lie in [0, 4]"),
        ({"margin": -1}, "margin must lie in [0, 4]"),
        ({"guidance_scale": float("inf")}, "guidance_scale must lie in"),
        ({"guidance_scale": 10**400}, "guidance_scale must lie in"),
        ({"guidance_scale": "much"}, "guidance_scale is 'much', not a number"),
        ({"model": 5}, "model is 5, not a text"),
        ({"via": 5}, "via is 5, not a text or null"),
        ({"via": "nowhere"}, "unknown emotion 'nowhere'"),
        ({"people": []}, "no list of one person or more"),
        ({"people": {"box": [0, 0, 4, 4]}}, "no list of one person or more"),
        ({"people": ["x"]}, "no list of one person or more"),
        ({"people": [{"box": [0, 0, 4, 4], "emotion": 5}]}, "emotion is 5, not a text or null"),
        ({"people": [{"box": [0, 0, 4, 4], "emotion": "angr"}]}, "unknown emotion 'angr'"),
        ({"people": [{"box": [0, 0, 4, 4], "source_emotion": "angr"}]}, "unknown emotion 'angr'"),
        ({"people": [{"box": [0, 0, 4, 4], "description": 7}]}, "description is 7, not a text"),
        ({"people": [{"box": [0, 0, 4.5, 4]}]}, "not a list of four whole numbers"),
        ({"people": [{"box": "abcd"}]}, "not a list of four whole numbers"),
        ({"people": [{"box": [0, 0, 4, 400], "emotion": "awe"}]}, "inside the 90 x 40 picture"),
        ({"strength": 1}, "unknown entry 'strength'"),
        ({"people": [{"box": [0, 0, 4]}]}, "a broken recipe"),
        ({"people": [{"box": [0, 0, 4, 4], "strength": 2.0}]}, "strength must lie in [0, 1]"),
        ({"people": None}, "a broken recipe"),
        ({"people": [{"box": [0, 0, 4, 4], "strength": True}]}, "strength is True, not a number"),
        ({"sha256": None}, "not the picture that"),
    ],
)
def test_broken_recipes_are_one_line(saved, change, says, capsys):
    path, _ = saved
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert main.main(["edit", "--from", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert str(path) in error and not path.with_name(f"{path.stem}-again.png").exists()


def test_a_model_that_is_not_there_is_the_recipes_fault(saved, capsys, monkeypatch):
    def load(name, **options):
        raise InputError(f"unknown model {name!r}")

    monkeypatch.setattr(backbone, "load_backbone", load)
    assert main.main(["edit", "--from", str(saved[0])]) == 2
    assert capsys.readouterr().err == f"emolib: {saved[0]}: unknown model 'sd'\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "out.xyz"], "change the suffix"),
        (["-o", "none/out.png"], "does not exist"),
        (["--device", "gpu"], "unknown device"),
        (["--memory", "lots"], "unknown memory option"),
    ],
)
def test_a_recipe_is_refused_before_anything_is_loaded(saved, options, says, capsys, monkeypatch):
    monkeypatch.delattr(diffusion, "backbone")
    monkeypatch.setitem(sys.modules, "emolib.diffusion.backbone", None)  # importing it is an error now
    assert main.main(["edit", "--from", str(saved[0]), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_is_no_recipe(tmp_path, capsys):
    (tmp_path / "a.json").mkdir()
    assert main.main(["edit", "--from", str(tmp_path / "a.json")]) == 2
    assert "a.json: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", None])
def test_files_that_are_no_recipe(tmp_path, text):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="a.json: (not a |this file is missing)"):
        load_recipe(path)


@pytest.mark.parametrize("given", [[], ["-o", "b.png"], ["a.png"]])
def test_a_picture_and_an_output_are_still_needed_without_a_recipe(given, capsys):
    assert main.main(["edit", *given, "--to", "anger"]) == 2
    assert "give a PICTURE, and where to write the edit: -o FILE" in capsys.readouterr().err


def test_alone_forgets_what_the_others_feel():
    both = recipe("awe", "anger")
    assert both.alone(0) == recipe("awe", None).alone(0)
    assert both.alone(1) != replace(both, seed=1).alone(1)
    assert both.changed == (0, 1) and both.alone(1).changed == (1,)
