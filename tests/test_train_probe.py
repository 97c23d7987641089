"""The attribute probe: what its features and its head must say, and that it learns where to look."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from train import data, judges, probe, standin

from emolib.judges import attributes
from emolib.judges import emotion as judging
from emolib.runtime import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A held-out judge with random weights, and cartoons of four people to train on and two to measure on."""
    root = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    judges.save(
        judges.network("heldout", judges.LABELS),
        root / "heldout",
        96,
        "calibration",
        {"temperature": 1.0, "labels": list(judges.EMOFACES)},
    )
    standin.write(root / "faces", {"train": 4, "val": 2})
    return root


@pytest.fixture(scope="module")
def judge(world):
    return judging.load_judge(world / "heldout", device="cpu")


def small_probe(judge):
    torch.manual_seed(1)
    values = {"beard": ("False", "True"), "hair_color": ("black", "blond", "red")}
    return attributes.Probe(judge, attributes.Head(351, [2, 3]).eval(), values)


def test_targets_are_positions_among_the_values():
    frame = pd.DataFrame({"beard": [True, False], "hair_color": ["red", "green"]})
    values = {"beard": ("False", "True"), "hair_color": ("black", "red")}
    assert probe.targets(frame, values).tolist() == [[1, 1], [0, -1]]


def test_a_wall_shows_behind_short_hair_if_nothing_stands_before_it():
    rows = [("plain", "short"), ("gradient", "bald"), ("plain", "long"), ("cluttered", "short")]
    frame = pd.DataFrame(rows, columns=["background", "hair_style"])
    assert probe.shows_wall(frame).tolist() == [True, True, False, False]


def test_features_hold_the_colours_of_each_cell(judge):
    quarters = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    flat = quarters.repeat_interleave(4, 2).repeat_interleave(4, 3)
    found = attributes.features(judge, flat)
    assert found.shape == (2, 351, 12, 12)
    cells = quarters.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # (2, 3, 12, 12, quarters)
    colours = found[:, :12].unflatten(1, (3, 4)).movedim(2, -1)
    assert torch.allclose(colours, cells, atol=1e-5)
    assert torch.allclose(found[:, 12:15], cells.std(-1, correction=0), atol=1e-3)
    deep = judge.network(flat, output_hidden_states=True).hidden_states
    assert torch.allclose(found[:, 95:191], deep[2]) and torch.allclose(found[:, 191:, ::2, ::2], deep[3])


def test_pictures_of_another_size_are_enlarged_first(judge):
    wide = torch.full((1, 3, 64, 64), 0.25)
    found = attributes.features(judge, wide)
    assert torch.allclose(found, attributes.features(judge, torch.full((1, 3, 96, 96), 0.25)), atol=1e-4)


