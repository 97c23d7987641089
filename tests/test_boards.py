"""A written board read back, and its figure."""

import json

import pytest
from board_standins import write_board

from emolib.cli import evaluate
from emolib.evaluation import boards
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
    evaluate.add_parser(parser.add_subparsers())
    line = "evaluate --methods course --data emofaces:val --out x --size 64 --steps 8 --examples 2"
    args = parser.parse_args(line.split())
    assert (args.size, args.steps, args.examples) == (64, 8, 2)
    assert json.dumps(args.methods) == '["course"]'
