"""What `emolib edit` is asked for: emotions, people, boxes, files. Checked without torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emolib import picture_files, runtime
from emolib.editors.recipe import MARGINS
from emolib.runtime import InputError, in_range, one_of

if TYPE_CHECKING:
    from emolib.images import Box


MEMORY = ("auto", "fast", "balanced", "low")
"""What --memory may be; `backbone.MEMORY`, which cannot be read without torch."""


class Wish(NamedTuple):
    """What --person asks of one person."""

    emotion: str
    strength: float | None


def asked(args: argparse.Namespace) -> tuple[str | None, dict[int, Wish], str | None]:
    """What everybody, and what single people are to feel, and what they feel now. Checks without torch."""
    label = partial(emotion, model=args.model, known=args.directions.emotions if args.directions else ())
    everybody = None if args.to is None else label(args.to)
    wishes = parse_wishes(args.person, label)
    if not everybody and not wishes:
        raise InputError("say what to change: --to EMOTION for everybody, or --person N=EMOTION")
    for path in filter(None, (args.output, args.side_by_side)):
        picture_files.check_edit(path, args.picture)
    if args.side_by_side and Path(args.side_by_side).resolve() == Path(args.output).resolve():
        raise InputError(f"--side-by-side {args.side_by_side}: is the output itself; give it another name")
    for strength in (args.strength, *(wish.strength for wish in wishes.values())):
        if strength is not None:
            in_range(strength, 0, 1, "strength")
    check_numbers(args)
    source_emotion = None if args.source is None else label(args.source)
    return everybody, wishes, source_emotion


def check_numbers(args: argparse.Namespace) -> None:
    """InputError for a number that no edit can follow, or a file of --token that is not there."""
    in_range(args.margin, *MARGINS, "--margin")
    in_range(args.seed, *runtime.SEEDS, "--seed")
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}")
    if args.guidance_scale is not None and not math.isfinite(args.guidance_scale):
        raise InputError(f"--guidance-scale must be a finite number, not {args.guidance_scale}")
    for path in args.token:
        if not path.is_file():
            raise InputError(f"--token {path}: no such file; `emolib token train` makes one")


def check_machine(args: argparse.Namespace) -> None:
    """InputError unless --device and --memory can be meant; whether the device is there needs torch."""
    runtime.check_device(args.device)
    one_of(args.memory, MEMORY, "memory option")


def emotion(word: str, model: str, known: Sequence[str] = ()) -> str:
    """The label that the typed word means: one that MiniSD learned, or any with a prompt word elsewhere.

    Where directions are `known`, it is the name of one, or a word for one. A learned token, "<awe>", means
    itself. InputError, with the nearest word, for anything else.
    """
    from emolib.adapters.names import placeholder
    from emolib.emotions import words

    label = word.strip().casefold()
    if known:
        meant = words.VOCABULARY.get(label)
        return meant if label not in known and meant in known else one_of(label, known, "direction")
    if label.startswith("<"):
        return placeholder(label)
    if model != "minisd" and label in words.ADJECTIVES:
        return label
    try:
        return words.resolve(word, "emofaces")
    except InputError as error:
        if label not in words.VOCABULARY:
            raise
        meant = f"<{words.VOCABULARY[label]}>"
        raise InputError(f"{error}, or use a learned token: {meant!r} with --token FILE") from None


def parse_wishes(texts: Sequence[str], label: Callable[[str], str]) -> dict[int, Wish]:
    """ "2=awe:0.5" -> {2: Wish("awe", 0.5)}. InputError: another form, or one person twice."""
    wishes = {}
    for given in texts:
        number, _, rest = given.partition("=")
        word, _, strength = rest.partition(":")
        try:
            who, how = int(number), float(strength) if strength else None
        except ValueError:
            who, how = 0, None
        if who < 1 or not word:
            raise InputError(
                f"--person {given!r}: give a number from 1 and an emotion, e.g. 2=awe or 2=awe:0.5"
            )
        if who in wishes:
            raise InputError(f"--person {given!r}: person {who} has an emotion already")
        wishes[who] = Wish(label(word), how)
    return wishes


def parse_box(text: str) -> Box:
    """ "120,40,260,180" -> the box. InputError: another form, or an empty box."""
    try:
        x0, y0, x1, y1 = (int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--box {text!r}: give four whole numbers, e.g. 120,40,260,180") from None
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise InputError(f"--box {text!r}: must be X0,Y0,X1,Y1 with 0 <= X0 < X1 and 0 <= Y0 < Y1")
    return x0, y0, x1, y1
