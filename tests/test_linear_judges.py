"""Judges fitted on frozen features: what they learn, what they refuse, whether they agree."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from judge_standins import judge_folder
from PIL import Image
from safetensors.torch import load_file, save_file

from emolib.cli import main
from emolib.data import emoset, folder
from emolib.data.manifest import Manifest, build_manifest
from emolib.judges import emotion as judges
from emolib.judges import linear
from emolib.metrics import emotion
from emolib.runtime import InputError

RED, BLUE, GREEN = (200, 60, 60), (60, 60, 200), (60, 200, 60)


def coloured(root, colours, n=40):
    """A folder of `n` noisy pictures of each label's colour."""
    rng = np.random.default_rng(0)
    for label, colour in colours.items():
        (root / label).mkdir(parents=True)
        for i in range(n):
            noise = rng.normal(0, 25, (32, 32, 3))
            Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    judge_folder(tmp_path_factory.mktemp("net") / "net", "wide")
    return linear.load_backbone(tmp_path_factory.getbasetemp() / "net0" / "net", device="cpu")


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory):
    """A judge to whom anger is red, sadness blue and contentment green; and its report."""
    colours = {"anger": RED, "sadness": BLUE, "contentment": GREEN}
    found = folder.read_folder(coloured(tmp_path_factory.mktemp("colours") / "a", colours))
    return linear.fit(network, found)


def test_it_learns_what_its_pictures_teach(trained):
    judge, report = trained
    assert report.accuracy.value > 0.9 and report.accuracy.n == report.sizes[2]
    assert sum(report.sizes) == 120
    counts = np.array(report.confusion)
    assert counts.sum() == report.sizes[2]
    assert np.trace(counts) / counts.sum() == pytest.approx(report.accuracy.value)
    assert judge.labels == report.labels == ("contentment", "anger", "sadness")  # the known set's order
    plain = torch.full((2, 3, 40, 40), -0.5)
    plain[0, 0], plain[1, 2] = 0.5, 0.5
    assert [judge.labels[i] for i in judge(plain).emotion] == ["anger", "sadness"]


def test_a_saved_judge_is_a_judge(trained, network, tmp_path):
    judge, report = trained
    linear.save_judge(judge, report, tmp_path / "mine", source=network.name)
    again = judges.load_judge(tmp_path / "mine", device="cpu")
    shown = torch.rand(3, 3, 50, 50) * 2 - 1
    torch.testing.assert_close(again(shown).probs, judge(shown).probs)
    assert again(shown).valence.isnan().all()  # it was taught no valence
    stored = json.loads((tmp_path / "mine" / "report.json").read_text())
    assert stored["accuracy"][0] == report.accuracy.value
    assert judges.load_judge(tmp_path / "mine", device="cpu").labels == judge.labels


def test_the_backbone_stays_as_it_was(trained, network):
    assert network.network.config.num_labels == 11
    body = {k: v for k, v in network.network.state_dict().items() if not k.startswith("classifier")}
    for name, value in trained[0].network.state_dict().items():
        if name in body:
            assert torch.equal(value, body[name])


def gaussians(n, means, seed=0):
    """A manifest and features: `n[k]` rows of label k around `means[k]` in one dimension, noise in one."""
    rng = np.random.default_rng(seed)
    labels = [name for name, count in zip(("anger", "sadness"), n, strict=True) for _ in range(count)]
    x = np.concatenate([rng.normal((m, 0), 1, (count, 2)) for m, count in zip(means, n, strict=True)])
    frame = pd.DataFrame({"path": [f"{i}.png" for i in range(len(labels))], "emotion": labels})
    frame["split"] = [linear.SPLITS[i % 3] for i in range(len(labels))]
    made = build_manifest(frame, ("anger", "sadness"), Path(), source="made up")
    return made, torch.from_numpy(x).float()


@pytest.fixture
def two_inputs():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=2, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        image_size=32, patch_size=16, num_labels=2)  # fmt: skip
    return judges.Judge(ViTForImageClassification(config), "tiny", labels=("a", "b"))


def test_weights_give_the_rare_label_its_due(two_inputs):
    manifest, seen = gaussians((900, 60), (-0.7, 0.7))
    rare = {
        power: linear.fit(two_inputs, manifest, seen=seen, weight_power=power)[1].by_label["sadness"].value
        for power in (0.0, 1.0)
    }
    assert rare[0.0] < 0.5 < rare[1.0]


def test_two_gaussians_give_the_best_line(two_inputs):
    manifest, seen = gaussians((1500, 1500), (-1.0, 1.0))
    judge, report = linear.fit(two_inputs, manifest, seen=seen)
    assert report.accuracy.value == pytest.approx(0.8413, abs=0.03)  # Phi(1), the Bayes rate
    weight = list(judge.network.modules())[-1].weight
    assert abs(weight[1, 0] - weight[0, 0]) == pytest.approx(2.0, abs=0.4)  # the log odds are 2 x
    assert report.ece[1] < 0.05


