"""The leaderboard at a model's own size; what "course" names; what is measured of one task."""

import json
from dataclasses import dataclass

import evaluation_world as world
import numpy as np
import pytest
import torch
from evaluation_world import home  # noqa: F401
from PIL import Image

from emolib import images
from emolib.evaluation import measure, methods, tasks
from emolib.judges import emotion as judges
from emolib.metrics import emotion, quality
from emolib.runtime import InputError


def test_sources_and_truths_are_resampled_alike_and_boxes_with_them():
    whole = tasks.load_tasks("emofaces:test", people=1)
    small = tasks.resize_tasks(whole, 64)
    (before,), (after,) = whole.tasks, small.tasks
    assert before.picture().size == (96, 96)
    shown = [[task.picture, *(change.truth for change in task.changes)] for task in (before, after)]
    for old, new in zip(*shown, strict=True):
        expected = images.to_pil(images.resize(images.to_tensor(old()), 64))[0]
        assert new().tobytes() == expected.tobytes()
    box, scaled = (np.array(task.changes[0].people[0].box) for task in (before, after))
    assert np.abs(scaled - box * 64 / 96).max() <= 0.5
    assert small.digest != whole.digest
    assert "64 px" in small.note and "from 96 px" in small.note
    assert tasks.resize_tasks(whole, None) is whole and tasks.resize_tasks(whole, 96).note == ""
    with pytest.raises(InputError, match=r"size: .* must lie in \[16, 4096\], not 8"):
        tasks.resize_tasks(whole, 8)


def test_oblong_pictures_keep_their_shape(tmp_path):
    Image.new("RGB", (160, 96), "white").save(tmp_path / "a.png")
    (task,) = tasks.resize_tasks(tasks.load_tasks(str(tmp_path)), 64).tasks
    assert task.picture().size == (104, 64)  # 106.7, to a multiple of 8
    assert task.changes[0].people[0].box == (0, 0, 104, 64)


def test_the_board_says_its_size_and_shows_its_first_edits(tmp_path):
    name = "evaluation_world:blend"
    board = world.evaluate(tmp_path, "nothing", name, "truth", size=48, examples=2)
    assert board["size"] == 48
    assert "Edited and judged at 48 px" in (tmp_path / "leaderboard.md").read_text()
    assert board["methods"]["nothing"]["all"]["psnr"]["value"] == "inf"
    assert board["methods"]["truth"]["all"]["truth_psnr"]["value"] == "inf"
    shown = json.loads((tmp_path / "examples.json").read_text())["examples"]
    assert [row["from"] for row in shown] == ["neutral", "amusement"]
    assert shown[0]["to"] != shown[1]["to"]
    for row in shown:
        assert row["cells"] == ["source", "true answer", name]
        assert Image.open(tmp_path / row["file"]).size == (3 * 48, 48)
        assert row["scores"]["truth"]["truth_psnr"] == "inf"
        assert row["scores"]["nothing"]["identity"] == pytest.approx(1, abs=1e-5)
    world.evaluate(tmp_path, "nothing", name, "truth", size=48, examples=1)
    assert len(list(tmp_path.glob("example-*.webp"))) == 1


def test_the_size_is_that_of_the_models(tmp_path, monkeypatch):
    one, two = (methods.Method(f"m{s}", "", (), "", methods.UNEDITED["nothing"], size=s) for s in (48, 64))
    for found in ((one,), (one, two)):
        monkeypatch.setattr(methods, "load_methods", lambda *_, found=found: (found, {}))
        if len(found) == 1:
            assert world.evaluate(tmp_path / "a", "m48")["size"] == 48
        else:
            with pytest.raises(InputError, match="work at 48 and 64 px; choose one with --size"):
                world.evaluate(tmp_path / "b", "m48", "m64")


