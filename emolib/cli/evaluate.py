"""`emolib evaluate`: score editors on a data set and write the leaderboard."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from emolib.cli.fields import add_common, from_args, split_words, tell, tell_unmeasured
from emolib.diffusion.presets import find_preset
from emolib.runtime import InputError, in_range

EPILOG = """examples:
  emolib evaluate --methods course --people 20 --steps 20 --data emofaces:test --out board
  emolib evaluate --methods nothing truth img2img --data emofaces:val --out board
  emolib evaluate --methods nothing img2img@0.3,img2img@0.5,img2img@0.7 --data emofaces:val --out curve
  emolib evaluate --methods nothing instruct:flux2-klein --data emofaces:scenes --out board
  emolib evaluate --methods nothing mymodule:editor their_edits/ --data emofaces:test --out board
  accelerate launch -m emolib evaluate --methods truth img2img --data emofaces:test --out board

METHOD is nothing, truth, colour, an editor of `emolib edit`, or course (all of these but null-text, which
takes thirteen times as long; with edit-friendly+detail and asyrp+detail). NAME+detail gives back what the
autoencoder blurs, NAME@STRENGTH sets a strength.
instruct:MODEL is an instruction editor of diffusers (instruct:qwen-edit+LORA.safetensors adds a LoRA); with
+whole it gets a scene as one picture, without it each person's crop, so that only faces can change.
hosted:SERVICE[/MODEL] sends faces to stability, openai, gemini or bfl, for money: --budget is the limit, the
key is in the environment, and what is paid for is kept in FOLDER/answers.
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
    command.set_defaults(run=evaluate)
    add = command.add_argument
    names = {"type": split_words, "default": (), "metavar": "A,B"}
    add("--methods", nargs="+", default=[], metavar="METHOD", help="who competes, with spaces or commas")
    add("--data", required=True, help="emofaces:val, emofaces:test, emofaces:scenes, a manifest or a folder")
    add("--out", type=Path, metavar="FOLDER", help="tables, edits and everything to resume from")
    add("--people", type=int, metavar="N", help="only N people (default: all)")
    add("--targets", **names, help="only these emotions (default: all)")
    add("--sources", default="rotate", help="rotate (one picture a person, emotions in turn), neutral, all")
    add("--protocol", default="standard", help="standard, emoedit, piebench, ffe, fed (default: %(default)s)")
    add("--metrics", **names, help="columns of the Markdown table (default: the protocol's)")
    add("--judge", default="heldout", help="gives the headline numbers: heldout, or a judge folder")
    add(
        "--judges",
        dest="others",
        **names | {"default": ("guide",)},
        help="beside it: guide, folders, Hub ids",
    )
    network = "an identity network instead of Fisherfaces: sface, an ONNX file, or MODULE:ATTRIBUTE"
    add("--identity", default="", metavar="NAME", help=network)
    add("--baseline", default="nothing", help="whom the others are compared with (default: %(default)s)")
    twice = "also edit with another seed, and back again: thrice the edits"
    add("--control", action="store_true", help=twice)
    side = (
        "side that portraits are edited and judged at; sources and true answers are resampled alike"
        " (default: the diffusion model's own)"
    )
    add("--size", type=int, metavar="PX", help=side)
    add("--steps", type=int, help="num_inference_steps of all named editors (default: their own)")
    add(
        "--budget",
        type=float,
        metavar="USD",
        help="what may be spent on hosted services, earlier runs included",
    )
    add("--examples", type=int, default=6, help="how many tasks are shown as pictures (default: %(default)s)")
    add_common(add, "seed", "model", "preset", "device", "memory")
    add("--list", action="store_true", help="print source and target of every edit, and stop")


def evaluate(args: argparse.Namespace) -> int:
    """Run the command: 0, or InputError."""
    if args.people is not None:
        in_range(args.people, 1, math.inf, "--people")
    from emolib.evaluation import run
    from emolib.evaluation.builders import Options
    from emolib.evaluation.tasks import load_tasks

    if args.list:
        chosen = {name: getattr(args, name) for name in ("people", "targets", "sources")}
        for task, change in load_tasks(args.data, **chosen).edits:
            print(f"{task.id}\t{change.name}")
        return 0
    names = tuple(name for part in args.methods for name in split_words(part))
    if not names or args.out is None:
        lacking = "--out FOLDER" if names else "--methods, e.g. --methods nothing truth"
        raise InputError(f"say also {lacking} (only --list needs none)")
    options = from_args(Options, args, answers=args.out / "answers")
    settings = from_args(run.Settings, args, methods=names, options=options)
    prepared = run.prepare(settings)
    tasks, count = prepared.tasks.tasks, len(prepared.methods)
    tell(f"{args.data}: {len(prepared.tasks.edits)} edits of {len(tasks)} pictures, {count} methods")
    for name in dict.fromkeys(m.name.partition("@")[0].removesuffix("+detail") for m in prepared.methods):
        if name in find_preset(args.model).settings:
            tell_unmeasured(argparse.Namespace(model=args.model, preset=args.preset, method=name))
    for service in filter(None, (method.service for method in prepared.methods)):
        faces = sum(len(change.edited) for _, change in prepared.tasks.edits)
        tell(service.estimate(faces * (3 if args.control else 1)))
    table = run.execute(prepared)
    if table is not None:
        print(table.read_text(encoding="utf-8"), end="")
    return 0
