"""Run by test_training_resume.py in a fresh process: a textual inversion, whole, killed, on two processes.

Every run is a fork of this process, which loads the libraries once and starts no threads before.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parent))
import tiny_pipelines  # noqa: E402

from emolib.interventions import token_files  # noqa: E402
from emolib.training.pictures import Pictures  # noqa: E402
from emolib.training.settings import Settings  # noqa: E402
from emolib.training.textual_inversion import Concept, learn_tokens  # noqa: E402

STEPS = 12
CONCEPTS = [
    Concept("<awe>", Pictures(tiny_pipelines.pictures(5)), "ab", vectors=2),
    Concept("<joy>", Pictures(tiny_pipelines.pictures(4, seed=1)), "c"),
]
SETTINGS = Settings(
    precision="float32",  # so that every processor rounds alike
    steps=STEPS,
    batch=3,
    evaluate_every=5,
    evaluate_on=2,
    patience=0,
    checkpoint_every=0.0,
)


def train(folder, after_step=lambda line: None, concepts=CONCEPTS, settings=SETTINGS):
    """Train in `folder`/work and write the tokens, if this is the first process."""
    torch.set_num_threads(1)
    result = learn_tokens(
        tiny_pipelines.tiny("sd"), concepts, settings, work=folder / "work", tell=after_step
    )
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        for token in result.tokens:
            token_files.save_token(token, folder / f"{token.name[1:-1]}.safetensors")


def killed(folder, kills):
    """Train, but get SIGKILL after so many checkpoints of each sitting, wherever the run is then."""
    for count in kills:
        seen, told = os.pipe()
        process = fork(train_and_report, folder, told)
        os.close(told)
        for _ in range(count):
            os.read(seen, 1)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        os.close(seen)
        assert process.exitcode == -signal.SIGKILL
    fork(train, folder).join()


def train_and_report(folder, told):
    """Train and write a byte after every checkpoint."""
    from emolib.training.loop import Run

    save = Run.save

    def save_and_tell(run):
        save(run)
        os.write(told, b".")

    Run.save = save_and_tell
    train(folder)


def shared(rank, folder, port):
    """One of two processes that train together, as `accelerate launch` would start them."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    PartialState(cpu=True)
    train(folder)
    torch.distributed.destroy_process_group()


def fork(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def main(folder, port, kills):
    for name in ("whole", "killed", "shared"):
        (folder / name).mkdir()
    tiny_pipelines.tiny("sd")
    fork(train, folder / "whole").join()
    killed(folder / "killed", kills)
    for process in [fork(shared, rank, folder / "shared", port) for rank in (0, 1)]:
        process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(number) for number in sys.argv[3].split(",")])
