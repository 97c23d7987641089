"""What `emolib edit` is asked for: emotions, people, boxes, files. Checked without torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emolib import picture_files
from emolib.runtime import InputError, one_of

if TYPE_CHECKING:
    from emolib.images import Box


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
        check_output(Path(path), Path(args.picture))
        picture_files.writable_format(path)
    for strength in (args.strength, *(wish.strength for wish in wishes.values())):
        if strength is not None and not 0 <= strength <= 1:
            raise InputError(f"strength must lie in [0, 1], not {strength}")
    source_emotion = None if args.source is None else label(args.source)
    return everybody, wishes, source_emotion


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
    return words.resolve(word, "emofaces")


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
    """ "120,40,260,180" -> the box. InputError."""
    try:
        x0, y0, x1, y1 = (int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--box {text!r}: give four whole numbers, e.g. 120,40,260,180") from None
    return x0, y0, x1, y1


def check_output(output: Path, picture: Path) -> None:
    """What can be known of an output file before anything is loaded."""
    if not output.parent.is_dir():
        raise InputError(f"output folder {str(output.parent)!r} does not exist; make it first")
    if output.is_dir():
        raise InputError(f"output {str(output)!r} is a folder; give the name of a file in it")
    if output.exists() and picture.exists() and output.samefile(picture):
        raise InputError(f"output {str(output)!r} is the source picture; give another name")
