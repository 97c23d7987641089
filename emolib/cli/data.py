"""`emolib data ...`: make and inspect manifests, fetch FindingEmo's or other listed pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from emolib.cli.fields import from_args, split_words, tell
from emolib.data import DATA
from emolib.runtime import SEEDS, check_output, in_range

ENDS = {
    "limit": (0, 10**9), "seed": (0, SEEDS[1]), "workers": (1, 256), "interval": (0, 3600),
    "timeout": (1, 86400), "max_mb": (0.001, 1024),
}  # fmt: skip
"""Between these the numbers of `emolib data download` make sense."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Add `data` and its commands; a chosen command is in `args.run`, to be called with `args`."""
    parser = subparsers.add_parser("data", description=__doc__)
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str):
        added = commands.add_parser(name, help=summary)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("import", _import, "folder, table or EmoSet -> manifest")
    add("source", metavar="DATA", help=DATA)
    add("-o", "--output", type=Path, required=True, help="the manifest to write (.parquet)")
    add("--labels", help="a set (mikels, plutchik8, ...) or names with commas, in order")
    add("--skip-bad", action="store_true", help="count and leave out faulty rows and pictures")
    add("--no-check", action="store_true", help="do not decode every picture")
    add = command("show", _show, "what a manifest, or any other data, holds")
    add("data", metavar="DATA", help=DATA)
    add = command("findingemo", _findingemo, "FindingEmo's annotations: counts, manifest")
    add("-o", "--output", type=Path, help="write a manifest (.parquet)")
    add("--pictures", type=Path, help="the folder they were downloaded to")
    add = command("standin", _standin, "write a made-up data set in EmoSet-118K's layout")
    add("folder", type=Path)
    add("-n", type=int, default=80, help="pictures (default: %(default)s)")
    add("--seed", type=int, default=0)
    add = command("download", _download, "fetch FindingEmo's pictures, or those of a list")
    add("--to", type=Path, required=True, help="the folder to fill; repeat the command to resume")
    add("--urls", type=Path, help="a CSV with url[,path][,emotion] instead of FindingEmo")
    add("--limit", type=int, help="so many pictures, emotions in turn")
    add("--seed", type=int, default=0, help="which pictures --limit takes")
    add("--workers", type=int, default=16)
    add("--interval", type=float, default=1.0, help="seconds between requests to one host")
    add("--timeout", type=float, default=90.0, help="seconds for one picture")
    add("--max-mb", type=float, default=30.0, help="largest picture")
    add("--no-wayback", action="store_true", help="do not ask the Wayback Machine")
    add("--retry-failed", action="store_true", help="try again what failed in earlier runs")
    add("--verify", action="store_true", help="compare checksums of what is there")
    add("--allow-private", action="store_true", help="allow private and loopback addresses")
    return parser


def _import(args: argparse.Namespace) -> int:
    from emolib.data.folder import METADATA
    from emolib.data.open import open_dataset

    on_error, source = "skip" if args.skip_bad else "refuse", Path(args.source)
    inputs = [source, *(source / name for name in METADATA)]
    check_output(args.output, inputs, suffix=".parquet")
    manifest = open_dataset(args.source, labels=_labels(args.labels), on_error=on_error)
    check_output(args.output, manifest.files())
    lines = [*manifest.problems.lines]
    if not args.no_check:
        manifest = manifest.check(on_error, show_progress=True)
        lines += manifest.problems.lines
    manifest.save(args.output)
    for line in lines:
        tell(f"skipped {line}")
    plain = int(manifest.frame["emotion"].isna().sum())
    without = f" ({plain} without a label)" if plain else ""
    print(f"{args.output}: {len(manifest)} pictures{without}, {len(lines)} skipped")
    return 0


def _labels(text: str | None) -> tuple[str, ...] | None:
    from emolib.emotions.sets import SETS

    return None if text is None else SETS.get(text, split_words(text))


def _show(args: argparse.Namespace) -> int:
    import pandas as pd

    from emolib.data.open import open_dataset

    manifest = open_dataset(args.data)
    frame = manifest.frame.fillna({"split": "-", "emotion": "-"})
    table = pd.crosstab(frame["emotion"], frame["split"])
    order = [name for name in (*manifest.labels, "-") if name in table.index]
    print(f"{args.data}: {len(manifest)} pictures from {manifest.source or 'an unnamed source'}")
    print(f"labels in order: {', '.join(manifest.labels)}")
    if len(manifest):
        print(table.loc[order].to_string())
    return 0


def _findingemo(args: argparse.Namespace) -> int:
    from emolib.data.findingemo import read_findingemo

    if args.output:
        check_output(args.output)
    data = read_findingemo()
    for name, count in data.counts.items():
        print(f"{count:7d} {name}")
    if args.output:
        manifest = data.manifest(args.pictures)
        check_output(args.output, manifest.files() if args.pictures else ())
        manifest.save(args.output)
        print(f"{args.output}: {len(manifest)} pictures")
    return 0


def _download(args: argparse.Namespace) -> int:
    from emolib.data import download
    from emolib.data.addresses import read_list
    from emolib.data.findingemo import read_findingemo

    for name, (low, high) in ENDS.items():
        if getattr(args, name) is not None:
            in_range(getattr(args, name), low, high, f"--{name.replace('_', '-')}")
    archive = {"wayback": None} if args.no_wayback else {}
    settings = from_args(download.Settings, args, max_bytes=int(args.max_mb * 2**20), **archive)
    how = {name: getattr(args, name) for name in ("limit", "seed", "retry_failed", "verify")}
    pictures = read_list(args.urls) if args.urls else read_findingemo().frame
    table = download.download(pictures, args.to, settings=settings, **how)
    counts = table["status"].value_counts()
    summary = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing to do"
    print(f"{args.to}: {summary} (record: {args.to / download.RECORD})")
    return 0


def _standin(args: argparse.Namespace) -> int:
    from emolib.data.emoset import write_standin

    in_range(args.seed, 0, SEEDS[1], "--seed")
    folder = write_standin(args.folder, args.n, args.seed)
    print(f"{folder}: {args.n} made-up pictures in EmoSet's layout")
    return 0
