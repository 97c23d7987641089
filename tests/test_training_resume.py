"""A run that was killed, and a run on two processes, against an unbroken one on one process."""

import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emolib.runtime import repo_path
from emolib.training.loop import read_log


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all three runs; killed three times, at steps drawn anew in every test run."""
    folder = tmp_path_factory.mktemp("runs")
    draw = random.Random()
    kills = [draw.randint(1, 3) for _ in range(3)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = Path(__file__).parent / "training_worker.py"
    command = [sys.executable, str(worker), str(folder), str(port), ",".join(map(str, kills))]
    done = subprocess.run(command, cwd=repo_path(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"killed after {kills} checkpoints")
    return folder


def tokens(folder):
    return {name: load_file(folder / f"{name}.safetensors")[f"<{name}>"] for name in ("awe", "joy")}


def log(folder):
    """Steps, and the groups' evaluations and training losses there."""
    numbers = [{k: v for k, v in line.items() if k not in ("seconds", "pictures")} for line in lines(folder)]
    return [(line.pop("step"), line) for line in numbers]


def lines(folder):
    return read_log(folder / "work/log.jsonl")


def test_a_run_killed_at_any_moment_ends_bit_for_bit_as_an_unbroken_one(runs):
    whole, broken = runs / "whole", runs / "killed"
    assert all(
        torch.equal(a, b) for a, b in zip(tokens(whole).values(), tokens(broken).values(), strict=True)
    )
    one, other = (load_file(folder / "work/checkpoint.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert log(whole) == log(broken)
    assert [step for step, _ in log(whole)] == [0, 5, 10, 12]
    assert set(log(whole)[1][1]) == {"<awe>", "<joy>", "loss <awe>", "loss <joy>", "lr"}


def test_two_processes_learn_what_one_does(runs):
    # The same draws, added up in another order: equal but for rounding.
    for name, rows in tokens(runs / "whole").items():
        torch.testing.assert_close(tokens(runs / "shared")[name], rows, rtol=1e-4, atol=1e-6)
    for (step, one), (again, other) in zip(log(runs / "whole"), log(runs / "shared"), strict=True):
        assert step == again and other == pytest.approx(one, rel=1e-5)
