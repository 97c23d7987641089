"""The leaderboard on scenes of several people: who is judged, who is watched, what is asked for."""

import shutil

import data_standins
import evaluation_world as world
import numpy as np
import pytest
import torch
from evaluation_world import value

from emolib import images
from emolib.evaluation import measure, tasks
from emolib.judges import emotion
from emolib.runtime import InputError


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A copy of the clone in which there are scenes too."""
    copy = tmp_path_factory.mktemp("clone")
    shutil.copytree(world.make_home(), copy, dirs_exist_ok=True)
    data_standins.write_scenes(copy / "data" / "emofaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOLIB_HOME", str(copy))
        yield


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
    alone = next(change for change in task.changes if len(change.edited) == 1)
    for folder, targets in (("all", ()), ("one", (alone.edited[0].emotion,))):
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
    mask = task.changes[0].people[1].mask != 0
    assert (together[mask] == second[mask]).all()
    assert (together[mask] != np.asarray(task.picture())[mask]).any()


def test_targets_are_all_that_is_asked_for():
    every = tasks.load_tasks("emofaces:scenes")
    asked = {person.emotion for _, change in every.edits for person in change.edited}
    for name in asked:
        some = tasks.load_tasks("emofaces:scenes", targets=(name,))
        assert {person.emotion for _, change in some.edits for person in change.edited} == {name}
    both = tasks.load_tasks("emofaces:scenes", targets=tuple(asked))
    assert len(both.edits) == len(every.edits) and len(asked) > 1


def test_the_judge_need_not_know_what_a_bystander_feels():
    task = tasks.load_tasks("emofaces:scenes").tasks[0]
    judge = emotion.load_judge("heldout", device="cpu")
    wanted = {person.emotion for change in task.changes for person in change.edited}
    felt = {p.source_emotion for change in task.changes for p in change.people if p.emotion is None}
    unknown = sorted(felt - wanted)
    assert unknown
    judge.labels = tuple("other" if label in unknown else label for label in judge.labels)
    decoded = measure.decode_task(task, whole=False, side=judge.size)
    tools = measure.Instruments(judge)
    edits = decoded.source.expand(len(task.changes), -1, -1, -1)
    found = measure.measure_edits(decoded, edits, measure.measure_reference(decoded, tools), tools)
    bystander = torch.tensor([person.emotion is None for _, person in decoded.rows])
    assert (torch.from_numpy(found["emo_a"]).isnan() == bystander).all()


def test_a_size_belongs_to_portraits(tmp_path):
    with pytest.raises(InputError, match="--size is for portraits"):
        world.evaluate(tmp_path, "nothing", data="emofaces:scenes", targets=(), identity="", size=64)
