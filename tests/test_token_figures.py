"""benchmarks/tokens.py: what is asked for, what is counted; the networks are tiny and the eyes are ours."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from tiny_pipelines import tiny

from emolib.emotions.sets import EMOFACES
from emolib.interventions import splice
from emolib.judges import attributes
from emolib.runtime import repo_path
from emolib.training import report


@pytest.fixture(scope="module")
def figures():
    path = repo_path("benchmarks", "tokens.py")
    spec = importlib.util.spec_from_file_location("token_figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_descriptions_say_what_they_count_and_the_probe_knows_it():
    known = json.loads(repo_path("data", "judges", "probe", "probe.json").read_text())["values"]
    asked = attributes.descriptions(60)
    for text, named in asked:
        assert all(value in known[name] for name, value in named.items())
        assert text.startswith(named["gender"]) and f"{named['hair_color']} hair" in text
        assert ("beard" in named) == ("beard" in text) and ("glasses" in named) == ("glasses" in text)
        assert "beard" not in named or named["gender"] == "man"
    assert len({text for text, _ in asked}) > 20  # not the same few people over and over


def test_obeyed_counts_every_named_attribute_and_groups_by_prompt(figures):
    asked = [("a", {"gender": "man", "glasses": "True"}), ("b", {"gender": "woman"})]
    see = lambda pictures: {"gender": ["man", "man"], "glasses": ["False", "True"]}  # noqa: E731
    rows = attributes.obeyed(see, torch.zeros(2, 3, 8, 8), asked)
    assert rows == [(0, "gender", True), (0, "glasses", False), (1, "gender", False)]
    found = figures.by_attribute({"token": rows})["token"]
    assert (found["all"]["value"], found["all"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (found["gender"]["value"], found["glasses"]["value"]) == (0.5, 0.0)


def test_drawn_asks_every_side_alike_and_finds_the_words_worst(figures, monkeypatch):
    model, asked, shown = tiny("sd"), [], []
    tokens = {
        "awe": splice.vectors_of_words(model, "<awe>", "a"),
        "fear": splice.vectors_of_words(model, "<fear>", "b"),
    }

    def sample(backbone, lines, *rest):
        asked.append((lines, rest))
        return torch.full((len(lines), 3, 8, 8), float("<" in lines[0]))

    def judge(pictures):  # it sees awe wherever there is a token, and never fear
        shown.append(len(pictures))
        return SimpleNamespace(emotion=torch.where(pictures[:, 0, 0, 0] > 0, EMOFACES.index("awe"), 0))

    judge.labels = EMOFACES
    monkeypatch.setattr(report, "sample_pictures", sample)
    see = lambda pictures: {  # noqa: E731
        name: ["man"] * len(pictures) for name in ("gender", "hair_color", "glasses", "beard")
    }
    found = figures.drawn(model, tokens, judge, see, 6)
    assert found["recognised, by emotion"]["awe"]["token"]["value"] == 1.0
    assert found["recognised"]["token"]["value"] == 0.5 and found["recognised"]["word"]["value"] == 0.0
    assert found["recognised"]["token minus word"]["value"] == 0.5
    assert found["rest of the prompt obeyed"]["token"]["gender"]["value"] == 0.5
    assert {rest for _, rest in asked} == {asked[0][1]} and {len(lines) for lines, _ in asked} == {6}
    strip = lambda line, word: line.replace(f"{word} ", "").replace("photo of an ", "photo of a ")  # noqa: E731
    assert [strip(line, "<awe>") for line in asked[1][0]] == asked[0][0]  # "nothing" is the same without it
    assert [strip(line, "awestruck") for line in asked[2][0]] == asked[0][0]
