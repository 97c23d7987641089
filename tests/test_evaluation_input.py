"""What `emolib evaluate` says to bad input: one line that names what is wrong and where."""

import json
import os
import shutil
import subprocess
import sys

import evaluation_world as world
import numpy as np
import pandas as pd
import pytest
from evaluation_world import home  # noqa: F401
from PIL import Image

from emolib import images
from emolib.cli import main
from emolib.evaluation import tasks
from emolib.metrics import optional
from emolib.runtime import InputError

BAD = {
    "unknown method 'img2imgs'; did you mean 'img2img'": {"methods": ["img2imgs"]},
    "unknown protocol 'piebnch'; did you mean 'piebench'": {"protocol": "piebnch"},
    "unknown metric 'pnsr'; did you mean 'psnr'": {"metrics": ("pnsr",)},
    "unknown EmoFaces split 'tset'; did you mean 'test'": {"data": "emofaces:tset"},
    "unknown target emotion 'angre'; did you mean 'anger'": {"targets": ("angre",)},
    "unknown kind of sources 'al'": {"sources": "al"},
    "zero pictures to edit": {"people": 0},
    "no such folder": {"data": "nowhere"},
    "scenes-test.parquet: EmoFaces is not there": {"data": "emofaces:scenes"},
    "undeclared' is no editor that says which judges it asks": {"methods": ["evaluation_world:undeclared"]},
    "cannot be imported": {"methods": ["evaluation_world:nobody"]},
    "no editor": {"methods": ["evaluation_world:number"]},
    "could not convert": {"methods": ["evaluation_world:blend@much"]},
    "two methods are called 'nothing'": {"methods": ["nothing", "nothing"]},
    r"returned \(2, 3, 48, 48\) where \(2, 3, 96": {"methods": ["evaluation_world:shrinks"]},
    "returned NaN": {"methods": ["evaluation_world:breaks"]},
    "emofacesX: no such folder": {"data": "emofacesX"},  # not EmoFaces, whatever it begins with
    "unknown judge .* 'gide'; did you mean 'guide'": {"others": ("gide",)},
    "unknown judge of metric 'emo_a@foo' 'foo'; known: guide": {"metrics": ("emo_a@foo",)},
    r"--examples must lie in \[0, inf\], not -1": {"examples": -1},
    "':blend' cannot be imported": {"methods": [":blend"]},
    "judge 'nosuch/model'": {"others": ("nosuch/model",)},
    r"size: .* must lie in \[16, 4096\], not 100000": {"size": 100000},
    "unknown baseline 'nothin'; did you mean 'nothing'": {"baseline": "nothin"},
}


for _name in ("unit", "eight_bit", "whole_numbers"):
    BAD[rf"'evaluation_world:{_name}' on .*: .*\[-1, 1\]"] = {"methods": [f"evaluation_world:{_name}"]}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_clear_line(message, tmp_path):
    more = {"methods": ["nothing"], "people": 2, "targets": ("awe", "fear")} | BAD[message]
    with pytest.raises(InputError, match=message) as caught:
        world.evaluate(tmp_path / "out", *more.pop("methods"), **more)
    assert "\n" not in str(caught.value)


def submit(folder, **changes):
    """A folder with every edit that is asked for (the sources), changed as told."""
    found = tasks.load_tasks("emofaces:test", targets=("anger", "awe", "fear"))
    edits = []
    folder.mkdir(exist_ok=True)
    for task in found.tasks:
        for change in task.changes:
            name = f"{task.id}-{change.name}.png"
            images.save_image(task.picture(), folder / name)
            edits.append({"source": task.id, "target": change.name, "path": name})
    about = {"method": "theirs", "judges_used": [], "edits": edits} | changes.pop("about", {})
    for change in changes.values():
        change(folder, edits)
    (folder / "manifest.json").write_text(json.dumps(about))
    return str(folder)


def test_a_folder_of_edits_is_scored_like_an_editor(tmp_path):
    board = world.evaluate(tmp_path / "out", "nothing", submit(tmp_path / "theirs"))
    assert board["methods"]["theirs"]["all"] == board["methods"]["nothing"]["all"]
    mixed = world.evaluate(tmp_path / "mixed", submit(tmp_path / "theirs", order=_reverse))
    assert mixed["methods"]["theirs"]["all"] == board["methods"]["theirs"]["all"]


def _reverse(folder, edits):
    edits.reverse()


BROKEN = b"\x89PNG\r\n\x1a\n" + b"0" * 60


def _small(folder, edits):
    image = images.open_image(folder / edits[4]["path"])
    images.save_image(image.resize((48, 48)), folder / edits[4]["path"])


SUBMISSIONS = {
    "1 of 11 edits are missing, the first is": {"change": lambda folder, edits: edits.pop(3)},
    "png is listed, but not there": {"change": lambda folder, edits: (folder / edits[2]["path"]).unlink()},
    "has no source '99999-awe'; these edits are of other data": {
        "change": lambda _, edits: edits.append(edits[0] | {"source": "99999-awe"})
    },
    "is listed twice": {"change": lambda _, edits: edits.append(edits[0])},
    "leaves the folder": {"change": lambda _, edits: edits[0].update(path="../x.png")},
    "48 x 48 px, but its source has 96 x 96": {"change": _small},
    "not a readable picture": {
        "change": lambda folder, edits: (folder / edits[1]["path"]).write_bytes(BROKEN)
    },
    'add "judges_used": \\[\\] for none': {"about": {"judges_used": None}},
    "asks the heldout judge": {"about": {"judges_used": ["heldout"]}},
    "theirs' asks the heldout": {"about": {"judges_used": ["data/judges/Held-Out"]}},
}


