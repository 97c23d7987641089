"""`emolib evaluate`: score editors on a data set and write the leaderboard."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emolib.runtime import InputError

EPILOG = """examples:
  emolib evaluate --methods course --people 20 --steps 20 --data emofaces:test --out board
  emolib evaluate --methods nothing truth img2img --data emofaces:val --out board
  emolib evaluate --methods nothing img2img@0.3,img2img@0.5,img2img@0.7 --data emofaces:val --out curve
  emolib evaluate --methods nothing mymodule:editor their_edits/ --data emofaces:test --out board
  accelerate launch -m emolib evaluate --methods truth img2img --data emofaces:test --out board

METHOD is nothing, truth, colour, an editor of `emolib edit`, or course (all of these but null-text, which
takes thirteen times as long; with edit-friendly+detail and asyrp+detail). NAME+detail gives back what the
autoencoder blurs, NAME@STRENGTH sets a strength.
module:attribute is an editor object with `judges_used`; a folder holds edits and a manifest.json:
  {"method": "ours", "judges_used": [], "edits": [{"source": ID, "target": EMOTION, "path": FILE}, ...]}
`--list` prints the IDs and emotions that are asked for. Kill it at any time; the same command goes on.
"""


def add_parser(commands) -> None:
    """Add `evaluate`; a chosen command is in `args.run`, to be called with `args`."""
    command = commands.add_parser(
        "evaluate",
        description="Score editors on pictures whose true edits are known, with n and intervals.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(command.add_argument)
    command.set_defaults(run=evaluate)


def _add_options(add) -> None:
    add("--methods", nargs="+", default=[], metavar="METHOD", help="who competes, with spaces or commas")
    add("--data", required=True, help="emofaces:val, emofaces:test, emofaces:scenes, a manifest or a folder")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="tables, edits and everything to resume from",
    )
    add("--people", type=int, metavar="N", help="only N people (default: all)")
    add("--targets", default="", metavar="A,B", help="only these emotions (default: all)")
    add("--sources", default="rotate", help="rotate (one picture a person, emotions in turn), neutral, all")
    add("--protocol", default="standard", help="standard, emoedit, piebench (default: %(default)s)")
    add(
        "--metrics", default="", metavar="A,B", help="columns of the Markdown table (default: the protocol's)"
    )
    add("--judge", default="heldout", help="gives the headline numbers: heldout, or a judge folder")
    add(
        "--judges", default="guide", metavar="A,B", help="beside it: guide, folders, Hub ids (default: guide)"
    )
    add(
        "--identity",
        default="",
        metavar="MODULE:ATTRIBUTE",
        help="an identity network instead of Fisherfaces",
    )
    add("--baseline", default="nothing", help="whom the others are compared with (default: %(default)s)")
    add(
        "--control", action="store_true", help="also edit with another seed, and back again: thrice the edits"
    )
    add("--size", type=int, metavar="PX", help="side that portraits are edited and judged at; sources and"
        " true answers are resampled alike (default: the diffusion model's own)")  # fmt: skip
    add("--steps", type=int, help="num_inference_steps of all named editors (default: their own)")
    add("--examples", type=int, default=6, help="how many tasks are shown as pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="which noise is drawn (default: %(default)s)")
    add("--model", default="minisd", metavar="NAME", help="backbone of the editors (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--memory", default="auto", help="auto, fast, balanced, low (default: %(default)s)")
    add("--list", action="store_true", help="print source and target of every edit, and stop")


def evaluate(args: argparse.Namespace) -> int:
    """Run the command: 0, or InputError."""
    if args.people is not None and args.people < 1:
        raise InputError(f"--people {args.people}: zero pictures to edit; give 1 or more")
    from emolib.evaluation import run
    from emolib.evaluation.methods import Options
    from emolib.evaluation.tasks import load_tasks

    names = tuple(name for part in args.methods for name in _split(part))
    if args.list:
        todo = load_tasks(args.data, people=args.people, targets=_split(args.targets), sources=args.sources)
        for task in todo.tasks:
            for change in task.changes:
                print(f"{task.id}\t{change.name}")
        return 0
    if not names:
        raise InputError("--methods names none; give e.g. --methods nothing truth (only --list needs none)")
    if args.out is None:
        raise InputError("say where the tables go: --out FOLDER (only --list needs none)")
    settings = run.Settings(
        data=args.data,
        methods=names,
        out=args.out,
        people=args.people,
        targets=_split(args.targets),
        sources=args.sources,
        judge=args.judge,
        others=_split(args.judges),
        protocol=args.protocol,
        metrics=_split(args.metrics),
        baseline=args.baseline,
        identity=args.identity,
        size=args.size,
        examples=args.examples,
        seed=args.seed,
        control=args.control,
        options=Options(args.model, args.device, args.memory, args.steps),
    )
    prepared = run.prepare(settings)
    tasks_text = f"{prepared.tasks.edits} edits of {len(prepared.tasks.tasks)} pictures"
    print(f"{args.data}: {tasks_text}, {len(prepared.methods)} methods", file=sys.stderr)
    table = run.execute(prepared)
    if table is not None:
        print(table.read_text(encoding="utf-8"), end="")
    return 0


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
