"""The leaderboard on scenes of several people: who is judged, who is watched, what is asked for."""

import data_standins
import evaluation_world as world
import numpy as np
import pytest
import torch

from emolib import images
from emolib.evaluation import measure, tasks
from emolib.judges import emotion
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = world.make(tmp_path_factory.mktemp("clone"))
    data_standins.write_scenes(home / "data" / "emofaces")
    return home


@pytest.fixture(autouse=True)
def clone(home, monkeypatch):
    monkeypatch.setenv("EMOLIB_HOME", str(home))


def value(board, method, metric):
    return board["methods"][method]["all"][metric]["value"]


def test_in_scenes_each_person_is_judged_and_bystanders_are_watched(tmp_path):
    names = ("nothing", "truth", "evaluation_world:blend")
    board = world.evaluate(tmp_path, *names, data="emofaces:scenes", targets=(), identity="")
    # Two scenes; in each both people change, or one of them alone: 3 edits with 4 faces asked, 2 not asked.
    assert (board["edits"], board["groups"]) == (6, 2)
    found = board["methods"]["evaluation_world:blend"]["all"]
    counts = {"emo_a": 8, "all_faces": 6, "background_psnr": 6, "bystander_levels": 4}
    assert {metric: found[metric]["n"] for metric in counts} == counts
    assert found["background_psnr"]["value"] == "inf"  # PerPerson keeps what lies outside the masks
    assert found["bystander_levels"]["value"] == found["bystander_emotion"]["value"] == 0
    assert found["psnr"]["value"] < 40
    assert value(board, "nothing", "bystander_levels") == 0
    assert value(board, "truth", "truth_psnr") == "inf"
    assert value(board, "truth", "bystander_levels") == 0
    assert value(board, "truth", "beats_nothing") == 1


def test_a_change_of_a_scene_is_the_same_whatever_else_is_asked_for(tmp_path):
    name = "evaluation_world:blend"
    (task, *_) = tasks.load_tasks("emofaces:scenes").tasks
    alone = next(change for change in task.changes if len(change.asked) == 1)
    for folder, targets in (("all", ()), ("one", (alone.asked[0].target,))):
        options = {"data": "emofaces:scenes", "targets": targets, "people": 1, "identity": ""}
        world.evaluate(tmp_path / folder, name, **options)
    made = [next((tmp_path / f).glob(f"cache/edits/*/*/{alone.name}.png")) for f in ("all", "one")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_person_of_a_scene_is_the_same_whoever_else_changes(tmp_path):
    options = {"data": "emofaces:scenes", "targets": (), "people": 1, "identity": ""}
    world.evaluate(tmp_path, "evaluation_world:blend", **options)
    (task,) = tasks.load_tasks("emofaces:scenes", people=1).tasks
    made = {file.stem: file for file in tmp_path.glob("cache/edits/*/*/*.png")}
    together, second = (np.asarray(images.open_image(made[name])) for name in ("all", "person1"))
    mask = task.changes[0].faces[1].mask != 0
    assert (together[mask] == second[mask]).all()
    assert (together[mask] != np.asarray(task.picture())[mask]).any()


def test_targets_are_all_that_is_asked_for():
    every = tasks.load_tasks("emofaces:scenes")
    asked = {face.target for task in every.tasks for change in task.changes for face in change.asked}
    for name in asked:
        found = tasks.load_tasks("emofaces:scenes", targets=(name,))
        got = {face.target for task in found.tasks for change in task.changes for face in change.asked}
        assert got == {name}
    both = tasks.load_tasks("emofaces:scenes", targets=tuple(asked))
    assert both.edits == every.edits and len(asked) > 1


def test_the_judge_need_not_know_what_a_bystander_feels():
    task = tasks.load_tasks("emofaces:scenes").tasks[0]
    judge = emotion.load_judge("heldout", device="cpu")
    wanted = {face.target for change in task.changes for face in change.asked}
    felt = {face.emotion for change in task.changes for face in change.faces if face.target is None}
    unknown = sorted(felt - wanted)
    assert unknown
    judge.labels = tuple("other" if label in unknown else label for label in judge.labels)
    decoded = measure.decode_task(task, whole=False, side=judge.size)
    tools = measure.Instruments(judge)
    edits = decoded.source.expand(len(task.changes), -1, -1, -1)
    found = measure.measure_edits(decoded, edits, measure.measure_reference(decoded, tools), tools)
    bystander = torch.tensor([face.target is None for _, face in decoded.rows])
    assert (torch.from_numpy(found["emo_a"]).isnan() == bystander).all()


def test_a_size_belongs_to_portraits(tmp_path):
    with pytest.raises(InputError, match="--size is for portraits"):
        world.evaluate(tmp_path, "nothing", data="emofaces:scenes", targets=(), identity="", size=64)