def test_course_leaves_out_what_cannot_be_had_and_says_so(tmp_path, monkeypatch):
    def missing(options):
        raise InputError("no directions here")

    monkeypatch.setattr(methods, "COURSE", ("nothing", "asyrp", "truth"))
    monkeypatch.setitem(methods.EDITORS, "asyrp", missing)
    board = world.evaluate(tmp_path, "course", people=2)
    assert list(board["methods"]) == ["nothing", "truth"]
    assert board["not_available"]["asyrp"] == "not in this table (no directions here)"
    with pytest.raises(InputError, match="no directions here"):
        world.evaluate(tmp_path, "asyrp", people=2)


def test_course_holds_the_bounds_and_the_editors_of_the_command_line():
    assert methods.COURSE[0] == "nothing" and methods.COURSE[-1] == "truth"
    assert {"colour", "img2img", "ddim", "edit-friendly", "prompt-to-prompt"} < set(methods.COURSE)
    assert "null-text" not in methods.COURSE


def test_detail_is_given_back_to_editors_with_an_autoencoder(monkeypatch):
    found = tasks.load_tasks("emofaces:test", people=1)
    with pytest.raises(InputError, match="'colour\\+detail': ColourTransfer has no autoencoder"):
        methods.load_method("colour+detail", found, methods.Options())
    with pytest.raises(InputError, match="unknown method 'colour\\+detial'"):
        methods.load_method("colour+detial", found, methods.Options())

    @dataclass(frozen=True)
    class Latent(world.Blend):
        backbone: object = None

    monkeypatch.setitem(methods.EDITORS, "latent", lambda options: Latent())
    monkeypatch.setitem(methods.EDITORS, "c++", lambda options: Latent())
    captions = [methods.load_method(name, found, methods.Options()).caption for name in ("c++", "c+++detail")]
    assert ["KeepDetail" in caption for caption in captions] == [False, True]
    made = methods.load_method("latent+detail@0.25", found, methods.Options())
    assert made.caption.startswith("KeepDetail(editor=") and "strength=0.25" in made.caption


@pytest.fixture(scope="module")
def seen():
    """(decoded task, edits: the source, the truth and a blend of both; judge, known, columns, passes)."""
    task = tasks.load_tasks("emofaces:test", targets=("anger", "awe", "fear")).tasks[0]
    judge = judges.load_judge("heldout", device="cpu")
    decoded = measure.decode_task(task, whole=True, side=judge.size)
    tools = measure.Instruments(judge)
    known = measure.measure_reference(decoded, tools)
    source, truth = decoded.source, decoded.truths
    edits = torch.cat([source, truth[1:2], torch.lerp(source, truth[2:3], 0.4)])
    passes = []
    hook = judge.network.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    columns = measure.measure_edits(decoded, edits, known, tools)
    hook.remove()
    return decoded, edits, judge, known, columns, passes


def test_the_judge_looks_once_at_what_is_new(seen):
    decoded, edits, _, _, _, passes = seen
    recoloured = quality.match_colours(edits, decoded.source.expand_as(edits))
    # The source was judged before, also with its own colours; the truth with the source's colours was not.
    assert torch.equal(recoloured[0], edits[0]) and not torch.equal(recoloured[1], edits[1])
    assert passes == [1 + 2]


def test_numbers_are_the_judges_own(seen):
    decoded, edits, judge, known, columns, _ = seen
    target = torch.tensor([judge.labels.index(person.emotion) for _, person in decoded.rows])
    before = judge(decoded.source).probs.expand(3, -1)
    recoloured = quality.match_colours(edits, decoded.source.expand_as(edits))
    for name, shown in (("emo_s", edits), ("emo_s_colour", recoloured)):
        own = torch.cat([judge(one[None]).probs for one in shown])
        wanted = emotion.emotion_score(own, before, target)
        torch.testing.assert_close(torch.from_numpy(columns[name]), wanted, atol=1e-5, rtol=1e-4)
    assert columns["emo_s"][0] == columns["emo_s_colour"][0] == 0  # exactly: it is the source
    assert (columns["probs"][1] == known["truth_probs"][1]).all()
    assert columns["emo_s"][2] != columns["emo_s_colour"][2]
