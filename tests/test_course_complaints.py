"""The seven complaints, and where their numbers are read from."""

import json

import pytest
from board_standins import method, row, write_board

from emolib.course.complaints import Complaint, complaints, read_learned
from emolib.evaluation.board import get_number, read_board
from emolib.metrics.estimates import Estimate


@pytest.fixture
def board(tmp_path):
    write_board(tmp_path / "board")
    return read_board(tmp_path / "board")


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (None, "not measured"),
        (Estimate(0.95, 0.91, 0.99, 9), "solved"),
        (Estimate(0.95, 0.85, 0.99, 9), "open"),
        (Estimate(0.85, 0.80, 0.95, 9), "not solved"),  # the interval reaching the bar does not help
        (Estimate(1.05, 0.95, 1.15, 9), "open"),
        (Estimate(1.15, 1.05, 1.25, 9), "not solved"),  # too much is as wrong as too little
    ],
)
def test_a_verdict_follows_the_whole_interval(estimate, verdict):
    assert Complaint("blurs", "sharpness", 0.9, "ddim", estimate, 1.1).verdict == verdict


def test_seven_complaints_are_asked_of_the_editor_with_most_successes(board):
    answers = complaints(board)
    assert len(answers) == 7 and {answer.method for answer in answers[:3]} == {"img2img"}
    assert answers[0].verdict == "open" and answers[0].estimate == get_number(board, "img2img", "same_person")
    assert answers[2].verdict == "solved" and answers[2].bar == "0.9 to 1.1"
    assert [answer.verdict for answer in answers[3:]] == [
        "not measured",
        "open",
        "not measured",
        "not measured",
    ]
    board["methods"]["asyrp"] = method(0.2, row(25.0, 24.0, 26.0))
    kept = {"all_faces": row(0.7, 0.65, 0.8), "joint": row(0.6, 0.5, 0.7)}
    lost = {"all_faces": row(0.9, 0.85, 0.95), "joint": row(0.2, 0.1, 0.3)}
    scenes = {"methods": {"img2img": {"all": lost, "by": {}}, "ddim": {"all": kept, "by": {}}}}
    answers = complaints(board, scenes, Estimate(0.5, 0.25, 0.75, 12))
    assert [answer.verdict for answer in answers[3:]] == ["solved", "open", "not solved", "not solved"]
    assert answers[3].row()["whose"] == "ddim" and answers[5].row()["measured"].startswith("0.500 [0.250")


def test_the_learned_feeling_is_lesson_02s_headline_whatever_its_name_unless_more_was_measured(tmp_path):
    assert read_learned(tmp_path) is None
    estimate = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 24}
    rows = [{"name": "another", **estimate, "n": 3}, {"name": "any name", **estimate}]
    (tmp_path / "02.json").write_text(json.dumps({"headline": "any name", "measured": rows}))
    assert read_learned(tmp_path) == Estimate(**estimate)
    measured = {"new": {"surprise": {"recognised": {"token": {**estimate, "n": 96}}}}}
    (tmp_path / "tokens.json").write_text(json.dumps(measured))
    assert read_learned(tmp_path).n == 96