def test_the_head_answers_as_the_cell_that_it_attends_to(judge):
    head = small_probe(judge).head
    x = torch.randn(3, 351, 12, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for part in (head.whole, head.weight, head.answer):
            part.weight.zero_()
            part.bias.zero_()
        head.place[:, 0, 5, 7] = 1e4  # of the hidden units the first is large in one cell alone
        head.mix.weight.zero_()
        head.mix.weight[0, 0] = head.mix.weight[1, 1] = 1
        head.weight.weight[:, 0] = 1
        head.answer.weight[:, 1] = torch.arange(1.0, 6)[:, None, None]
        gelu = torch.nn.functional.gelu
        hidden = head.cell(x) + head.picture(x.mean((2, 3)))[..., None, None] + head.place
        there = gelu(gelu(hidden)[:, 1] + head.mix.bias[1])[:, 5, 7]
        expected = there[:, None] * torch.arange(1.0, 6)
        assert torch.allclose(head(x), expected, atol=1e-4)


def test_an_unknown_target_does_not_count():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    wanted = torch.tensor([[0, 2], [1, -1], [0, 0], [1, -1]])
    parts = [torch.nn.functional.cross_entropy(logits[:, :2], wanted[:, 0])]
    parts.append(torch.nn.functional.cross_entropy(logits[[0, 2], 2:], wanted[[0, 2], 1]) / 2)
    assert torch.allclose(probe.loss(logits, wanted, [2, 3]), sum(parts) / 2)
    wanted[:, 1] = -1
    assert torch.allclose(probe.loss(logits, wanted, [2, 3]), parts[0] / 2)


def test_spoilt_pictures_stay_in_range_and_follow_their_generator():
    x = torch.rand(8, 3, 96, 96, generator=torch.Generator().manual_seed(4)) * 2 - 1
    one, same, other = (probe.spoil(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == x.shape and one.abs().max() <= 1


def test_a_saved_probe_answers_the_same_through_the_same_judge_only(world, judge, tmp_path):
    made = small_probe(judge)
    probe.save(made, world / "heldout", tmp_path / "probe", {"n": 7})
    again = attributes.load_probe(tmp_path / "probe", world / "heldout", device="cpu")
    x = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(5)) * 2 - 1
    before, after = made.logits(x, batch_size=2), again.logits(x)
    assert list(after) == ["beard", "hair_color"] and after["hair_color"].shape == (3, 3)
    for name, logits in before.items():
        assert torch.allclose(after[name], logits, atol=0.02)  # fp16
    rows = again.see(x)
    for name, logits in after.items():
        assert rows[name] == [again.values[name][i] for i in logits.argmax(1)]
    rows["hair_color"][1] = "green"
    hits = probe.right(again, x, pd.DataFrame(rows))
    assert hits["beard"].all() and hits["hair_color"].tolist() == [True, False, True]

    torch.manual_seed(9)
    numbers = {"temperature": 1.0, "labels": list(judges.EMOFACES)}
    judges.save(judges.network("heldout", judges.LABELS), tmp_path / "other", 96, "calibration", numbers)
    with pytest.raises(InputError, match="was trained on another judge than .*other; run train.probe again"):
        attributes.load_probe(tmp_path / "probe", tmp_path / "other", device="cpu")


def test_a_broken_probe_is_one_line(world, judge, tmp_path):
    folder = tmp_path / "probe"
    with pytest.raises(InputError, match=r"probe\.json: this file is missing"):
        attributes.load_probe(folder, world / "heldout")
    probe.save(small_probe(judge), world / "heldout", folder, {})
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "place"}, folder / "model.safetensors")
    with pytest.raises(InputError, match="not a readable probe") as caught:
        attributes.load_probe(folder, world / "heldout", device="cpu")
    assert "\n" not in str(caught.value)


def test_the_recipe_learns_what_cartoons_show_and_writes_what_it_measured(world, monkeypatch, capsys):
    arguments = ["--data", world / "faces", "--judge", world / "heldout", "--out", world / "probe"]
    arguments += ["--features", world / "work", "--work", world / "run", "--device", "cpu"]
    arguments += ["--precision", "no", "--steps", 40, "--batch", 18, "--warmup", 5, "--ema", 0.5]
    monkeypatch.setattr("sys.argv", ["probe", *map(str, arguments)])
    monkeypatch.setattr(data, "repo_path", lambda *parts: world.joinpath(*parts))
    probe.main()
    assert "hair_color" in capsys.readouterr().out
    found = attributes.load_probe(world / "probe", world / "heldout", device="cpu")
    people = data.load("train", world / "faces")
    hits = probe.right(found, data.pixels(people.images), people.frame)
    for name in ("hair_color", "glasses", "clothes_color"):
        assert hits[name].float().mean() > 0.9, name
    facts = json.loads((world / "probe" / "probe.json").read_text())
    measured = set(probe.ATTRIBUTES) - {"background_color"}  # neither of the two shows a wall
    assert facts["n"] == 18 and facts["n_background_color"] == 0
    assert set(facts["val"]) == set(facts["val-spoilt"]) == measured
    val = data.load("val", world / "faces")
    again = probe.right(found, data.pixels(val.images), val.frame)
    for name in measured:
        assert facts["val"][name] == pytest.approx(float(again[name].float().mean()), abs=0.06), name
    assert len(list((world / "work").glob("probe-*.npy"))) == 3
    assert np.load(next((world / "work").glob("probe-train-*.npy"))).shape == (36, 351, 12, 12)
