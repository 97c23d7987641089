"""Every lesson on a virtual GPU, in float32."""

import pytest
from lessons_on_cuda import LESSONS, run_lesson


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_on_cuda(lesson, tmp_path, monkeypatch):
    run_lesson(lesson, "float32", tmp_path, monkeypatch)
