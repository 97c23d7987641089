"""`emolib judge train DATA --out FOLDER`: a judge from your own pictures; `emolib judge transfer`: do judges
agree? `emolib judge fetch NAME`: a judge of photographs from the Hub."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emolib.cli.fields import add_common, tell
from emolib.data import DATA
from emolib.runtime import check_output, in_range

if TYPE_CHECKING:
    from emolib.data.manifest import Manifest
    from emolib.judges.linear import Report

EPILOG = f"""DATA is {DATA}.
examples:
  emolib judge train faces/ --out mine
  emolib judge train findingemo:pictures --labels mikels --backbone google/vit-base-patch16-224 --out scenes
  emolib judge transfer --judges mine scenes guide --data faces/ emofaces:test
  emolib judge fetch photo-guide
  emolib evaluate --methods course --judges guide,mine --data emofaces:val --out board
"""
POWERS = (-4, 4)
"""Between these --weight-power gives weights that are numbers, whatever is counted."""


def add_parser(commands) -> None:
    """Add `judge` and its commands; the chosen one is in `args.run`."""
    parser = commands.add_parser("judge", description=__doc__)
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--labels", metavar="SET", help="bring labels to this set first: mikels, ekman, ...")
    add("--limit", type=int, metavar="N", help="only N pictures (of each DATA), emotions in turn")
    add_common(add, "device")
    form = {"epilog": EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter, "parents": [common]}
    train = below.add_parser("train", help="from labelled pictures", **form)
    add = train.add_argument
    add("data", metavar="DATA", help="labelled pictures, see below")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the judge's folder and its report.json")
    add("--backbone", default="guide", metavar="NAME", help="whose features: guide, or a transformers image"
        " model's folder or cached Hub id (default: %(default)s)")  # fmt: skip
    add("--weight-power", type=float, default=1.0, help="classes weigh count^-power (default: %(default)s)")
    train.set_defaults(run=_train)
    compare = below.add_parser("transfer", help="every judge on every data set", **form)
    add = compare.add_argument
    add("--judges", nargs="+", required=True, metavar="JUDGE", help="guide, heldout, folders, cached Hub ids")
    add("--data", nargs="+", required=True, metavar="DATA", help="labelled pictures, see below")
    compare.set_defaults(run=_transfer)
    fetch = below.add_parser("fetch", help="a network for photographs, from the Hub into its cache")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="photo-guide, photo-heldout (judges), sface"
        " (who is it), yunet (where are faces), or a classifier's Hub id")  # fmt: skip
    fetch.add_argument("--yes", action="store_true", help="do not ask; size and licence are printed")
    fetch.set_defaults(run=_fetch)


def open_data(spec: str, labels: str | None = None, limit: int | None = None) -> Manifest:
    """Open the manifest that DATA names (see --help), its labels brought to the set `labels`. InputError."""
    if limit is not None:
        in_range(limit, 1, math.inf, "--limit")
    from emolib.data.open import open_dataset, relabel_to_set

    manifest = open_dataset(spec)
    if labels is not None:
        manifest = relabel_to_set(manifest, labels, spec)
    return manifest if limit is None else manifest.sample(limit)


def _train(args: argparse.Namespace) -> int:
    in_range(args.weight_power, *POWERS, "--weight-power")
    check_output(args.out, folder=True)
    manifest = open_data(args.data, args.labels, args.limit)
    from emolib.judges import linear

    network = linear.load_backbone(args.backbone, device=args.device)
    judge, report = linear.fit(network, manifest, weight_power=args.weight_power)
    linear.save_judge(judge, report, args.out, source=args.backbone)
    print(text(report))
    print(args.out)
    return 0


def text(report: Report) -> str:
    """A report to read: rates with intervals, then the confusion matrix."""
    train, val, test = report.sizes
    lines = [
        f"{train} pictures trained on, {val} to choose by, {test} to report on",
        f"accuracy          {report.accuracy}",
        f"mean over labels  {report.balanced}",
        f"calibration error {report.ece[0]:.3f}, at temperature {report.temperature:.2f} {report.ece[1]:.3f}",
        "",
        "row = label, column = judged",
    ]
    width = max(len(name) for name in report.labels)
    lines += [
        f"{name:{width}} " + " ".join(f"{count:5d}" for count in row) + f"   {report.by_label[name]}"
        for name, row in zip(report.labels, report.confusion, strict=True)
    ]
    return "\n".join(lines)


def _fetch(args: argparse.Namespace) -> int:
    from emolib.judges.networks import fetch_network

    def agree(offer: str) -> bool:
        if args.yes or not sys.stdin.isatty():
            tell(offer if args.yes else f"{offer}; to fetch it: --yes")
            return args.yes
        return input(f"{offer}; fetch it? [y/N] ").strip().casefold() in ("y", "yes")

    folders = [fetch_network(name, agree) for name in args.names]
    for folder in filter(None, folders):
        print(folder)
    return 0 if all(folders) else 2


def _transfer(args: argparse.Namespace) -> int:
    data = {spec: open_data(spec, args.labels, args.limit) for spec in args.data}
    from emolib.judges import emotion, linear

    panel = {name: emotion.load_judge(name, device=args.device) for name in args.judges}
    rates = linear.transfer(panel, data)
    print("| judge | " + " | ".join(args.data) + " |")
    print("|---|" + "---|" * len(args.data))
    for name in args.judges:
        cells = [_cell(*rates[name, spec]) for spec in args.data]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


def _cell(accuracy, shared) -> str:
    if accuracy is None:
        return "– (no two labels in common)"
    return f"{accuracy}, {len(shared)} labels"
