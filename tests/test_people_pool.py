"""Rendering jobs in worker processes: all are tried, failures are named and counted."""

from functools import partial
from pathlib import Path

import pytest
from people.pool import render_all


def prepare():
    global ready
    ready = True


def render(number: int, folder: Path) -> str:
    if number == 3:
        raise ValueError("three")
    (folder / str(number)).write_text(str(ready))
    return "a name"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_job_is_named_and_the_others_are_done(tmp_path, capsys, workers):
    job = partial(render, folder=tmp_path)
    failed = render_all(job, range(6), noun="scene", workers=workers, start_worker=prepare, every=2)
    assert failed == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("01245", "True")
    lines = capsys.readouterr().out.splitlines()
    assert "scene 3: ValueError('three')" in lines
    counts = [line.split()[0] for line in lines if "a job" in line]
    assert counts == ["2/6", "4/6", "6/6"] and lines[-1].endswith("0 min left")


def test_nothing_to_do_is_no_failure(capsys):
    assert render_all(render, [], noun="scene", workers=1, start_worker=prepare) == 0
    assert capsys.readouterr().out == ""
