"""A written board read back, and its figure."""

import pytest
from board_standins import write_board

from emolib.course.figures import style
from emolib.evaluation.board import (
    FILE,
    UNEDITED,
    find_best,
    get_number,
    get_numbers,
    get_parts,
    list_editors,
    read_board,
    read_examples,
)
from emolib.metrics.estimates import Estimate
from emolib.runtime import InputError


@pytest.fixture
def board(tmp_path):
    write_board(tmp_path / "board")
    return read_board(tmp_path / "board")


def test_numbers_come_back_with_n_and_interval(board):
    assert get_number(board, "img2img", "emo_a") == Estimate(0.95, 0.85, 1.0, 16)
    assert get_number(board, "truth", "truth_psnr").value == float("inf")
    assert get_number(board, "ddim", "joint", distance="180") == Estimate(0.5, 0.2, 0.6, 16)
    assert get_number(board, "ddim", "nowhere") is None
    assert get_number(board, "ddim", "joint", distance="45") is None
    with pytest.raises(InputError, match="unknown method 'dim'; did you mean 'ddim'"):
        get_number(board, "dim", "emo_a")


def test_parts_and_the_best(board):
    assert get_parts(board, "ddim", "joint", "distance") == {"180": Estimate(0.5, 0.2, 0.6, 16)}
    assert list(get_parts(board, "ddim", "emo_a", "size")) == ["all"]
    assert list_editors(board) == ["img2img", "ddim"]
    assert find_best(board) == "img2img" and find_best(board, "truth_psnr") == "ddim"
    with pytest.raises(InputError, match="no editor of this board"):
        find_best(board, "esmi")


def test_example_strips_are_cut_into_their_cells(tmp_path):
    write_board(tmp_path / "board")
    ((about, strip),) = read_examples(tmp_path / "board")
    assert about["to"] == "awe" and list(strip) == ["source", "true answer", "img2img", "ddim"]
    assert strip["source"].getpixel((5, 5)) == (255, 0, 0)
    assert strip["ddim"].getpixel((31, 0)) == (255, 255, 0)
    assert list(read_examples(tmp_path)) == []


def test_a_board_that_is_not_there_or_broken(tmp_path):
    with pytest.raises(InputError, match="no leaderboard there; make one"):
        read_board(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="not a readable JSON file"):
        read_board(tmp_path)


def test_the_figure_shows_every_interval_and_says_what_is_infinite(board):
    numbers = get_numbers(board, ("emo_a", "truth_psnr"))
    figure = style.leaderboard(numbers | {"esmi": dict.fromkeys(board["methods"])}, bounds=UNEDITED)
    first, second, third = figure.axes
    ends = [tuple(line.get_xdata()) for line in first.lines if len(line.get_xdata()) == 2]
    assert (0.85, 1.0) in ends and len(ends) == 4
    assert [t.get_text() for t in second.texts] == ["equal (∞)"]
    assert [t.get_text() for t in third.texts] == ["not measured"] * 4
