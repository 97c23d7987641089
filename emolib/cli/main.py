"""Run the command line: `emolib edit PICTURE --to anger -o out.png`; `emolib data, token, hspace, ...`.

Bad input is one line on stderr and exit code 2; nothing is half-written. `emolib --debug COMMAND` shows where
a refusal comes from. Only the command that was named is imported, and torch only where it is needed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from emolib import __version__
from emolib.runtime import InputError, first_line, is_out_of_memory

COMMANDS = {
    "edit": "change what people in a picture feel",
    "faces": "show the people in a picture, numbered",
    "data": "read data sets, fetch pictures",
    "token": "learn a word for an emotion from a handful of pictures",
    "lora": "learn a feeling as a LoRA or a slider, from a handful of pictures",
    "hspace": "find directions in h-space (Asyrp)",
    "evaluate": "score editors and write a leaderboard",
    "tune": "choose a method's strength and guidance on your own pictures",
    "judge": "train emotion judges, compare them, fetch those of photographs",
}
"""Command -> what it does; its options are in the module `emolib.cli.COMMAND`."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the command line, with the options of `command` alone; the function to run is `args.run`."""
    parser = argparse.ArgumentParser(
        prog="emolib", description="Emotion-driven image editing with diffusion: the course's command line."
    )
    parser.add_argument("--version", action="version", version=f"emolib {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where a refusal comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == command:
            import_module(f"emolib.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, 2 for bad input (argparse exits with 2 by itself), 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else it is a notebook's, which shows every name
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show stops nothing
    args = None
    try:
        args = build_parser(next((word for word in arguments if word[:1] != "-"), None)).parse_args(arguments)
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("emolib: interrupted", file=sys.stderr)
        return 130
    except (InputError, FloatingPointError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        if getattr(args, "debug", False):
            traceback.print_exc()
        print(f"emolib: {_explain(error, args)}", file=sys.stderr)
        return 2


def _explain(error: Exception, args: argparse.Namespace | None) -> str:
    if is_out_of_memory(error):
        low = "--memory low, " if hasattr(args, "memory") else ""
        return f"out of memory; try {low}a smaller model or picture, or --device cpu"
    if isinstance(error, OSError):  # what no check foresaw: a name too long, a full disk
        said = error.strerror.lower() if error.strerror else first_line(error)
        return f"{error.filename}: {said}" if error.filename is not None else said
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
