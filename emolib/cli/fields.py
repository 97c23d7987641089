"""Options made from the fields of a dataclass, so that a knob is declared once; and common options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from emolib.diffusion.presets import DEFAULT_MODEL, PRESETS, UNMEASURED, find_preset, list_options
from emolib.emotions import words
from emolib.runtime import InputError, one_of

if TYPE_CHECKING:
    from emolib.images import Box

T = TypeVar("T")

COMMON = {
    "model": (DEFAULT_MODEL, f"{', '.join(PRESETS)}, a folder or a Hub id"),
    "preset": ("", "FILE: settings that `emolib tune` wrote, in place of the model's own"),
    "seed": (0, "which noise is drawn"),
    "device": ("auto", "auto, cpu, cuda, mps"),
    "memory": ("auto", "auto, fast, balanced, low"),
}
"""Name -> (default, help) of the options that several commands have."""


def add_group(subparsers: Any, name: str, description: str, epilog: str) -> Any:
    """Add a command that has commands of its own; returns where these are added. The chosen one is in
    `args.run`, to be called with `args`."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(name, description=description, epilog=epilog, formatter_class=form)
    return parser.add_subparsers(required=True, metavar="COMMAND")


def add_common(add: Any, *names: str) -> None:
    """Add options of `COMMON` by `parser.add_argument`."""
    for name in names:
        default, text = COMMON[name]
        text = text if default == "" else f"{text} (default: %(default)s)"
        add(f"--{name}", type=type(default), default=default, help=text)


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


Choices = dict[str, tuple[Any, str]]
"""A method's settings: name -> (value, where it is from)."""


def choose_settings(args: argparse.Namespace) -> Choices:
    """Choose each setting of `args.method`: the flag's, else the preset file's, else the model's preset's.

    InputError: a method that the model cannot do, a bad preset file."""
    choices = find_preset(args.model, args.preset).explain(args.method)
    for name in choices:
        if (given := getattr(args, name, None)) is not None:
            flag = {"num_inference_steps": "steps"}.get(name, name).replace("_", "-")
            choices[name] = given, f"--{flag}"
    return choices


def fix_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Write a preset file's numbers into the options and return the other fields of a `Recipe`."""
    if not args.preset:
        return {}
    values = {name: value for name, (value, _) in choose_settings(args).items()}
    args.strength = values.pop("strength")
    options = tuple((name, values.pop(name)) for name in list_options(args.method) if name in values)
    return values | {"options": options}


def explain_settings(args: argparse.Namespace) -> int:
    """Print what an edit with these options would use, and where each number is from."""
    from emolib.diffusion import hub

    if args.method != "hosted":
        hub.check_name(args.model)
    preset, choices = find_preset(args.model), choose_settings(args)
    print(f"{args.model}: {preset.name}, {preset.size} px, judge {preset.judge}")
    for name, (value, source) in choices.items():
        print(f"{name:<22} {value!s:<6} {source}")
    return 0


def tell_unmeasured(args: argparse.Namespace) -> None:
    """Say in one line which settings of `args.method` nobody has published for the model."""
    choices = choose_settings(args)
    guessed = [name for name, (_, source) in choices.items() if source.startswith(UNMEASURED)]
    if guessed:
        values = ", ".join(f"{name} {choices[name][0]}" for name in guessed)
        tell(f"{args.model}, {args.method}: {values} {choices[guessed[0]][1]}")


def split_words(text: str | None) -> tuple[str, ...]:
    """Split "happy, glad" at its commas."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def tell(line: str) -> None:
    """Print a line for the reader, not for the next program."""
    print(line, file=sys.stderr, flush=True)


def parse_emotion(word: str, model: str, names: Sequence[str] | None = (), felt: Sequence[str] = ()) -> str:
    """Read an emotion: one that the model knows, a direction's or LoRA's, or a learned token, "<awe>".

    InputError, with the nearest word, for anything else."""
    from emolib.interventions.tokens import placeholder

    label = word.strip().casefold()
    if names:
        meant = words.VOCABULARY.get(label)
        use_meaning = label not in names and meant in names
        return meant if use_meaning else one_of(label, names, "direction")
    if label.startswith("<"):
        return placeholder(label)
    if label in felt:
        return label
    try:
        return find_preset(model).resolve_emotion(word)
    except InputError as error:
        if label not in words.VOCABULARY:
            raise
        meant = f"<{words.VOCABULARY[label]}>"
        raise InputError(f"{error}, or use a learned token: {meant!r} with --token FILE") from None


def parse_wish(text: str) -> tuple[int, str, float | None]:
    """Read "2=awe:0.5": person 2, "awe", 0.5. InputError: another form."""
    form = re.fullmatch(r"([1-9]\d*)=([^:]+)(?::([-+.\deE]+))?", text.strip())
    with suppress(AttributeError, ValueError):  # no match, or a strength that is no number
        number, word, strength = form.groups()
        return int(number), word, float(strength) if strength else None
    raise InputError(f"--person {text!r}: give a number from 1 and an emotion, e.g. 2=awe or 2=awe:0.5")


def parse_box(text: str) -> Box:
    """Read "120,40,260,180". InputError: another form, or an empty box."""
    with suppress(ValueError):
        x0, y0, x1, y1 = (int(number) for number in text.split(","))
        if 0 <= x0 < x1 and 0 <= y0 < y1:
            return x0, y0, x1, y1
    raise InputError(
        f"--box {text!r}: give four whole numbers X0,Y0,X1,Y1 with 0 <= X0 < X1 and 0 <= Y0 < Y1"
    )
