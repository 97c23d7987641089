"""Cards and prompts: what is written comes from the numbers measured; the wall is named where it shows."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from train import cards, probe, report

from emolib.runtime import InputError

RATE = {"value": 0.9123, "low": 0.8911, "high": 0.9304, "n": 321}
LOG = [
    {"step": 0, "pictures": 0, "seconds": 0.0, "device": "2 CPU threads",
     "plan": {"batch": 64, "lr": 0.002, "seed": 0}},
    {"step": 100, "pictures": 6400, "seconds": 60.0, "loss": 1.5, "val_accuracy": 0.5},
    {"step": 1800, "pictures": 115200, "seconds": 480.0, "loss": 0.5, "val_accuracy": 0.9},
]  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A repository with reports, logs and calibrations; cards are read from the real texts."""
    monkeypatch.setattr(cards, "repo_path", lambda *parts: tmp_path.joinpath(*parts))
    (tmp_path / "reports").mkdir()
    role = {
        "accuracy": RATE,
        "accuracy_by_emotion": {"awe": RATE},
        "valence_error": RATE,
        "arousal_error": RATE,
    }
    judges = {"people": 100, "pictures": 900, "guide": role, "heldout": role, "probe": {"hair_color": RATE}}
    (tmp_path / "reports" / "judges.json").write_text(json.dumps(judges))
    for name in ("guide", "heldout"):
        folder = tmp_path / "data" / "judges" / name
        folder.mkdir(parents=True)
        (folder / "calibration.json").write_text(json.dumps({"temperature": 0.6176, "ece": 0.003, "n": 900}))
    for run in cards.RUNS["judges"]:
        folder = tmp_path / "work" / run
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in LOG))
    return tmp_path


def write(world, name="judges"):
    cards.write(name, world / "reports", world / "work")
    return (world / "data" / name / "README.md").read_text()


def test_a_card_holds_the_measured_numbers_and_the_cost_of_each_run(world):
    text = write(world)
    assert "91.2 % (89.1 to 93.0, n = 321)" in text and "| hair color | 91.2 %" in text
    assert "1,800 steps of 64 pictures, learning rate 0.002, seed 0: 8 min on 2 CPU threads (240" in text
    assert "0.618" in text and not re.search(r"[{}]", text)
    assert (world / "data" / "judges" / "training.png").stat().st_size > 1000


def test_logs_are_copied_and_enough_for_a_second_card(world):
    first = write(world)
    for log in world.glob("work/*/log.jsonl"):
        log.unlink()
    sizes = re.compile(r"\d+\.\d MB")
    assert sizes.sub("", write(world)) == sizes.sub("", first)


def test_a_run_that_was_gone_on_with_is_told_and_drawn_as_one(world):
    again = world / "work" / "judge-guide-2"
    again.mkdir()
    (again / "log.jsonl").write_text("\n".join(json.dumps(line) for line in LOG))
    text = write(world)
    once = "1,800 steps of 64 pictures, learning rate 0.002, seed 0: 8 min on 2 CPU threads (240 pictures/s)"
    assert f"{once}; then {once}" in text
    assert (world / "data" / "judges" / "logs" / "judge-guide-2.jsonl").is_file()
    seen, losses = cards.joined([LOG, LOG], "loss")
    assert seen == [6.4, 115.2, 121.6, 230.4] and losses == [1.5, 0.5, 1.5, 0.5]


def test_a_card_with_a_number_missing_is_not_written(world):
    with pytest.raises(InputError, match="a number is missing .*; run train.report"):
        write(world, "miniclip")
    (world / "work" / "judge-probe" / "log.jsonl").unlink()
    with pytest.raises(InputError, match="judge-probe"):
        write(world)
    assert not list((world / "data").glob("*/README.md"))


def test_prompts_name_the_wall_only_where_it_shows():
    row = {
        "emotion": "anger", "gender": "woman", "age": "old", "skin": "dark", "hair_style": "short",
        "hair_color": "red", "beard": False, "glasses": True, "clothes_color": "green",
        "background": "plain", "background_color": "blue",
    }  # fmt: skip
    hidden = [{"hair_style": "long"}, {"background": "cluttered"}, {"background": "textured"}]
    rows = pd.DataFrame([row, *({**row, **change} for change in hidden)])
    assert probe.shows_wall(rows).tolist() == [True, False, False, False]
    shown, *others = report._described(rows)
    assert shown.text.endswith("in front of a plain blue background") and "short red hair" in shown.text
    for caption in others:
        assert "blue" not in caption.text and "red hair" in caption.text and "background" not in caption.text
        assert caption.names == {"emotion", "gender", "hair_color", "glasses"}
    bald = pd.DataFrame([{**row, "hair_style": "bald", "hair_color": "none"}])
    (caption,) = report._described(bald)
    assert "a bald head" in caption.text and "hair_color" not in caption.names
    assert np.all([name in caption.names for name in ("background_color", "hair_style")])