@pytest.mark.parametrize("message", SUBMISSIONS)
def test_bad_submissions_name_the_file(message, tmp_path):
    folder = submit(tmp_path / "theirs", **SUBMISSIONS[message])
    with pytest.raises(InputError, match=message) as caught:
        world.evaluate(tmp_path / "out", folder)
    if "heldout" not in message:
        assert "manifest.json" in str(caught.value) or ".png" in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="is not writable; give another folder"):
        world.evaluate(tmp_path / "out", "nothing")


def test_out_below_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "board"):
        with pytest.raises(InputError, match="is a file; give another folder"):
            world.evaluate(out, "nothing")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_submission_may_be_called_anything(tmp_path):
    theirs = submit(tmp_path / "theirs", about={"method": "ours@foo |\n2"})
    board = world.evaluate(tmp_path / "out", "nothing", theirs)
    assert list(board["methods"]) == ["nothing", "ours@foo / 2"]
    assert "| ours@foo / 2 |" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(InputError, match="manifest.json: this file is missing"):
        world.evaluate(tmp_path / "out", str(tmp_path))
    for text, fault in {
        "{": "not a readable JSON file",
        "[]": "not a JSON object",
        "{}": "lacks 'edits'",
    }.items():
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=f"manifest.json: {fault}"):
            world.evaluate(tmp_path / "out", str(tmp_path))


def test_people_under_one_emotion_have_no_true_edit(tmp_path, monkeypatch):
    shutil.copytree(world.make_home() / "data" / "judges", tmp_path / "data" / "judges")
    target = tmp_path / "data" / "emofaces"
    target.mkdir(parents=True)
    frame = pd.read_parquet(world.make_home() / "data" / "emofaces" / "portraits-test.parquet")
    frame[frame["emotion"] == "neutral"].to_parquet(target / "portraits-test.parquet")
    monkeypatch.setenv("EMOLIB_HOME", str(tmp_path))
    with pytest.raises(InputError, match="emofaces:test: zero pictures to edit; .* two emotions"):
        world.evaluate(tmp_path / "out", "nothing")


def test_two_edits_of_two_people_have_no_distance_of_sets(tmp_path):
    board = world.evaluate(tmp_path, "nothing", "truth", people=2, targets=("awe",))
    assert board["methods"]["nothing"]["all"]["emo_a"]["n"] == 2
    assert "frechet" not in board["methods"]["nothing"]["all"]  # whoever is left out, one picture remains


def test_a_list_needs_neither_methods_nor_a_folder(capsys):
    common = ["evaluate", "--data", "emofaces:test", "--people", "2", "--targets", "awe"]
    assert main.main([*common, "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for given, missing in (([], "--methods"), (["--methods", "nothing"], "--out FOLDER")):
        assert main.main([*common, *given]) == 2
        assert missing in capsys.readouterr().err


def test_an_identity_network_lies_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_faces.py").write_text("def network(faces):\n    return faces.mean((2, 3))\n")
    monkeypatch.chdir(tmp_path)
    board = world.evaluate(tmp_path / "out", "nothing", people=2, identity="my_faces:network")
    assert board["methods"]["nothing"]["all"]["identity"]["value"] == pytest.approx(1)


def test_two_pictures_are_two_tasks_however_alike_their_names(tmp_path):
    mine = tmp_path / "mine"
    (mine / "awe").mkdir(parents=True)
    for seed, name in enumerate(("awe/b.png", "awe-b.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        images.save_image(Image.fromarray(pixels), mine / name)
    found = tasks.load_tasks(str(mine))
    assert len({task.id for task in found.tasks}) == 2
    blend = "evaluation_world:blend"
    board = world.evaluate(tmp_path / "out", blend, data=str(mine), targets=("fear",))
    apart = board["methods"][blend]["all"]["psnr"]
    assert apart["n"] == 2 and apart["low"] < apart["high"]  # one picture twice would have no spread
    assert len(list((tmp_path / "out").glob("example-*.webp"))) == 2


def test_lpips_is_loaded_only_where_its_column_is_asked_for(tmp_path, monkeypatch):
    def fetched():
        raise AssertionError("LPIPS's weights would be fetched")

    monkeypatch.setitem(optional.COLUMNS, "lpips", fetched)
    board = world.evaluate(tmp_path, "nothing", people=2)
    assert "lpips" not in board["not_available"]
    with pytest.raises(AssertionError, match="would be fetched"):
        world.evaluate(tmp_path, "nothing", people=2, metrics=("emo_a", "lpips"))


def command(*more, out, **options):
    """Run `emolib evaluate` in a process of its own."""
    line = [sys.executable, "-m", "emolib", "evaluate", "--methods", "nothing", "--data", "emofaces:test"]
    line += ["--people", "2", "--targets", "awe,fear", "--device", "cpu", "--out", str(out), *more]
    return subprocess.run(line, capture_output=True, text=True, **options)


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory", "CUDA out of memory"])
def test_too_little_memory_is_one_line(words, tmp_path, monkeypatch, capsys):
    def fail(_):
        raise RuntimeError(words)

    monkeypatch.setattr("emolib.evaluation.run.execute", fail)
    line = ["evaluate", "--methods", "nothing", "--data", "emofaces:test", "--people", "2", "--device", "cpu"]
    assert main.main([*line, "--targets", "awe", "--out", str(tmp_path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("emolib: out of memory")


def test_the_table_reaches_any_stdout(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = command(out=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "| method | emo_a \\u2191" in done.stdout and "Traceback" not in done.stderr
    closed = subprocess.Popen(
        [sys.executable, "-m", "emolib", "evaluate", "--data", "emofaces:test", "--list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    closed.stdout.close()  # as `| head` does
    assert b"Traceback" not in closed.stderr.read() and b"Exception" not in closed.stderr.read()
    closed.wait()
