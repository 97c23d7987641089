"""`emolib tune`: choose a method's strength and guidance on your own validation pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from emolib.cli.fields import add_common, from_args, split_words, tell
from emolib.editors import METHODS
from emolib.runtime import InputError, check_output, in_range, one_of

EPILOG = """examples:
  emolib tune --model sd15 --data faces/ --identity sface --method edit-friendly -o mine.json
  emolib tune --data emofaces:val --method img2img edit-friendly --steps 10 --budget 600 -o mine.json
  emolib edit portrait.jpg --model sd15 --preset mine.json --to awe -o awed.png

Each picture of FOLDER is one face. Settings are scored by what a guide sees (never the held-out judge, which
is for scores) times how much the person is still the same, if they keep the floor; half of them go on to the
next round, with more people. Scores are kept in OUT-search/. Kill it at any time; the same command goes on.
"""


def add_parser(commands) -> None:
    """Add `tune`."""
    form = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
    command = commands.add_parser("tune", description=__doc__, **form)
    command.set_defaults(run=tune)
    add = command.add_argument
    add("--data", required=True, help="emofaces:val, a manifest or a folder: validation pictures")
    add("--method", nargs="+", required=True, metavar="METHOD", help=", ".join(METHODS))
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the preset file, .json")
    add("--budget", type=int, default=400, help="edits at most, of each method (default: %(default)s)")
    add(
        "--strengths",
        type=split_numbers,
        default=(),
        metavar="A,B",
        help="to try (default: about the model's)",
    )
    add("--guidance-scales", type=split_numbers, default=(), metavar="A,B", help="likewise")
    add("--steps", type=int, help="num_inference_steps (default: the model's)")
    add("--floor", type=split_floor, default=("same_person", 0.9), metavar="COLUMN=VALUE",
        help="what is to be kept: a column of `emolib evaluate` (default: same_person=0.9)")  # fmt: skip
    add(
        "--targets",
        type=split_words,
        default=(),
        metavar="A,B",
        help="emotions (default: all the judge knows)",
    )
    add("--judge", default="", help="a guide: role, folder, Hub id (default: the model's)")
    add("--identity", default="", metavar="NAME", help="who is who: sface, ... (default: Fisherfaces)")
    add_common(add, "model", "preset", "seed", "device", "memory")


def split_numbers(text: str) -> tuple[float, ...]:
    """Split "0.4,0.6"."""
    return tuple(float(word) for word in split_words(text))


def split_floor(text: str) -> tuple[str, float]:
    """Split "ssim=0.6"."""
    name, _, value = text.partition("=")
    return name, float(value)


def tune(args: argparse.Namespace) -> int:
    """Run the command: 0, or InputError."""
    for method in args.method:
        one_of(method, METHODS, "method")
    check_output(args.out)
    in_range(args.budget, 4, 10**9, "--budget")  # two settings of two pictures
    in_range(args.floor[1], -1000, 1000, "--floor")
    for option, numbers, least, most in (
        ("--strengths", args.strengths, 0.01, 1),
        ("--guidance-scales", args.guidance_scales, 0, 1000),
    ):
        for number in numbers:
            in_range(number, least, most, option)
    if args.out.suffix != ".json":
        raise InputError(f"--out {args.out}: a preset file ends in .json")
    from emolib.evaluation import tune as tuning
    from emolib.evaluation.builders import Options

    work = args.out.with_name(f"{args.out.stem}-search")
    search = from_args(tuning.Search, args, out=work, options=from_args(Options, args))
    loaded, findings = tuning.prepare_search(search), {}
    for method in args.method:
        findings[method] = tuning.tune_method(search, loaded, method)
        fields = ", ".join(f"{name} {value:g}" for name, value in findings[method].fields.items())
        tell(f"{method}: {fields}; {tuning.GOAL} {findings[method].means[tuning.GOAL]}, over the model's own"
             f" setting {findings[method].gain}")  # fmt: skip
    tuning.write_preset(args.out, search, loaded.instruments.judge.name, findings)
    print(args.out)
    return 0
