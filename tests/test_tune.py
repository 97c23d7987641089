"""`emolib tune`: the guide alone is asked, a floor is kept, what is killed goes on, the file can be used."""

import json

import evaluation_world as world
import pytest
import tiny_pipelines
from evaluation_world import home  # noqa: F401

from emolib.cli import main
from emolib.diffusion import presets
from emolib.evaluation import run, tune
from emolib.judges import emotion
from emolib.runtime import InputError

OPTIONS = ("--strengths", "0.3,0.6,0.9", "--guidance-scales", "7.5", "--steps", "2", "--device", "cpu")


def start(out, *options, floor="identity=-1"):
    """Tune img2img on the tiny model in the small world; the exit code."""
    own = ("--data", "emofaces:val", "--method", "img2img", "--identity", "evaluation_world:pixels")
    model = ("--model", str(tiny_pipelines.folder("sd")), "--targets", "anger,awe", "--budget", "16")
    return main.main(["tune", *own, *model, *OPTIONS, "--floor", floor, "-o", str(out), *options])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, home):  # noqa: F811
    """A finished search: its file, and the names of the judges that were asked for."""
    asked, find = [], emotion.find_network
    out = tmp_path_factory.mktemp("tuned") / "mine.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emotion, "find_network", lambda name, kind: asked.append(str(name)) or find(name, kind))
        assert start(out, "--judge", "guide") == 0
    return out, asked


def test_only_the_guide_is_asked(tuned):
    assert set(tuned[1]) == {"guide"}


def test_the_best_that_keeps_the_floor_is_written_and_all_scores_are_there(tuned):
    file, _ = tuned
    first, last = json.loads((file.parent / "mine-search" / "img2img-scores.json").read_text())
    assert (len(first["settings"]), len(last["settings"])) == (4, 3)
    assert set(last["settings"]) < set(first["settings"])
    assert last["people"] >= first["people"] == 2
    best = max(last["settings"], key=lambda name: last["settings"][name]["goal"]["value"])
    content = json.loads(file.read_text())
    fields = content["settings"]["img2img"]
    assert best == "img2img " + " ".join(f"{name}={value:g}" for name, value in fields.items())
    assert content["tuned"]["img2img"]["chosen"] == last["settings"][best]
    preset = presets.find_preset(str(tiny_pipelines.folder("sd")), file)
    assert preset.settings["img2img"].fields == fields
    assert "emofaces:val, judge guide" in preset.explain("img2img")["strength"][1]


def test_a_killed_search_goes_on_and_gives_the_same_file(tuned, tmp_path, monkeypatch):
    measure, count = run.Measurer.measure, []

    def interrupted(self, task):
        count.append(task.id)
        if len(count) == 2:
            raise KeyboardInterrupt
        return measure(self, task)

    monkeypatch.setattr(run.Measurer, "measure", interrupted)
    again = tmp_path / "mine.json"
    assert start(again, "--judge", "guide") == 130
    assert not again.exists()
    assert start(again, "--judge", "guide") == 0
    assert again.read_bytes() == tuned[0].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "heldout"], "a held-out judge is for scores"),
        (["--judge", "guide", "--data", "emofaces:test"], "tune on emofaces:val"),
        (["--judge", "guide", "--budget", "15"], "4 settings take 16 edits or more"),
        (["--budget", "0"], "--budget must lie in [4,"),
        (["--strengths", "0.5,nan"], "--strengths must lie in [0.01, 1], not nan"),
        (["--strengths", "5"], "--strengths must lie in"),
        (["--guidance-scales", "inf"], "--guidance-scales must lie in"),
        (["--floor", "ssim=nan"], "--floor must lie in"),
        (["--judge", "guide", "--floor", "identity=2"], "no setting keeps identity 2"),
        (["--judge", "guide", "--floor", "looks=1"], "--floor looks: not measured here"),
        (["--method", "imgimg"], "did you mean 'img2img'"),
        (["--model", "sdxl", "--method", "nothing"], "unknown method"),
    ],
)
def test_a_refusal_is_one_line(tuned, options, message, capsys):
    out = tuned[0].with_name("other.json")
    assert start(out, *options) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_rounds_halve_the_settings_and_keep_to_the_budget():
    rounds = tune.plan_rounds(17, 400)
    assert [count for count, _ in rounds] == [17, 9, 5, 3]
    assert sum(count * edits for count, edits in rounds) <= 400
    assert all(edits >= 2 for _, edits in rounds)
    with pytest.raises(InputError, match="try fewer"):
        tune.plan_rounds(17, 100)


def test_smaller_rounds_are_part_of_larger_ones():
    tasks = world.run.tasks.load_tasks("emofaces:val").tasks
    small, large = tune.choose_tasks(tasks, 2, 8), tune.choose_tasks(tasks, 8, 8)
    assert small == large[:2]
    assert [len(task.changes) for task in large] == [2] * 4
