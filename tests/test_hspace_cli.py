"""`emolib hspace`: a folder of pictures becomes a file of directions, or one line that says why not."""

import pytest
import tiny_clip
import tiny_pipelines
import torch
from safetensors.torch import load_file
from tiny_pipelines import pictures, tiny

from emolib import images
from emolib.cli import main
from emolib.diffusion import backbone
from emolib.diffusion.clip import Clip
from emolib.interventions import directions


@pytest.fixture
def tiny_model(monkeypatch):
    model = tiny("sd")  # before the loader is replaced, which it calls itself
    monkeypatch.setattr(backbone, "load_backbone", lambda name, **options: model)
    return str(tiny_pipelines.folder("sd"))


@pytest.fixture
def folder(tmp_path):
    for label, seed in (("neutral", 0), ("Smiling", 1)):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for i in range(3):
            one = pictures(1, side=40, seed=10 * seed + i)
            images.save_image(one, tmp_path / "faces" / label / f"{'abc'[i]}.png")
    return tmp_path / "faces"


def run(folder, out, model, *options):
    few = [] if {"trained", "supervised"} & {*options} else ["--levels", "2"]
    return main.main(["hspace", "fit", str(folder), "--out", str(out), "--model", model, *few, *options])


@pytest.mark.parametrize(
    "options", [(), ("--pairs",), ("--method", "probe", "--pooled"), ("--source", "smiling")]
)
def test_a_folder_becomes_directions(folder, tmp_path, tiny_model, capsys, options):
    out = tmp_path / "found.safetensors"
    assert run(folder, out, tiny_model, *options) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"{out}\n")
    found = directions.load_directions(out)
    assert set(found.emotions) == {"neutral", "smiling"}
    assert "pictures 3, agreement" in printed
    assert main.main(["hspace", "show", str(out)]) == 0
    assert printed == capsys.readouterr().out + f"{out}\n"


@pytest.mark.parametrize("options", [(), ("--pairs",)])
def test_a_saved_manifest_gives_the_same_directions(folder, tmp_path, tiny_model, options):
    assert main.main(["data", "import", str(folder), "-o", str(tmp_path / "m.parquet")]) == 0
    found = []
    for data in (folder, tmp_path / "m.parquet"):
        assert run(data, tmp_path / "found.safetensors", tiny_model, *options) == 0
        found.append(load_file(tmp_path / "found.safetensors"))
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


def test_people_in_folders_of_their_own_are_paired_one_by_one(folder, tmp_path, tiny_model, capsys):
    nested, flat, again = (tmp_path / name for name in ("nested", "flat.safetensors", "again.safetensors"))
    for path in folder.rglob("*.png"):
        target = nested / path.parent.name / path.stem / "1.png"
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    for data, out in ((folder, flat), (nested, again)):
        assert run(data, out, tiny_model, "--pairs") == 0
    torch.testing.assert_close(load_file(flat), load_file(again), atol=0, rtol=0)
    (folder / "neutral" / "a.jpg").write_bytes((folder / "neutral" / "a.png").read_bytes())
    assert run(folder, flat, tiny_model, "--pairs") == 2
    assert "a second picture of its emotion under one name" in capsys.readouterr().err


def test_networks_are_trained_from_a_folder_of_one_emotion(folder, tmp_path, tiny_model, monkeypatch, capsys):
    model, words, _ = tiny_clip.parts()
    monkeypatch.setattr(
        "emolib.diffusion.clip.load_clip", lambda path, device: Clip(model, words, tiny_clip.PREPARE)
    )
    out = tmp_path / "found.safetensors"
    assert run(folder, out, tiny_model, "--method", "trained", "--to", "anger", "--epochs", "1") == 0
    found = directions.load_directions(out)
    assert (found.emotions, found.method) == (("neutral", "anger"), "trained")
    assert found.notes["anger"]["pictures"] == 3
    assert any(parameter.abs().max() > 0 for parameter in found.shifts["anger"].last.parameters())


def test_pairs_in_a_folder_teach_every_emotion_in_it(folder, tmp_path, tiny_model, capsys):
    out = tmp_path / "found.safetensors"
    assert run(folder, out, tiny_model, "--method", "supervised", "--place", "up1", "--steps", "2") == 0
    assert "supervised directions from any other, at up1 of sd" in capsys.readouterr().out
    found = directions.load_directions(out)
    assert (found.emotions, found.t_edit, found.place) == (("neutral", "smiling"), 0, "up1")
    assert found.notes["smiling"]["pairs"] == 3
    assert run(folder, out, tiny_model, "--method", "supervised", "--steps", "0") == 2
    assert "--steps must lie in [1, inf], not 0" in capsys.readouterr().err


