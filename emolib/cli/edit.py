"""`emolib edit`: change what people in a picture feel."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from emolib import runtime
from emolib.editors import METHODS
from emolib.editors.recipe import MARGINS
from emolib.runtime import InputError, in_range, one_of

if TYPE_CHECKING:
    from emolib.editors.person import Target
    from emolib.images import Box
    from emolib.interventions.directions import Directions
    from emolib.interventions.tokens import Token

EPILOG = """people:
  Each --box is one face; they are numbered from 1 in the order given. Without --box, faces are looked for
  with the detector of scikit-image (upright, seen from the front) and numbered from left to right; where it
  finds none, the middle square of the picture is person 1. With --to everybody changes, with --person alone
  only those named; nobody else's pixels do.

examples:
  emolib edit portrait.jpg --to awe -o awed.png
  emolib edit portrait.jpg --to sadness --method img2img --strength 0.5 -o sad.jpg
  emolib edit portrait.jpg --to smiling --method asyrp --directions smile.safetensors -o smile.jpg
  emolib edit group.jpg --person 2=awe --person 1=sadness:0.5 -o out.png --side-by-side pair.png
  emolib edit group.jpg --to anger --box 120,40,260,180 --describe "woman with red hair" -o out.png
  emolib edit --from saved.json -o again.png
