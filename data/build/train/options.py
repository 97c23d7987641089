"""The options all recipes share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from emolib.cli.fields import add_fields
from emolib.runtime import InputError, fast_bf16, pick_device, repo_path
from train.loop import Plan

TIMES = "It can be stopped at any time (exit code 3); the same command goes on at its last checkpoint."
KNOBS = {
    "steps": "optimiser steps",
    "batch": "pictures a step",
    "lr": "learning rate",
    "warmup": "steps of rising learning rate",
    "decay": "part of the run with falling rate",
    "weight_decay": "of AdamW",
    "ema": "decay of the averaged weights",
    "seed": "of everything random",
    "minutes": "stop after so many, with a checkpoint; 0: never",
    "evaluate_every": "steps; 0: at the end",
    "log_every": "steps",
    "checkpoint_every": "seconds",
    "device": "auto, cpu, cuda or mps",
    "compile": "torch.compile the network: pays on a GPU, and over hours",
}


def parser(name: str, text: str, **defaults: float) -> argparse.ArgumentParser:
    """`--help` of the recipe `name`; `defaults` are its steps, batch, lr and other fields of `loop.Plan`."""
    out = argparse.ArgumentParser(
        prog=f"python -m train.{name}",
        description=f"{text} {TIMES}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = out.add_argument
    add("--data", type=Path, default=repo_path("data", "emofaces"), help="folder of portraits-*.parquet")
    renders = (
        "folder that people.portraits wrote, for the masks; none: pictures are changed less (no new walls)"
    )
    add("--renders", type=Path, default=None, help=renders)
    add("--work", type=Path, default=None, help="folder of the run (default data/build/work/NAME)")
    add("--fresh", action="store_true", help="forget the run in that folder and start again")
    add_fields(out, Plan(**defaults), KNOBS)
    precision = "autocast; default auto: bf16 where the device computes in it, else none"
    add("--precision", choices=("auto", "bf16", "no"), default="auto", help=precision)
    add("--threads", type=int, default=0, help="CPU threads; default: torch's choice")
    return out


def plan(args: argparse.Namespace, name: str) -> Plan:
    """The run's plan; sets the threads, and empties the run's folder where --fresh asks for it."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    work = args.work or repo_path("data", "build", "work", name)
    if args.fresh:
        for file in (work / "checkpoint.safetensors", work / "log.jsonl"):
            file.unlink(missing_ok=True)
    names = set(Plan.__dataclass_fields__) - {"work", "precision"}
    fast = args.precision == "bf16" or (args.precision == "auto" and fast_bf16(pick_device(args.device)))
    given = {k: v for k, v in vars(args).items() if k in names}
    return Plan(work=work, precision="bfloat16" if fast else "float32", **given)


def run(main: Callable[[], None]) -> None:
    """Run a recipe; wrong input is one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"train: {error}", file=sys.stderr)
        raise SystemExit(2) from None