def edit(picture, out, model, *options):
    command = ["edit", picture, "-o", out, "--model", model, "--box", "0,0,40,40", "--steps", "3", *options]
    return main.main([*map(str, command)])


def test_a_face_is_edited_along_the_folders_direction(folder, tmp_path, tiny_model, capsys, monkeypatch):
    bank, picture, out = tmp_path / "found.safetensors", folder / "neutral" / "a.png", tmp_path / "out.png"
    assert run(folder, bank, tiny_model, "--place", "up0", "--scale", "7") == 0
    asyrp = ("--method", "asyrp")
    towards = ("--to", "Smiling", "--from", "neutral")
    assert edit(picture, out, tiny_model, *asyrp, "--directions", bank, *towards) == 0
    record = images.read_provenance(out)
    assert (record["method"], record["people"][0]["emotion"]) == ("asyrp", "smiling")
    assert record["directions"].startswith("mean directions at up0 of sd (neutral, smiling; 7 times")
    assert record["scale"] == 7
    assert "prompt" not in record["people"][0]
    assert images.open_image(out).tobytes() != images.open_image(picture).tobytes()
    capsys.readouterr()
    assert edit(picture, out, tiny_model, *asyrp, *towards) == 2
    assert "comes without directions; `emolib hspace fit` makes some" in capsys.readouterr().err
    monkeypatch.setattr(directions, "repo_path", lambda *parts: bank)  # those that come with MiniSD
    assert edit(picture, out, "minisd", *asyrp, "--person", "1=smiling:0") == 0
    assert images.open_image(out).tobytes() == images.open_image(picture).tobytes()
    capsys.readouterr()
    monkeypatch.setattr(directions, "repo_path", lambda *parts: tmp_path / "none")
    assert edit(picture, out, "minisd", *asyrp, *towards) == 2
    error = capsys.readouterr().err
    assert "none: no such file; " in error and "`emolib hspace fit data/emofaces" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method asyrp --directions no.safetensors --to awe", "no such file; make some with"),
        (
            "--directions x.safetensors --to awe",
            "--directions belongs to --method asyrp, not to edit-friendly",
        ),
        ("--method asyrp --directions BANK --to grinning", "unknown direction 'grinning'"),
        ("--method asyrp --directions BANK --to awe --prompt a", "takes no prompt"),
        ("--method asyrp --directions BANK --to awe --guidance-scale 3", "takes no prompt"),
        ("--method asyrp --directions BANK --to awe --guidance-scale 0", "takes no prompt"),
    ],
)
def test_impossible_directions_are_one_line(folder, tmp_path, tiny_model, capsys, options, message):
    bank = tmp_path / "bank.safetensors"
    tiny_pipelines.bank("sd").save(bank)
    options = [str(bank) if option == "BANK" else option for option in options.split()]
    assert edit(folder / "neutral" / "a.png", tmp_path / "out.png", tiny_model, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_bad_folders_are_one_line(folder, tmp_path, tiny_model, capsys):
    def refused(*arguments):
        assert main.main(["hspace", "fit", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    out = tmp_path / "x.safetensors"
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in refused(tmp_path / "empty", "--out", out)
    assert "no such folder" in refused(tmp_path / "none", "--out", out)
    assert "no picture has an emotion" in refused(folder / "neutral", "--out", out)
    assert "change the suffix" in refused(folder, "--out", tmp_path / "x.bin")
    assert "does not exist; make it" in refused(folder, "--out", tmp_path / "no" / "x.safetensors")
    assert "--scale must lie in" in refused(folder, "--out", out, "--scale", "nan")
    assert "--to belongs to --method trained" in refused(folder, "--out", out, "--to", "anger")
    for option, method in (("--pooled", "trained"), ("--epochs", "mean"), ("--t-start", "probe")):
        value = [] if option == "--pooled" else ["7"]
        said = refused(folder, "--out", out, "--method", method, option, *value)
        assert f"{option} belongs to --method" in said and f"not to {method}" in said
    for option, method in (("--epochs", "trained"), ("--steps", "supervised"), ("--levels", "mean")):
        said = refused(folder, "--out", out, "--method", method, option, "-3")
        assert f"{option} must lie in [1, inf], not -3" in said
    assert "--limit must lie in [2, inf]" in refused(folder, "--out", out, "--limit", "1")
    assert "unknown place in the network 'up9'" in refused(folder, "--out", out, "--place", "up9")
    for path in (folder / "Smiling").iterdir():
        path.unlink()
    assert "pictures of two emotions at least, not of ['neutral']" in refused(folder, "--out", out)
    assert main.main(["hspace", "show", str(out)]) == 2
    assert not out.exists()