def test_calibration_error_by_hand():
    probs = torch.tensor([[0.8, 0.2]] * 5)
    assert emotion.calibration_error(probs, torch.tensor([0, 0, 0, 1, 1])) == pytest.approx(0.2)
    assert emotion.calibration_error(probs, torch.tensor([0, 0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    both = torch.cat([probs, torch.tensor([[0.4, 0.6]] * 5)])  # another bin: the two gaps do not cancel
    target = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 0])
    assert emotion.calibration_error(both, target) == pytest.approx(0.2)


def test_one_person_stays_on_one_side():
    manifest, _ = gaussians((60, 60), (0, 0))
    frame = manifest.frame.assign(split=None, identity=np.arange(120) % 20)
    split = linear.splits(Manifest(manifest.labels, frame, manifest.root))
    assert all(len(set(split[frame["identity"] == who])) == 1 for who in range(20))
    assert set(split) == set(linear.SPLITS)


def test_what_cannot_be_trained_is_refused(network, two_inputs, tmp_path):
    with pytest.raises(InputError, match="heldout judge only measures"):
        linear.load_backbone("heldout")
    with pytest.raises(InputError, match="nor a folder, nor in the local Hub"):
        linear.load_backbone("nobody/nothing")
    with pytest.raises(InputError, match="lacks config.json"):
        linear.load_backbone(tmp_path)
    alone = folder.read_folder(coloured(tmp_path / "one", {"anger": RED}, n=3))
    with pytest.raises(InputError, match="two emotions at least; all are 'anger'"):
        linear.fit(network, alone)
    manifest, seen = gaussians((30, 1), (0, 0))
    with pytest.raises(InputError, match="no picture of 'sadness' in"):
        linear.fit(two_inputs, manifest, seen=seen)


def test_a_network_without_a_head_still_has_features(tmp_path):
    judge_folder(tmp_path / "net", "vit")
    whole = linear.load_backbone(tmp_path / "net", device="cpu")
    file = tmp_path / "net" / "model.safetensors"
    body = {k: v for k, v in load_file(file).items() if not k.startswith("classifier")}
    save_file(body, file, metadata={"format": "pt"})
    headless = linear.load_backbone(tmp_path / "net", device="cpu")
    shown = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(headless.describe(shown)[1], whole.describe(shown)[1])
    with pytest.raises(InputError, match="weights lack classifier"):
        judges.load_judge(tmp_path / "net", device="cpu")


def test_transfer_says_who_agrees_and_who_does_not(trained, tmp_path):
    judge, _ = trained
    data = {
        "same": folder.read_folder(coloured(tmp_path / "same", {"anger": RED, "sadness": BLUE})),
        "swapped": folder.read_folder(coloured(tmp_path / "swapped", {"anger": BLUE, "sadness": RED})),
        "other words": folder.read_folder(coloured(tmp_path / "other", {"joy": RED, "anger": BLUE})),
    }
    found = linear.transfer({"mine": judge}, data)
    assert found["mine", "same"][0].value > 0.9 and found["mine", "swapped"][0].value < 0.1
    assert found["mine", "same"][1] == ("anger", "sadness")
    assert found["mine", "other words"] == (None, ("anger",))
    assert found["mine", "same"][0].n < 80  # test pictures alone


def test_the_command_line(tmp_path, capsys):
    judge_folder(tmp_path / "net", "wide")
    emoset.write_standin(tmp_path / "emoset", n=160, seed=0)
    out = str(tmp_path / "mine")
    common = ["--backbone", str(tmp_path / "net"), "--device", "cpu"]
    assert main.main(["judge", "train", str(tmp_path / "emoset"), "--out", out, *common]) == 0
    said = capsys.readouterr().out
    assert "row = label, column = judged" in said and said.rstrip().endswith(out)
    faces = str(coloured(tmp_path / "faces", {"anger": RED, "awe": BLUE}, n=20))
    assert main.main(["judge", "transfer", "--judges", out, "--data", faces, "--device", "cpu"]) == 0
    assert "2 labels" in capsys.readouterr().out
    assert main.main(["judge", "train", str(tmp_path / "nothing"), "--out", out, *common]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--weight-power", "nan"], "--weight-power must lie in [-4, 4], not nan"),
        (["--weight-power", "1e300"], "--weight-power must lie in [-4, 4]"),
        (["--limit", "0"], "--limit must lie in [1, inf], not 0"),
        (["--limit", "-3"], "--limit must lie in [1, inf], not -3"),
        (["--out", "faces/anger/0.png/x"], "'faces/anger/0.png' is a file; give another folder"),
        ([], "faces: a judge needs pictures of two emotions at least"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    judge_folder(tmp_path / "net", "wide")
    coloured(tmp_path / "faces", {"anger": RED}, n=2)
    command = ["judge", "train", "faces", "--out", "mine", "--backbone", "net", "--device", "cpu", *options]
    capsys.readouterr()
    assert main.main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("emolib: ") and says in said and said.count("\n") == 1
    assert not (tmp_path / "mine").exists()
