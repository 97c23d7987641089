"""Killed at any moment and run again: the same bytes, nothing made twice, nothing broken believed."""

import json
import os
import random
import signal
import sys

import evaluation_world as world
import numpy as np
import pytest
import torch
from evaluation_world import home  # noqa: F401
from PIL import ImageOps

from emolib import images
from emolib.data import emofaces
from emolib.emotions import words
from emolib.evaluation import run, store, tasks
from emolib.judges import emotion as judges
from emolib.runtime import generator

TABLES = ("leaderboard.json", "leaderboard.csv", "leaderboard.md")
METHODS = ("nothing", "truth", "evaluation_world:blend")


def execute(out):
    run.execute(run.prepare(world.settings(out, *METHODS)))
    return tables(out)


def tables(out):
    return [(out / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, execute(out)


def in_a_child(out, last_event):
    """Run in a forked process that dies by SIGKILL at that audit event; how many events it got through.

    The interpreter raises one before every open, rename, removal, folder and import, so that the moments
    between two events are all alike to whoever looks at the disk.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked process must not open the parent's thread pool
        prepared, seen = run.prepare(world.settings(out, *METHODS)), 0

        def count(event, arguments):
            nonlocal seen
            seen += 1
            if seen == last_event:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            run.execute(prepared)
            os.write(write, str(seen).encode())
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return None if os.WIFSIGNALED(status) else int(text)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_ends_with_the_same_bytes(done, tmp_path):
    # `done` has imported everything, so that the children need not.
    events = in_a_child(tmp_path / "whole", -1)
    expected, rng, killed = tables(tmp_path / "whole"), random.Random(0), 0
    for k in range(4):
        # Every run has less left to do: aim at all of it first, then at ever smaller parts.
        killed += in_a_child(tmp_path / "killed", rng.randrange(1, events // (k + 1))) is None
    assert killed >= 2
    assert in_a_child(tmp_path / "killed", -1) is not None
    assert tables(tmp_path / "killed") == expected


@pytest.fixture
def work(monkeypatch):
    """Counts edits made and pictures judged."""
    count = {"edits": 0, "judged": 0}
    describe, call = judges.Judge.describe, world.Blend.__call__

    def judged(self, pictures, **options):
        count["judged"] += len(pictures)
        return describe(self, pictures, **options)

    def edited(self, pictures, emotion, **options):
        count["edits"] += len(emotion)
        return call(self, pictures, emotion, **options)

    monkeypatch.setattr(judges.Judge, "describe", judged)
    monkeypatch.setattr(world.Blend, "__call__", edited)
    return count


def test_a_finished_run_does_nothing_again(done, work):
    out, expected = done
    assert execute(out) == expected
    assert work == {"edits": 0, "judged": 0}


def spoil(path, how):
    stored = bytearray(path.read_bytes())
    if how == "truncated":
        stored = stored[: len(stored) // 2]
    elif how == "one bit":
        stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "one bit", "gone"])
def test_a_broken_entry_is_measured_again_not_believed(done, work, how):
    out, expected = done
    entry = sorted((out / "cache" / "measured").glob("evaluation_world_blend-*/*"))[1]
    spoil(entry, how)
    assert execute(out) == expected
    # Three edits, three with their colours put back, each once, and three for the guide.
    assert work == {"edits": 0, "judged": 9}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("anger.png", "truncated"),
        ("anger.png", "one bit"),
        ("anger.png", "gone"),
        ("record.json", "truncated"),
    ],
)
def test_a_broken_picture_or_record_has_it_edited_again(done, work, name, how):
    out, expected = done
    folder = next((out / "cache" / "edits").glob("evaluation_world_blend-*"))
    spoil(sorted(folder.glob(f"*/{name}"))[0], how)
    assert execute(out) == expected
    assert work == {"edits": 3, "judged": 0}  # the same pictures come out, so their numbers still hold


def test_edits_replaced_by_others_are_measured_as_they_are(done, tmp_path):
    out, expected = done
    folder = next((out / "cache" / "edits").glob("evaluation_world_blend-*"))
    board = world.evaluate(tmp_path, str(folder))
    first, second = sorted(folder.glob("*/anger.png"))[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    other = world.evaluate(tmp_path, str(folder))
    first.write_bytes(kept)
    name = "evaluation_world:blend"
    assert other["methods"][name]["all"]["psnr"] != board["methods"][name]["all"]["psnr"]
    assert world.evaluate(tmp_path, str(folder)) == board


def test_more_people_and_methods_use_what_is_there(done, work, tmp_path):
    world.evaluate(tmp_path, "nothing", people=2)
    assert work["edits"] == 0
    first = work["judged"]
    world.evaluate(tmp_path, "nothing", "evaluation_world:blend", people=2)
    assert work == {"edits": 6, "judged": first + 2 * 9}
    world.evaluate(tmp_path, "nothing", "evaluation_world:blend", people=3)
    assert work["edits"] == 6 + 2  # the third person's picture shows awe already


def test_another_seed_makes_other_edits(work, tmp_path):
    first = world.evaluate(tmp_path, "evaluation_world:blend", people=2)
    second = world.evaluate(tmp_path, "evaluation_world:blend", people=2, seed=1)
    assert work["edits"] == 12
    values = [board["methods"]["evaluation_world:blend"]["all"]["psnr"]["value"] for board in (first, second)]
    assert values[0] != values[1]


def test_several_processes_give_the_same_bytes(done, tmp_path, monkeypatch):
    _, expected = done

    class State:
        num_processes, process_index = 3, 0
        is_main_process = property(lambda self: self.process_index == 0)

        def wait_for_everyone(self):
            """The others, one after the other, do their part of the tasks while the first one waits."""
            if self.process_index == 0:
                for State.process_index in (1, 2):
                    assert run.execute(run.prepare(world.settings(tmp_path, *METHODS))) is None
                State.process_index = 0

    monkeypatch.setattr("accelerate.PartialState", State)
    assert execute(tmp_path) == expected


def test_what_decides_an_edit_makes_it_anew(work, tmp_path, monkeypatch):
    def run_again():
        work["edits"] = 0
        world.evaluate(tmp_path, "evaluation_world:blend", people=2)
        return work["edits"]

    assert run_again() == 6 and run_again() == 0
    with monkeypatch.context() as patch:  # another word in the prompt, of one target of both people
        patch.setitem(words.ADJECTIVES, "fear", "frightened")
        assert run_again() == 6
    assert run_again() == 6
    with monkeypatch.context() as patch:  # another picture under the same name
        image = emofaces.Portraits.image
        patch.setattr(emofaces.Portraits, "image", lambda *x: ImageOps.invert(image(*x)))
        assert run_again() == 6
    assert run_again() == 6
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    assert run_again() == 6 and run_again() == 0


def test_an_edit_is_the_same_whatever_else_is_asked_for(tmp_path):
    blend = "evaluation_world:blend"
    world.evaluate(tmp_path / "all", blend)
    world.evaluate(tmp_path / "one", blend, people=1, targets=("awe",))
    (first,) = (tmp_path / "one" / "cache" / "edits").glob("*/*/awe.png")
    (again,) = (tmp_path / "all" / "cache" / "edits").glob(f"*/{first.parent.name}/awe.png")
    assert first.read_bytes() == again.read_bytes()
    # A portrait is person 0 of its picture: this is what `emolib edit` makes of it with the recorded seed.
    seed = json.loads((first.parent / "record.json").read_text())["seed"]
    (task,) = tasks.load_tasks("emofaces:test", people=1, targets=("awe",)).tasks
    source = images.to_tensor(task.picture())
    alone = world.blend(source, ["awe"], generator=generator(seed, "person", 0))
    assert images.to_pil(alone)[0].tobytes() == images.open_image(first).tobytes()


def test_an_entry_is_whole_or_nothing(tmp_path):
    path = tmp_path / "deep" / "one.entry"
    store.write_arrays(path, {"a": np.arange(3.0), "b": np.array(["x"])})
    found = store.read_arrays(path)
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == ["x"]
    stored = path.read_bytes()
    for cut in range(0, len(stored), 37):
        path.write_bytes(stored[:cut])
        assert store.read_arrays(path) is None
    assert store.read_arrays(tmp_path / "none.entry") is None
