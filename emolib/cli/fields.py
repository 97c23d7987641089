"""Options made from the fields of a dataclass, so that a knob is declared once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


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
    """Make a `kind` from the options of the same names; `more` are further fields."""
    names = kind.__dataclass_fields__.keys() & vars(args).keys()
    return kind(**{name: getattr(args, name) for name in names}, **more)


def split_words(text: str | None) -> list[str]:
    """Split "happy, glad" at its commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
