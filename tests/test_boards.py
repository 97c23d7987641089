"""A written board read back, the seven complaints and their verdicts, the figure."""

import json

import pytest
from board_standins import method, row, write_board

from emolib.course.complaints import Complaint, complaints
from emolib.evaluation import boards, cli
from emolib.figures import leaderboard
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError


@pytest.fixture
def board(tmp_path):
    write_board(tmp_path / "board")
    return boards.read(tmp_path / "board")


def test_numbers_come_back_with_n_and_interval(board):
    assert boards.number(board, "img2img", "emo_a") == Estimate(0.95, 0.85, 1.0, 16)
    assert boards.number(board, "truth", "truth_psnr").value == float("inf")
    assert boards.number(board, "ddim", "joint", distance="180") == Estimate(0.5, 0.2, 0.6, 16)
    assert boards.number(board, "ddim", "nowhere") is None
    assert boards.number(board, "ddim", "joint", distance="45") is None
    with pytest.raises(InputError, match="unknown method 'dim'; did you mean 'ddim'"):
        boards.number(board, "dim", "emo_a")


def test_parts_and_the_best(board):
    assert boards.by(board, "ddim", "joint", "distance") == {"180": Estimate(0.5, 0.2, 0.6, 16)}
    assert list(boards.by(board, "ddim", "emo_a", "size")) == ["all"]
    assert boards.editors(board) == ["img2img", "ddim"]
    assert boards.best(board) == "img2img" and boards.best(board, "truth_psnr") == "ddim"
    with pytest.raises(InputError, match="no editor of this board"):
        boards.best(board, "esmi")
    assert boards.frame(board, ("emo_a",)).loc["img2img", "emo_a"] == "0.950 [0.850, 1.000]"


def test_example_strips_are_cut_into_their_cells(tmp_path):
    write_board(tmp_path / "board")
    ((about, strip),) = boards.strips(tmp_path / "board")
    assert about["to"] == "awe" and list(strip) == ["source", "true answer", "img2img", "ddim"]
    assert strip["source"].getpixel((5, 5)) == (255, 0, 0) and strip["ddim"].getpixel((31, 0)) == (
        255,
        255,
        0,
    )
    assert list(boards.strips(tmp_path)) == []


def test_a_board_that_is_not_there_or_broken(tmp_path):
    with pytest.raises(InputError, match="no leaderboard there; make one"):
        boards.read(tmp_path)
    (tmp_path / boards.FILE).write_text("{")
    with pytest.raises(InputError, match="not readable"):
        boards.read(tmp_path)
    assert boards.numbers_of(tmp_path / "02.json") == {} == boards.tokens(tmp_path)
    found = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 96}
    measured = {"new": {"surprise": {"recognised": {"token": found}}}}
    (tmp_path / "tokens.json").write_text(json.dumps(measured))
    assert boards.tokens(tmp_path) == {boards.SURPRISE: Estimate(**found)}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (None, "not measured"),
        (Estimate(0.95, 0.91, 0.99, 9), "solved"),
        (Estimate(0.95, 0.85, 0.99, 9), "open"),
        (Estimate(0.85, 0.80, 0.95, 9), "not solved"),  # the interval reaching the bar does not help
        (Estimate(1.05, 0.95, 1.15, 9), "open"),
        (Estimate(1.15, 1.05, 1.25, 9), "not solved"),  # too much is as wrong as too little
    ],
)
def test_a_verdict_follows_the_whole_interval(found, verdict):
    assert Complaint("blurs", "sharpness", 0.9, "ddim", found, 1.1).verdict == verdict


def test_seven_complaints_are_asked_of_the_editor_with_most_successes(board):
    answers = complaints(board)
    assert len(answers) == 7 and {one.whose for one in answers[:3]} == {"img2img"}
    assert answers[0].verdict == "open" and answers[0].found == boards.number(board, "img2img", "same_person")
    assert answers[2].verdict == "solved" and answers[2].bar == "0.9 to 1.1"
    assert [one.verdict for one in answers[3:]] == ["not measured", "open", "not measured", "not measured"]
    board["methods"]["asyrp"] = method(0.2, row(25.0, 24.0, 26.0))
    kept = {"all_faces": row(0.7, 0.65, 0.8), "joint": row(0.6, 0.5, 0.7)}
    lost = {"all_faces": row(0.9, 0.85, 0.95), "joint": row(0.2, 0.1, 0.3)}
    scenes = {"methods": {"img2img": {"all": lost, "by": {}}, "ddim": {"all": kept, "by": {}}}}
    met = {"surprise recognised in pictures drawn with <surprise>": Estimate(0.5, 0.25, 0.75, 12)}
    answers = complaints(board, scenes, met)
    assert [one.verdict for one in answers[3:]] == ["solved", "open", "not solved", "not solved"]
    assert answers[3].row()["whose"] == "ddim" and answers[5].row()["measured"].startswith("0.500 [0.250")


def test_the_figure_shows_every_interval_and_says_what_is_infinite(board):
    numbers = boards.numbers(board, ("emo_a", "truth_psnr"))
    figure = leaderboard.panels(numbers | {"esmi": dict.fromkeys(board["methods"])}, bounds=boards.BOUNDS)
    first, second, third = figure.axes
    ends = [tuple(line.get_xdata()) for line in first.lines if len(line.get_xdata()) == 2]
    assert (0.85, 1.0) in ends and len(ends) == 4
    assert [t.get_text() for t in second.texts] == ["equal (∞)"]
    assert [t.get_text() for t in third.texts] == ["not measured"] * 4
    with pytest.raises(InputError, match="one metric and one method"):
        leaderboard.panels({})


def test_the_command_line_knows_size_steps_and_examples(monkeypatch):
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    line = "evaluate --methods course --data emofaces:val --out x --size 64 --steps 8 --examples 2"
    args = parser.parse_args(line.split())
    assert (args.size, args.steps, args.examples) == (64, 8, 2)
    assert json.dumps(args.methods) == '["course"]'
