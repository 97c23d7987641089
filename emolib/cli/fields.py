"""Options made from the fields of a dataclass, so that a knob is declared once; and common options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from emolib.diffusion.presets import DEFAULT_MODEL

T = TypeVar("T")

COMMON = {
    "model": (DEFAULT_MODEL, "minisd, sd15, sd21, sdxl, a folder or a Hub id"),
    "seed": (0, "which noise is drawn"),
    "device": ("auto", "auto, cpu, cuda, mps"),
    "memory": ("auto", "auto, fast, balanced, low"),
}
"""Name -> (default, help) of the options that several commands have."""


def add_common(add: Any, *names: str) -> None:
    """Add options of `COMMON` by `parser.add_argument`."""
    for name in names:
        default, text = COMMON[name]
        add(f"--{name}", type=type(default), default=default, help=f"{text} (default: %(default)s)")


def add_fields(parser: argparse.ArgumentParser, knobs: Any, helps: Mapping[str, str]) -> None:
    """Add an option for every field in `helps` of a dataclass, or of one of its instances, whose values are
    the defaults then."""
    kind = knobs if isinstance(knobs, type) else type(knobs)
    for name, text in helps.items():
        option, default = "--" + name.replace("_", "-"), getattr(knobs, name)
        if default is False:
            parser.add_argument(option, action="store_true", help=text)
        else:
            of_type = type(kind.__dataclass_fields__[name].default)
            text = f"{text} (default: %(default)s)"
            parser.add_argument(option, type=of_type, default=default, help=text)


def from_args(kind: type[T], args: argparse.Namespace, **more: Any) -> T:
    """Make a `kind` from the options of the same names; `more` are other fields, or other values for them."""
    names = kind.__dataclass_fields__.keys() & vars(args).keys()
    return kind(**{name: getattr(args, name) for name in names} | more)


def split_words(text: str | None) -> tuple[str, ...]:
    """Split "happy, glad" at its commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def tell(line: str) -> None:
    """Print a line for the reader, not for the next program."""
    print(line, file=sys.stderr, flush=True)
