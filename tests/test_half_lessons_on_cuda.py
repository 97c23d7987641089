"""Every lesson on a virtual GPU, in float16: a file of its own, so that both run side by side."""

import pytest
from lessons_on_cuda import LESSONS, run_lesson


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_on_cuda(lesson, tmp_path, monkeypatch):
    run_lesson(lesson, "float16", tmp_path, monkeypatch)
