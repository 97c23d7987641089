"""`emolib edit PICTURE --to anger -o out.png`. Torch is loaded after what can be checked without it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from emolib import picture_files, wishes
from emolib.editors import METHODS
from emolib.runtime import InputError, one_of
from emolib.wishes import Wish

if TYPE_CHECKING:
    from emolib.adapters.tokens import Token
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
    wishes.check_machine(args)
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
    everybody, asked, source_emotion = wishes.asked(args)
    given = [wishes.parse_box(value) for value in args.box]
    from emolib import checkpoints

    checkpoints.check_name(args.model)
    picture = picture_files.open_image(args.picture)
    from emolib import backbone, faces, images, judges, runtime
    from emolib.adapters.splice import learned_token
    from emolib.editors import guess
    from emolib.editors.detail import KeepDetail
    from emolib.editors.person import PerPerson

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
        named = guess.with_sources(source, named, judges.load("guide"), margin=args.margin)
    for person in named:
        now = f"{person.source_emotion} -> " if person.source_emotion else ""
        where = f"{args.picture}: {now}{person.emotion} at {text(person.box)}"
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
    from emolib.hspace import directions

    return directions.load(args.directions) if args.directions else directions.shipped()


def used_tokens(args: argparse.Namespace, emotions: Sequence[str | None]) -> list[Token]:
    """The learned tokens of --token. InputError: a file that is none, or a token that nothing asks for."""
    from emolib.adapters import files

    tokens = [files.load(path) for path in args.token]
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
    from emolib.editors.contract import PERSON, each
    from emolib.editors.person import Target

    for number in asked:
        if number > len(boxes):
            where = ", ".join(f"{i}: {text(box)}" for i, box in enumerate(boxes, 1))
            raise InputError(f"there is no person {number}; there are {where}")
    named, others = [], []
    for i, who in enumerate(each(describe or PERSON, len(boxes), "description", "people")):
        felt, strength = asked.get(i + 1, Wish(everybody, None))
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
