"""benchmarks/hspace.py: what its file says follows from the pictures and the judge."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from tiny_pipelines import tiny

from emolib import images
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.emotions.sets import EMOFACES, MIKELS
from emolib.interventions.directions import Directions, Table
from emolib.judges import emotion
from emolib.metrics import preservation
from emolib.runtime import repo_path
from emolib.runtime import script as run_script


@pytest.fixture
def script(monkeypatch):
    """The script with a tiny model, and with a judge to whom everybody is angry."""
    spec = importlib.util.spec_from_file_location("hspace_script", repo_path("benchmarks", "hspace.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    anger = EMOFACES.index("anger")
    judge = lambda x: SimpleNamespace(emotion=torch.full((len(x),), anger))  # noqa: E731
    monkeypatch.setattr(emotion, "load_judge", lambda name, **options: judge)
    small = tiny("sd")
    monkeypatch.setattr(backbone, "load_backbone", lambda name, device=None: small)
    return module


def test_every_scale_is_in_the_file_beside_doing_nothing(script, tmp_path, monkeypatch, capsys):
    shifts = {e: Table(torch.randn(1, 16, 8, 8), torch.tensor([500])) for e in MIKELS}
    bank, out = tmp_path / "bank.safetensors", tmp_path / "found.json"
    Directions(shifts, "neutral", "", "sd", 16, 16, scale=3.0).save(bank)
    options = ["--people", "2", "--split", "val", "--steps", "2", "--strengths", "0.5", "2"]
    monkeypatch.setattr("sys.argv", ["hspace.py", *options, "--directions", str(bank), "--out", str(out)])
    script.main()
    found = json.loads(out.read_text())
    assert [row["scale"] for row in found["scales"]] == [1.5, 6.0]
    assert (found["people"], found["split"]) == (2, "val")
    for row in (found["nothing"], *found["scales"]):  # everybody is angry: right for one target of eight
        assert (row["target rate"]["value"], row["target rate"]["n"]) == (1 / 8, 16)
        assert row["target rate by emotion"]["anger"]["value"] == 1
        assert row["target rate by emotion"]["awe"]["value"] == 0
    people = emofaces.portraits("val")
    who = people.identities[:: len(people.identities) // 2][:2]
    shown = [
        images.to_tensor([people.image(w, e) for w in who for e in es]) for es in (["neutral"] * 8, MIKELS)
    ]
    expected = preservation.psnr(*(images.resize(x, 32) for x in shown)).mean()
    assert found["nothing"]["PSNR to the truth, dB"]["value"] == pytest.approx(float(expected))
    printed = capsys.readouterr().out
    assert "scale nothing: target rate 0.125" in printed
    assert "scale 6.0: target rate 0.125" in printed


def test_without_directions_it_says_which_command_makes_them(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("emolib.interventions.directions.repo_path", lambda *parts: tmp_path.joinpath(*parts))
    monkeypatch.setattr("sys.argv", ["hspace.py", "--out", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit) as ended:
        run_script(script.main)
    assert ended.value.code == 2
    assert "`emolib hspace fit data/emofaces" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()
