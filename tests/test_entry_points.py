"""What holds for every way in: the two commands, make and the CI script."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from emolib.cli import main

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["emolib", "emolib.course"]


def run_module(name, action):
    """The command line that runs `python -m name`, but does `action` when its first module is imported."""
    code = f"""
import os, runpy, sys

class Watch:
    def find_spec(self, name, *rest):
        if name in ("emolib.cli.main", "emolib.course.run"):
            {action}

sys.meta_path.insert(0, Watch())
runpy.run_module({name!r}, run_name="__main__")
"""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_while_modules_are_imported_is_one_line(name):
    """Ctrl-C in the first half second, before any `main` has begun."""
    done = subprocess.run(
        run_module(name, "raise KeyboardInterrupt"), cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "emolib: interrupted\n")


def ways_in():
    """{way in: a command that prints its wait policy}; of Python's commands, before torch can be loaded."""
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "OMP_WAIT_POLICY" in line]
    rule = "say:\n\t@echo $$OMP_WAIT_POLICY"
    say = "sys.exit('torch' in sys.modules or print(os.environ['OMP_WAIT_POLICY']))"
    return {name: run_module(name, say) for name in COMMANDS} | {
        "make": ["make", "--silent", f"--eval={rule}", "say"],
        "ci": ["bash", "-c", "\n".join([*ci, "echo $OMP_WAIT_POLICY"])],
    }


@pytest.mark.parametrize("given", [None, "active"])
@pytest.mark.parametrize("way", list(ways_in()))
def test_threads_wait_asleep_unless_the_user_says_otherwise(way, given):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        ways_in()[way], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (given or "passive")


def test_a_lesson_may_collect_what_a_command_says():
    """A notebook's output, or a StringIO, is no stream of the terminal."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        assert main.main(["edit", "missing.png", "--to", "awe", "-o", "x.png"]) == 2
    assert "missing.png" in said.getvalue()
