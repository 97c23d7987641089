"""The editing benchmarks: peers do the same work, crossing points and untouched pixels are right."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_pipelines import pictures, tiny

from emolib.runtime import repo_path


def load(name):
    spec = importlib.util.spec_from_file_location(name, repo_path("benchmarks", f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def costs():
    return load("editing")


@pytest.fixture(scope="module")
def figures():
    return load("editing_figures")


def test_the_peers_take_as_many_evaluations_as_ours(costs):
    model, source = tiny("sd"), pictures()
    edits = costs.contestants(model, 5)
    pairs = {costs.IMG2IMG: "img2img", costs.LOOP: "DDIM inversion", costs.LEDITS: "edit-friendly inversion"}
    for peer, mine in pairs.items():
        found = [
            costs.measured(model, lambda edit=edits[name]: edit(source, ["anger", "awe"], "man"))
            for name in (peer, mine)
        ]
        assert found[0][0].shape == found[1][0].shape == (2, *source.shape[1:])
        assert found[0][1]["evaluations"] == found[1][1]["evaluations"] > 0, peer


def test_eight_in_one_go_against_eight_is_a_ratio_of_times(costs):
    one, eight = [{"processor_seconds": 1.0}] * 2, [{"processor_seconds": 4.0}, {"processor_seconds": 2.0}]
    assert costs.gain(one, eight) == {"value": 3.0, "low": 2.0, "high": 4.0, "n": 2}


def test_ledits_and_ours_are_counted_alike_and_judged_on_the_same_pictures(costs, monkeypatch):
    rivals = load("ledits")
    clock = iter(range(1000))
    monkeypatch.setattr(costs.time, "process_time", lambda: float(next(clock)))  # every call takes 1 s
    args = SimpleNamespace(split="val", people=1, rounds=2, steps=6)
    found = rivals.compare(tiny("sd"), args)
    editors = found["editors"]
    assert list(editors) == [f"{name}, {n} steps" for name in ("LEDITS++", "emolib edit") for n in (6, 2)]
    for row in editors.values():
        assert row["target seen"]["n"] == row["PSNR to the truth, dB"]["n"] == 8 and row["one edit"]
        assert row["eight edits in one go"]["seconds"]["n"] == 2
    assert editors["emolib edit, 6 steps"][costs.ROUND_TRIP]["value"] > 60  # ours is exact
    few, many = (editors[f"emolib edit, {n} steps"]["one edit"]["evaluations"]["value"] for n in (2, 6))
    assert few < many
    assert {value["value"] for value in found["processor time"].values()} == {1.0}
    assert len(found["processor time"]) == 6 and len(rivals.report(found).splitlines()) == 10


def curve(figures, shares):
    """Rows of four people whose column "hit" has these means at the strengths."""
    rows = figures.Rows()
    for s, share in zip(figures.STRENGTHS, shares, strict=True):
        for person in range(4):
            labels = [{"group": person, "from": "neutral", "strength": s}]
            rows.add(labels, {"hit": np.array([share])})
    return rows


def test_points_are_where_the_curve_crosses_one_half(figures):
    rows = curve(figures, [0.0, 0.25, 0.75, 1.0, 1.0])
    found = figures.crossing(rows, "neutral", "hit", rising=True)
    assert found == {
        "value": pytest.approx(0.5),
        "low": pytest.approx(0.5),
        "high": pytest.approx(0.5),
        "n": 4,
    }
    falling = figures.crossing(curve(figures, [1, 1, 1, 0.4, 0]), "neutral", "hit", rising=False)
    assert falling["value"] == pytest.approx(0.6 + 0.2 * 0.5 / 0.6)
    never = figures.crossing(curve(figures, [0, 0, 0, 0.1, 0.4]), "neutral", "hit", rising=True)
    assert never["value"] is None


def test_parts_are_the_wheel(figures):
    assert figures.part("neutral", "awe") == "from neutral"
    assert figures.part("awe", "neutral") == "to neutral"
    assert figures.part("amusement", "sadness") == figures.part("sadness", "amusement")
    assert figures.part("amusement", "sadness").endswith("degrees")


def test_scenes_report_what_stays_and_what_changes(figures):
    """An editor that inverts colours: no emotion arrives, nobody else and nothing outside moves."""

    def negative(images, emotion, *, generator, **told):
        return -images

    bench = figures.Bench(SimpleNamespace(size=64), negative, None, (), False)
    found = figures.scenes(bench, 1)
    assert found["people not named, largest change in 8-bit levels"]["value"] == 0
    assert found["outside the named, pictures of infinite PSNR"]["value"] == 1
    named = found["named people"]
    assert named["beats_nothing"]["value"] == 0
    assert named["gain_over_nothing"]["value"] < 0
    assert named["target_rate"]["n"] >= 4  # everybody, and each alone
    assert found["everybody shows their target"]["n"] == 1


def test_rows_pick_and_pair(figures):
    rows = figures.Rows()
    labels = [{"group": k, "part": "a" if k < 2 else "b"} for k in range(4)]
    columns = {
        "truth_psnr": torch.tensor([30.0, 31, 20, 20]),
        "truth_psnr_of_nothing": torch.full((4,), 28.0),
    }
    rows.add(labels, columns)
    assert rows.numbers({"part": "a"})["gain_over_nothing"]["value"] == pytest.approx(2.5)
    assert rows.numbers({"part": "b"}, ["truth_psnr"]) == {
        "truth_psnr": {"value": 20.0, "low": 20.0, "high": 20.0, "n": 2}
    }
