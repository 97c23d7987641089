"""The command line: `emolib edit PICTURE --to anger -o out.png`; `emolib data, token, hspace, evaluate,
judge`.

Bad input is one line on stderr and exit code 2; nothing is half-written. Torch is loaded only by a command
that needs it, after everything that can be checked without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from emolib import __version__
from emolib.cli import data as data_cli
from emolib.cli import edit, judge, token
from emolib.cli import evaluate as evaluation_cli
from emolib.cli import hspace as hspace_cli
from emolib.runtime import InputError, first_line


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen command is in `args.run`."""
    parser = argparse.ArgumentParser(
        prog="emolib", description="Emotion-driven image editing with diffusion: the course's command line."
    )
    parser.add_argument("--version", action="version", version=f"emolib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    edit.add_parser(commands)
    data_cli.add_parser(commands)
    token.add_parser(commands)
    hspace_cli.add_parser(commands)
    evaluation_cli.add_parser(commands)
    judge.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, or 2 for bad input (argparse exits with 2 by itself)."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args) or 0
    except (InputError, FloatingPointError) as error:
        print(f"emolib: {error}", file=sys.stderr)
    except OSError as error:  # what no check foresaw: a name too long, a full disk
        said = error.strerror.lower() if error.strerror else first_line(error)
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"emolib: {where}{said}", file=sys.stderr)
    except KeyboardInterrupt:
        print("emolib: interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        low = "--memory low, " if hasattr(args, "memory") else ""
        print(f"emolib: out of memory; try {low}a smaller model or --device cpu", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
