"""`emolib edit PICTURE --to anger -o out.png`. Torch is loaded after what can be checked without it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

from emolib.editors import METHODS
from emolib.runtime import InputError, one_of

if TYPE_CHECKING:
    from emolib.editors.person import Target
    from emolib.hspace.directions import Directions
    from emolib.images import Box

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


class Wish(NamedTuple):
    """What --person asks of one person."""

    emotion: str
    strength: float | None


def add_parser(commands) -> None:
    """Add `emolib edit` to the command line's commands."""
    command = commands.add_parser(
        "edit",
        help="change what people in a picture feel",
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
    everybody, wishes, source_emotion = asked(args)
    given = [parse_box(value) for value in args.box]
    from emolib import backbone, checkpoints, faces, images, judges, runtime
    from emolib.adapters.splice import learned_token
    from emolib.editors import guess
    from emolib.editors.detail import KeepDetail
    from emolib.editors.person import PerPerson

    checkpoints.check_name(args.model)
    for path in filter(None, (args.output, args.side_by_side)):
        images.writable_format(path)
    source = images.to_tensor(images.open_image(args.picture))
    height, width = source.shape[-2:]
    found = given or faces.find(source)
    boxes = found or [images.square_box((0, 0, width, height), height, width)]
    for box in boxes:
        images.square_box(box, height, width)
    named, others = targets(boxes, everybody, wishes, args.describe, source_emotion)
    model = backbone.load(args.model, device=args.device, memory=args.memory)
    editor = build(args, model)
    if not found:
        print("emolib: no face found; the middle square is edited (give --box)", file=sys.stderr)
    if args.model == "minisd" and not (args.source or args.prompt or args.method == "asyrp"):
        named = guess.with_sources(source, named, judges.load("guide"))
    for person in named:
        now = f"{person.source_emotion} -> " if person.source_emotion else ""
        where = f"{args.picture}: {now}{person.emotion} at {text(person.box)}"
        print(f"{where}, {args.method}, {model}", file=sys.stderr)
    with learned_token(model, *args.token):
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


def asked(args: argparse.Namespace) -> tuple[str | None, dict[int, Wish], str | None]:
    """What everybody, and what single people are to feel, and what they feel now. Checks without torch."""
    label = partial(emotion, model=args.model, known=args.directions.emotions if args.directions else ())
    everybody = None if args.to is None else label(args.to)
    wishes = parse_wishes(args.person, label)
    if not everybody and not wishes:
        raise InputError("say what to change: --to EMOTION for everybody, or --person N=EMOTION")
    for path in filter(None, (args.output, args.side_by_side)):
        check_output(Path(path), Path(args.picture))
    for strength in (args.strength, *(wish.strength for wish in wishes.values())):
        if strength is not None and not 0 <= strength <= 1:
            raise InputError(f"strength must lie in [0, 1], not {strength}")
    source_emotion = None if args.source is None else label(args.source)
    return everybody, wishes, source_emotion


def bank(args: argparse.Namespace) -> Directions | None:
    """The directions of --method asyrp. InputError: an unknown method, one that needs none, no such file."""
    if one_of(args.method, METHODS, "method") != "asyrp":
        if args.directions:
            raise InputError(f"--directions belongs to --method asyrp, not to {args.method}")
        return None
    from emolib.hspace import directions

    return directions.load(args.directions) if args.directions else directions.shipped()


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


def emotion(word: str, model: str, known: Sequence[str] = ()) -> str:
    """The label that the typed word means: one that MiniSD learned, or any with a prompt word elsewhere.

    Where directions are `known`, it is the name of one. A learned token, "<awe>", means itself."""
    from emolib.adapters.names import placeholder
    from emolib.emotions import words

    label = word.strip().casefold()
    if known:
        return one_of(label, known, "direction")
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


def targets(
    boxes: Sequence[Box],
    everybody: str | None,
    wishes: dict[int, Wish],
    describe: Sequence[str],
    source_emotion: str | None,
) -> tuple[list[Target], list[Target]]:
    """The people to change, and those who must not. InputError: a person who is not there."""
    from emolib.editors.contract import PERSON, each
    from emolib.editors.person import Target

    for number in wishes:
        if number > len(boxes):
            where = ", ".join(f"{i}: {text(box)}" for i, box in enumerate(boxes, 1))
            raise InputError(f"there is no person {number}; there are {where}")
    named, others = [], []
    for i, who in enumerate(each(describe or PERSON, len(boxes), "description", "people")):
        felt, strength = wishes.get(i + 1, Wish(everybody, None))
        person = Target(boxes[i], felt, None, who, 0, source_emotion, strength)
        (named if felt else others).append(person)
    return named, others


def text(box: Box) -> str:
    """A box as it is typed."""
    return ",".join(map(str, box))


def provenance(args: argparse.Namespace, editor, people: Sequence[Target]) -> dict[str, object]:
    """What the file says of itself. Nothing that identifies the source or the machine."""
    from emolib.editors.contract import prompt

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
