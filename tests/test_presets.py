"""Presets: one table with sources, families told from configurations, files that overrule, `--explain`."""

import json
import re
from dataclasses import replace
from pkgutil import resolve_name

import pytest
import tiny_pipelines
from test_layers import PACKAGE

from emolib.cli import main
from emolib.diffusion import presets
from emolib.editors import METHODS
from emolib.editors.recipe import Recipe, build_editor, load_recipe, save_recipe
from emolib.images import to_pil
from emolib.runtime import InputError

FAMILIES = list(presets.FAMILIES.values())
SOURCES = ("measured here", "authors' code", "benchmark form", "tool practice", "unmeasured")


def write(path, **content):
    base = {"kind": presets.KIND, "family": "MiniSD", "about": "val", "settings": {}}
    path.write_text(json.dumps(base | content))
    return path


@pytest.mark.parametrize("preset", FAMILIES, ids=lambda preset: preset.name)
def test_every_number_is_a_field_of_its_editor_and_has_a_source(preset):
    assert set(METHODS) - set(preset.settings) == ({"ledits++"} if preset is presets.SDXL else set())
    for method in preset.settings:
        choices = preset.explain(method)
        fields = resolve_name(METHODS[method]).__dataclass_fields__
        assert {*choices} - {"margin"} <= {*fields}
        assert all(source.startswith(SOURCES) for _, source in choices.values())


def test_an_editor_from_python_has_the_shipped_models_numbers():
    for method, settings in presets.MINISD_SETTINGS.items():
        fields = resolve_name(METHODS[method]).__dataclass_fields__
        assert settings.fields == {name: fields[name].default for name in settings.fields}


def test_the_short_name_of_the_shipped_model_stands_in_the_table_alone():
    named = {
        path.name for path in PACKAGE.rglob("*.py") if re.search(r"""["']minisd["']""", path.read_text())
    }
    assert named == {"presets.py"}


def test_the_family_is_told_from_the_configuration(tmp_path):
    assert presets.find_preset("data/minisd") is presets.MINISD
    assert presets.find_preset(str(tiny_pipelines.folder("sdxl"))) is presets.SDXL
    assert tiny_pipelines.tiny("sdxl").preset is presets.SDXL
    assert presets.find_preset("nobody/nothing") is presets.find_preset("sd15") is presets.SD1
    assert presets.tell_family("v_prediction", 768) is presets.tell_family("epsilon", 1024) is presets.SD2


def test_an_editor_gets_all_fields_of_its_preset():
    editor = build_editor(Recipe(model="sd15", keep_detail=False), tiny_pipelines.tiny("sd"))
    assert (editor.strength, editor.guidance_scale, editor.source_guidance_scale) == (0.64, 15.0, 3.5)


def test_a_saved_recipe_holds_what_the_preset_said(tmp_path):
    from emolib.editors.person import Person

    recipe = Recipe((Person((0, 0, 8, 8), "awe", strength=0.5),), "edit-friendly", "sd15")
    save_recipe(tmp_path / "r.json", recipe, tmp_path / "x.png", to_pil(tiny_pipelines.pictures())[0])
    again = load_recipe(tmp_path / "r.json").recipe
    assert again.settings == recipe.settings
    assert again.options == (("source_guidance_scale", 3.5),)


def test_a_file_overrules_the_table_and_says_so(tmp_path):
    file = write(tmp_path / "p.json", settings={"img2img": {"strength": 0.4}})
    preset = presets.find_preset("minisd", file)
    value, source = preset.explain("img2img")["strength"]
    assert value == 0.4
    assert source == f"preset file {file} (val)"
    assert preset.explain("ddim") == presets.MINISD.explain("ddim")
    assert replace(preset, settings=presets.MINISD_SETTINGS) == presets.MINISD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "recipe"}, "no preset file"),
        ({"family": "Stable Diffusion XL"}, "made for Stable Diffusion XL, not for MiniSD"),
        ({"settings": {"ddmi": {}}}, "did you mean 'ddim'"),
        ({"settings": {"ddim": {"strenght": 1}}}, "did you mean 'strength'"),
        ({"settings": {"ddim": {"strength": "much"}}}, "not a number"),
        ({"settings": 3}, "not a readable preset file"),
    ],
)
def test_a_bad_file_is_one_line(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        presets.find_preset("minisd", write(tmp_path / "p.json", **content))


def test_explain_prints_who_says_what_and_does_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(
        tmp_path / "p.json", family="Stable Diffusion 1.x", settings={"edit-friendly": {"strength": 0.3}}
    )
    code = main.main(["edit", "--model", "sd15", "--explain", "--preset", str(file), "--guidance-scale", "9"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert re.match(r"strength +0.3 +preset file .*p.json", lines[1])
    assert re.match(r"guidance_scale +9.0 +--guidance-scale", lines[2])
    assert re.match(r"num_inference_steps +100 +authors' code", lines[3])
    assert [*tmp_path.iterdir()] == [file]


def test_a_method_that_the_model_cannot_do_is_one_line(tmp_path, capsys):
    to_pil(tiny_pipelines.pictures())[0].save(tmp_path / "a.png")
    edit = ["edit", str(tmp_path / "a.png"), "--to", "awe", "-o", str(tmp_path / "b.png"), "--box", "0,0,9,9"]
    assert main.main([*edit, "--model", "sdxl", "--method", "ledits++"]) == 2
    assert "Stable Diffusion XL cannot do ledits++" in capsys.readouterr().err
    assert main.main([*edit, "--model", "sd15", "--method", "asyrp"]) == 2
    assert "sd15 comes without directions" in capsys.readouterr().err


def test_a_number_that_nobody_published_is_said_and_a_file_is_used(tmp_path, capsys):
    to_pil(tiny_pipelines.pictures())[0].save(tmp_path / "a.png")
    edit = ["edit", str(tmp_path / "a.png"), "--to", "awe", "-o", str(tmp_path / "b.png"), "--box", "0,0,9,9"]
    edit += ["--model", str(tiny_pipelines.folder("sd")), "--method", "exact", "--steps", "2"]
    assert main.main(edit) == 0
    assert "guidance_scale 7.5 unmeasured" in capsys.readouterr().err
    fields = {"strength": 0.5, "guidance_scale": 2.0, "num_inference_steps": 3}
    file = write(tmp_path / "p.json", family="Stable Diffusion 1.x", settings={"exact": fields})
    assert main.main([*edit[:-2], "--preset", str(file)]) == 0
    assert "unmeasured" not in capsys.readouterr().err