"""


def add_parser(commands) -> None:
    """Add `emolib edit` to the command line's commands."""
    command = commands.add_parser(
        "edit",
        description="Change what people in a picture feel, with Stable Diffusion.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(command.add_argument)
    command.set_defaults(run=edit)


def _add_options(add) -> None:
    add("picture", metavar="PICTURE", nargs="?", help="a picture file: PNG, JPEG, WebP, GIF, BMP, TIFF")
    add("--to", metavar="EMOTION", help="for everybody: anger, awe, contentment, ... or a word like furious")
    add("--person", action="append", default=[], metavar="N=EMOTION[:STRENGTH]", help="for person N alone")
    add("-o", "--output", metavar="FILE", help="where to write it: .png, .jpg or .webp")
    add("--side-by-side", metavar="FILE", help="write the source beside the edit into another file")
    add("--method", default="edit-friendly", help=f"{', '.join(METHODS)} (default: %(default)s)")
    add("--directions", metavar="FILE", help="of --method asyrp, from `emolib hspace fit`, whose names are"
        " the emotions (default: those that came with MiniSD)")  # fmt: skip
    add("--model", default="minisd", metavar="NAME", help="minisd, sd15, sd21, sdxl, a folder or a Hub id"
        " (default: %(default)s)")  # fmt: skip
    add("--strength", type=float, help="0 changes nothing, 1 as much as the method can (default: its own)")
    add("--guidance-scale", type=float, help="how much the prompt rules (default: the method's)")
    add("--steps", type=int, help="steps at strength 1 (default: the method's)")
    add("--seed", type=int, default=0, help="which noise is drawn (default: %(default)s)")
    add("--box", action="append", default=[], metavar="X0,Y0,X1,Y1", help="a face in pixels; repeat for more")
    add("--margin", type=float, default=0.0, help="what the square around a face adds on each side, as a"
        " share of the face (default: %(default)s; scenes are measured with 0.06)")  # fmt: skip
    add("--describe", action="append", default=[], metavar="WHO", help='e.g. "woman with red hair": once for'
        " all, or once for each person")  # fmt: skip
    add("--from", dest="source", metavar="EMOTION", help="what they feel now (MiniSD: else the guide"
        " judge's guess); or a recipe, FILE.json, that the playground saved")  # fmt: skip
    add("--token", action="append", type=Path, default=[], metavar="FILE", help="a learned token's file; then"
        ' --to "<awe>", or "<awe>" in --prompt')  # fmt: skip
    add("--prompt", metavar="TEXT", help='instead of "photo of {article} {word} {description}"')
    add("--raw", action="store_true", help="the model's own picture, blurred by its autoencoder, without the"
        " source's detail where the edit did nothing")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--memory", default="auto", help="auto, fast, balanced, low (default: %(default)s)")


def edit(args: argparse.Namespace) -> int:
    """`emolib edit`: check, load, edit the people, write."""
    check_machine(args)
    if str(args.source).endswith(".json"):
        from emolib.editors import recipe

        plain = argparse.ArgumentParser()
        _add_options(plain.add_argument)
        print(recipe.follow(args, plain.parse_args([])))
        return 0
    if args.picture is None:
        raise InputError("give a PICTURE, and where to write its edit, -o FILE; see emolib edit --help")
    if args.output is None:
        raise InputError("say where to write the edit: -o FILE")
    args.directions = bank(args)
    everybody, asked, source_emotion = parse_requests(args)
    given = [parse_box(value) for value in args.box]
    from emolib import images
    from emolib.diffusion import hub

    hub.check_name(args.model)
    picture = images.open_image(args.picture)
    from emolib.diffusion import backbone
    from emolib.editors import person as guess
    from emolib.editors.compose import KeepDetail
    from emolib.editors.person import PerPerson
    from emolib.interventions.splice import learned_token
    from emolib.judges import emotion, faces

    source = images.to_tensor(picture)
    height, width = source.shape[-2:]
    found = given or faces.find(source)
    boxes = found or [images.square_box((0, 0, width, height), height, width)]
    for box in boxes:
        images.square_box(box, height, width)
    named, others = targets(boxes, everybody, asked, args.describe, source_emotion)
    tokens = used_tokens(args, [everybody, source_emotion, *(wish.emotion for wish in asked.values())])
    model = backbone.load(args.model, device=args.device, memory=args.memory)
    editor = build(args, model)
    if not found:
        print("emolib: no face found; the middle square is edited (give --box)", file=sys.stderr)
    if args.model == "minisd" and not (args.source or args.prompt or args.method == "asyrp"):
        named = guess.with_sources(source, named, emotion.load_judge("guide"), margin=args.margin)
    for person in named:
        now = f"{person.source_emotion} -> " if person.source_emotion else ""
        where = f"{args.picture}: {now}{person.emotion} at {format_box(person.box)}"
        print(f"{where}, {args.method}, {model}", file=sys.stderr)
    with learned_token(model, *tokens):
        edited = PerPerson(editor if args.raw else KeepDetail(editor), model.size, margin=args.margin)(
            source, generator=runtime.generator(args.seed), people=named, bystanders=others
        )
    record = provenance(args, editor, named)
    images.save_image(edited, args.output, provenance=record)
    print(args.output)
    if args.side_by_side:
        images.save_image(images.beside(source, edited), args.side_by_side, provenance=record)
        print(args.side_by_side)
    return 0


def bank(args: argparse.Namespace) -> Directions | None:
    """The directions of --method asyrp. InputError: an unknown method, one that needs none, no such file."""
    if one_of(args.method, METHODS, "method") != "asyrp":
        if args.directions:
            raise InputError(f"--directions belongs to --method asyrp, not to {args.method}")
        return None
    from emolib.interventions import directions

    return directions.load(args.directions) if args.directions else directions.shipped()


def used_tokens(args: argparse.Namespace, emotions: Sequence[str | None]) -> list[Token]:
    """The learned tokens of --token. InputError: a file that is none, or a token that nothing asks for."""
    from emolib.interventions import token_files

    tokens = [token_files.load(path) for path in args.token]
    said = " ".join([args.prompt or "", *args.describe]).casefold()
    for path, token in zip(args.token, tokens, strict=True):
        if token.name not in emotions and token.name not in said:
            raise InputError(f"{path}: nothing asks for its {token.name}; give --to '{token.name}'")
    return tokens


def build(args: argparse.Namespace, model):
    """The editor with the settings that were given; the rest are its own."""
    given = {
        "strength": args.strength,
        "guidance_scale": args.guidance_scale,
        "num_inference_steps": args.steps,
        "template": args.prompt,
        "directions": args.directions,
    }
    spoken = {"guidance-scale": args.guidance_scale, "prompt": args.prompt, "describe": args.describe or None}
    said = [f"--{name}" for name, value in spoken.items() if value is not None]
    if args.method == "asyrp" and said:
        raise InputError(f"--method asyrp takes no prompt: leave out {', '.join(said)}")
    return resolve_name(METHODS[args.method])(
        model, **{name: value for name, value in given.items() if value is not None}
    )


def targets(
    boxes: Sequence[Box],
    everybody: str | None,
    asked: dict[int, Wish],
    describe: Sequence[str],
    source_emotion: str | None,
) -> tuple[list[Target], list[Target]]:
    """The people to change, and those who must not. InputError: a person who is not there."""
    from emolib.editors.base import PERSON, each
    from emolib.editors.person import Target

    for number in asked:
        if number > len(boxes):
            where = ", ".join(f"{i}: {format_box(box)}" for i, box in enumerate(boxes, 1))
            raise InputError(f"there is no person {number}; there are {where}")
    named, others = [], []
    for i, who in enumerate(each(describe or PERSON, len(boxes), "description", "people")):
        felt, strength = asked.get(i + 1, Wish(everybody, None))
        person = Target(boxes[i], felt, None, who, 0, source_emotion, strength)
        (named if felt else others).append(person)
    return named, others


def format_box(box: Box) -> str:
    """A box as it is typed."""
    return ",".join(map(str, box))


def provenance(args: argparse.Namespace, editor, people: Sequence[Target]) -> dict[str, object]:
    """What the file says of itself. Nothing that identifies the source or the machine."""
    from emolib.editors.base import prompt

    settings = asdict(editor)
    template = settings.pop("template", None)
    if args.directions:
        settings["directions"] = str(args.directions)
    return {
        "edited": "by emolib: this picture is not a photograph",
        "method": args.method,
        "model": settings.pop("backbone").name,
        **settings,
        "keep_detail": not args.raw,
        "seed": args.seed,
        "people": [
            {
                "emotion": person.emotion,
                **({"from": person.source_emotion} if person.source_emotion else {}),
                **({"prompt": prompt(person.emotion, person.description, template)} if template else {}),
                "strength": settings["strength"] if person.strength is None else person.strength,
                "box": list(person.box),
            }
            for person in people
        ],
    }


MEMORY = ("auto", "fast", "balanced", "low")
"""What --memory may be; `backbone.MEMORY`, which cannot be read without torch."""


class Wish(NamedTuple):
    """What --person asks of one person."""

    emotion: str
    strength: float | None


def parse_requests(args: argparse.Namespace) -> tuple[str | None, dict[int, Wish], str | None]:
    """What everybody, and what single people are to feel, and what they feel now. Checks without torch."""
    label = partial(
        parse_emotion, model=args.model, known=args.directions.emotions if args.directions else ()
    )
    everybody = None if args.to is None else label(args.to)
    wishes = parse_wishes(args.person, label)
    if not everybody and not wishes:
        raise InputError("say what to change: --to EMOTION for everybody, or --person N=EMOTION")
    from emolib import images

    for path in filter(None, (args.output, args.side_by_side)):
        images.check_edit(path, args.picture)
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


def parse_emotion(word: str, model: str, known: Sequence[str] = ()) -> str:
    """The label that the typed word means: one that MiniSD learned, or any with a prompt word elsewhere.

    Where directions are `known`, it is the name of one, or a word for one. A learned token, "<awe>", means
    itself. InputError, with the nearest word, for anything else.
    """
    from emolib.emotions import words
    from emolib.interventions.tokens import placeholder

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
