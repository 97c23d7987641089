"""`emolib edit`: change what people in a picture feel."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emolib import runtime
from emolib.cli.faces import find_everybody, format_box, guess_sources
from emolib.cli.fields import (
    add_common,
    explain_settings,
    fix_settings,
    from_args,
    parse_box,
    parse_emotion,
    parse_wish,
    tell,
    tell_unmeasured,
)
from emolib.cli.lora import name_loras, parse_loras, plugged
from emolib.diffusion.presets import DEFAULT_METHOD, INSTRUCT, find_preset
from emolib.editors import METHODS, OTHERS
from emolib.emotions import words
from emolib.runtime import InputError, one_of

if TYPE_CHECKING:
    from PIL import Image

    from emolib.diffusion.backbone import Backbone
    from emolib.editors.hosted import Service
    from emolib.editors.instruct import InstructModel
    from emolib.editors.person import Person
    from emolib.editors.recipe import Recipe
    from emolib.interventions.directions import Directions
    from emolib.interventions.tokens import Token
    from emolib.judges.faces import Face

EPILOG = """people:
  Each --box is one face; they are numbered from 1 in the order given. Without --box, faces are looked for
  and numbered from left to right: `emolib faces PICTURE -o faces.png` shows them. With --to everybody
  changes, with --person alone only those named; nobody else's pixels do.

examples:
  emolib edit portrait.jpg --to awe -o awed.png
  emolib edit portrait.jpg --to sadness --method img2img --strength 0.5 -o sad.jpg
  emolib edit portrait.jpg --to smiling --method asyrp --directions smile.safetensors -o smile.jpg
  emolib edit group.jpg --person 2=awe --person 1=sadness:0.5 -o out.png --side-by-side pair.png
  emolib edit group.jpg --to anger --box 120,40,260,180 --describe "woman with red hair" -o out.png
  emolib edit portrait.jpg --to anger --model qwen-edit --memory low -o out.png
  emolib edit --from saved.json -o again.png
"""


MEMORY = ("auto", "fast", "balanced", "low")
"""What --memory may be; `backbone.MEMORY`, which cannot be read without torch."""
BESIDE_RECIPE = ("source", "picture", "output", "device", "memory", "lora", "budget")
"""What may be typed beside `--from FILE.json`; the recipe says the rest."""
FAINT = 0.005
"""An edit that starts from less noise than this share of a latent's variance changes nothing."""
Wish = tuple[str | None, float | None]
"""What one person is to feel, and how strongly; None: their strength is that of all."""


def add_parser(commands) -> None:
    """Add `emolib edit` to the command line's commands."""
    command = commands.add_parser(
        "edit",
        description="Change what people in a picture feel, with Stable Diffusion.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(command.add_argument)
    command.set_defaults(run=partial(edit, command))


def add_options(add) -> None:
    """Declare the command's options."""
    add("picture", metavar="PICTURE", nargs="?", help="a picture file: PNG, JPEG, WebP, GIF, BMP, TIFF")
    add("--to", metavar="EMOTION", help="for everybody: anger, awe, contentment, ... or a word like furious")
    add("--person", action="append", default=[], metavar="N=EMOTION[:STRENGTH]", help="for person N alone")
    add("-o", "--output", metavar="FILE", help="where to write it: .png, .jpg or .webp")
    add("--side-by-side", metavar="FILE", help="write the source beside the edit into another file")
    add("--method", default=DEFAULT_METHOD, help=f"{', '.join(METHODS)}; hosted; or instruct, which"
        f" instruction editors ({', '.join(INSTRUCT)}) need not be told (default: %(default)s)")  # fmt: skip
    add("--budget", type=float, metavar="USD", help="what --method hosted may cost; its --model is stability,"
        " openai, gemini or bfl, or e.g. bfl/flux-2-pro")  # fmt: skip
    add("--directions", metavar="FILE", help="of --method asyrp, from `emolib hspace fit`, whose names are"
        " the emotions (default: those that came with MiniSD)")  # fmt: skip
    add("--strength", type=float, help="0 changes nothing, 1 as much as the method can (default: its own)")
    add("--guidance-scale", type=float, help="how much the prompt rules (default: the method's)")
    add("--steps", type=int, dest="num_inference_steps", help="steps at strength 1 (default: the method's)")
    add("--box", action="append", default=[], metavar="X0,Y0,X1,Y1", help="a face in pixels; repeat for more")
    add("--margin", type=float, help="what the square around a face adds on each side, as a share of the face"
        " (default: the model's)")  # fmt: skip
    add("--explain", action="store_true", help="print each setting and who says so, and stop")
    add("--describe", action="append", default=[], metavar="WHO", help='e.g. "woman with red hair": once for'
        " all, or once for each person")  # fmt: skip
    add("--from", dest="source", metavar="EMOTION", help="what they feel now (else a judge's guess, if"
        " it is sure); or a recipe, FILE.json, that the playground saved")  # fmt: skip
    add("--token", action="append", type=Path, default=[], metavar="FILE", help="a learned token's file; then"
        ' --to "<awe>", or "<awe>" in --prompt')  # fmt: skip
    add("--lora", action="append", default=[], metavar="FILE[:SCALE]", help="a LoRA; repeat for more")
    add("--allow-pickle", action="store_true", help="read a --token file that is a pickle (.pt, .bin), whose"
        " source you trust")  # fmt: skip
    add("--prompt", dest="template", default=words.TEMPLATE, metavar="TEXT",
        help='instead of "photo of {article} {word} {description}"')  # fmt: skip
    add("--raw", action="store_false", dest="keep_detail", help="the model's own picture, blurred by its"
        " autoencoder, without the source's detail where the edit did nothing")  # fmt: skip
    add_common(add, "model", "preset", "seed", "device", "memory")


def edit(command: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """`emolib edit`: check, load, edit the people, write."""
    runtime.check_device(args.device)
    one_of(args.memory, MEMORY, "memory option")
    if args.model in INSTRUCT and args.method == DEFAULT_METHOD:
        args.method = "instruct"
    one_of(args.method, METHODS | OTHERS, "method")
    again = str(args.source).endswith(".json")
    if args.explain and not again:
        return explain_settings(args)
    for path in repeat_edit(command, args) if again else make_edit(args):
        print(path)
    return 0


@contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, which looks again and again through what modules make: a tenth of
    the time. None of it is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def repeat_edit(command: argparse.ArgumentParser, args: argparse.Namespace) -> list[Path]:
    """Make the edit of `--from FILE.json` again, into NAME-again.png beside it unless told otherwise."""
    path = Path(args.source)
    for action in command._actions:
        if action.dest not in (*BESIDE_RECIPE, "help") and getattr(args, action.dest) != action.default:
            option = action.option_strings[0]
            raise InputError(f"--from FILE.json says all of the edit; leave out {option}")
    with importing():
        from emolib import images
        from emolib.editors.recipe import describe_edit, edit_image, load_recipe

    saved = load_recipe(path)
    source = Path(args.picture) if args.picture else saved.picture
    output = Path(args.output) if args.output else path.with_name(f"{path.stem}-again.png")
    images.check_edit(output, source)
    original, recipe = images.open_original(source), saved.recipe
    image = original.rgb
    replace(saved, picture=source).check_picture(image)
    runtime.pick_device(args.device)  # whose fault would not be the recipe's
    try:
        for person in recipe.people:
            images.square_box(person.box, image.height, image.width)
        model = load_model(recipe, args)
        edited = edit_image(recipe, model, image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    record = describe_edit(recipe) | {"model": model.name} | take_answers(recipe, model)
    images.save_image(edited, output, provenance=record, like=original)
    return [output]


def make_edit(args: argparse.Namespace) -> list[str]:
    """Make the edit that the options ask for."""
    if args.picture is None or args.output is None:
        raise InputError("give a PICTURE, and where to write the edit: -o FILE; see emolib edit --help")
    with importing():
        bank = load_bank(args)
        loras, felt = parse_loras(args) if args.method in METHODS else ([], set())
        read_label = partial(parse_emotion, model=args.model, names=bank and bank.emotions, felt=felt)
        wishes = parse_wishes(args, read_label)
        source_emotion = None if args.source is None else read_label(args.source)
        boxes = [parse_box(value) for value in args.box]
        from emolib import images
        from emolib.diffusion import hub
        from emolib.editors.recipe import Recipe, build_editor, change_person, describe_edit, edit_image

    check_outputs(args)
    if args.method != "hosted":
        hub.check_name(args.model)
    recipe = from_args(Recipe, args, **fix_settings(args))
    original = images.open_original(args.picture)
    image = original.rgb
    with importing():
        from emolib.judges.faces import Face

        faces = [Face(box) for box in boxes] or find_everybody(image, args.picture)
        people = list_people(args, image, faces, wishes, source_emotion)
        recipe = replace(recipe, people=people)
        tokens = load_tokens(args, {person.emotion for person in people} | {source_emotion})
        from emolib.diffusion import memory
        from emolib.interventions.splice import learned_token

        model = load_model(recipe, args)
    if recipe.method in OTHERS and recipe.template == words.TEMPLATE:
        recipe = replace(recipe, template=model.template)
    editor = build_editor(recipe, model, bank)
    if recipe.method in METHODS and not (args.source or bank or args.template != words.TEMPLATE):
        recipe = guess_sources(recipe, image, faces, args.device)
    tell_unmeasured(args)
    with learned_token(model, *tokens), plugged(model, loras):
        check_reach(recipe, model, tokens, plugged=bool(loras))
        if recipe.method in METHODS and (tight := memory.describe_tightness(model)):
            tell(f"{args.picture}: {tight}")
        for person in (recipe.people[k] for k in recipe.changed):
            now = f"{person.source_emotion} -> " if person.source_emotion else ""
            tell(f"{args.picture}: {now}{person.emotion} at {format_box(person.box)}, {args.method}, {model}")
        edited = edit_image(recipe, model, image, partial(change_person, editor=editor))
    record = describe_edit(recipe) | {"model": model.name} | name_loras(args.lora)
    record |= take_answers(recipe, model)
    record |= {"directions": repr(bank), "scale": bank.scale} if bank else {}
    images.save_image(edited, args.output, provenance=record, like=original)
    if args.side_by_side:
        images.save_image(images.beside(image, edited), args.side_by_side, provenance=record)
    return [path for path in (args.output, args.side_by_side) if path]


def load_model(recipe: Recipe, args: argparse.Namespace) -> Backbone | InstructModel | Service:
    """Load the recipe's model."""
    options = {"device": args.device, "memory": args.memory}
    with importing():
        if recipe.method == "hosted":
            from emolib.editors import hosted

            service = hosted.open_service(recipe.model, budget=args.budget)
            tell(service.estimate(len(recipe.changed)))
            return service
        if recipe.method == "instruct":
            from emolib.editors import instruct

            return instruct.load_model(
                recipe.model, **options, lora=Path(args.lora[0]) if args.lora else None
            )
        from emolib.diffusion import backbone

        return backbone.load_backbone(recipe.model, **options)


def take_answers(recipe: Recipe, model: Backbone | InstructModel | Service) -> dict[str, object]:
    """Give what a hosted service said of its edits, for the record. InputError: it refused one."""
    if recipe.method != "hosted":
        return {}
    answers = model.take_records()
    for answer in answers:
        if answer["status"] != "ok":
            raise InputError(f"{model.name}: {answer['status']} ({answer.get('reason')}); nothing is written")
    return {"answers": answers}


def load_bank(args: argparse.Namespace) -> Directions | None:
    """Load the directions of --method asyrp. InputError: a method that needs none, a model without any."""
    if args.method in OTHERS and args.token:
        raise InputError(f"--token is for Stable Diffusion, not for --method {args.method}")
    if len(args.lora) > (1 if args.method == "instruct" else 0) and args.method in OTHERS:
        raise InputError(f"--lora: --method instruct takes one file, without a scale; {args.method} no more")
    if args.budget is not None and args.method != "hosted":
        raise InputError(f"--budget is for --method hosted; {args.method} costs nothing")
    if args.method == "hosted" and (args.strength or args.guidance_scale or args.num_inference_steps):
        raise InputError("hosted services take words alone: leave out --strength, --guidance-scale, --steps")
    if args.method != "asyrp":
        if args.directions:
            raise InputError(f"--directions belongs to --method asyrp, not to {args.method}")
        return None
    if not args.directions and find_preset(args.model).folder is None:
        raise InputError(
            f"{args.model} comes without directions; `emolib hspace fit` makes some: --directions"
        )
    if args.guidance_scale is not None or args.template != words.TEMPLATE or args.describe:
        raise InputError("--method asyrp takes no prompt: leave out --guidance-scale, --prompt, --describe")
    from emolib.interventions import directions

    path = args.directions
    return directions.load_directions(path) if path else directions.load_shipped_directions()


def parse_wishes(args: argparse.Namespace, read_label: Callable[[str], str]) -> dict[int, Wish]:
    """Read what people are to feel: 0 is everybody who is not named by number."""
    wishes: dict[int, Wish] = {} if args.to is None else {0: (read_label(args.to), None)}
    for text in args.person:
        number, word, strength = parse_wish(text)
        if number in wishes:
            raise InputError(f"--person {text!r}: person {number} has an emotion already")
        wishes[number] = read_label(word), strength
    if not wishes:
        raise InputError("say what to change: --to EMOTION for everybody, or --person N=EMOTION")
    for strength in (args.strength, *(strength for _, strength in wishes.values())):
        if strength is not None:
            runtime.in_range(strength, 0, 1, "strength")
    return wishes


def check_outputs(args: argparse.Namespace) -> None:
    """InputError unless both pictures can be written, and replace neither an input nor each other."""
    from emolib import images

    for path in filter(None, (args.output, args.side_by_side)):
        images.check_edit(path, args.picture)
        runtime.check_output(path, [file for file in (*args.token, args.directions) if file])
    if args.side_by_side and Path(args.side_by_side).resolve() == Path(args.output).resolve():
        raise InputError(f"--side-by-side {args.side_by_side}: is the output itself; give it another name")


def list_people(
    args: argparse.Namespace,
    image: Image.Image,
    faces: Sequence[Face],
    wishes: dict[int, Wish],
    source_emotion: str | None,
) -> tuple[Person, ...]:
    """List everybody in the picture. InputError: a box outside it, a person who is not there."""
    from emolib import images
    from emolib.editors.person import Person

    for face in faces:
        images.square_box(face.box, image.height, image.width)
    n, descriptions = len(faces), args.describe or [words.PERSON]
    if max(wishes) > n:
        places = ", ".join(f"{i}: {format_box(face.box)}" for i, face in enumerate(faces, 1))
        raise InputError(f"there is no person {max(wishes)}; there are {places}")
    if len(descriptions) not in (1, n):
        raise InputError(f"{len(descriptions)} descriptions for {n} people; give one, or one for each")
    people = []
    for i, face in enumerate(faces):
        emotion, strength = wishes.get(i + 1, wishes.get(0, (None, None)))
        strength = args.strength if strength is None else strength
        description = descriptions[i % len(descriptions)]
        people.append(Person(face.box, emotion, source_emotion, description, strength, eyes=face.eyes))
    return tuple(people)


def load_tokens(args: argparse.Namespace, emotions: set[str | None]) -> list[Token]:
    """Load the tokens of --token. InputError: a file that is none, or a token that nothing asks for."""
    if not args.token:
        return []
    from emolib.interventions import token_files

    tokens = [token_files.load_token(path, allow_pickle=args.allow_pickle) for path in args.token]
    text = " ".join([args.template, *args.describe]).casefold()
    for path, token in zip(args.token, tokens, strict=True):
        if token.name not in emotions and token.name not in text:
            raise InputError(f"{path}: nothing asks for its {token.name}; give --to '{token.name}'")
    return tokens


def check_reach(recipe: Recipe, model: Backbone, tokens: Sequence[Token], *, plugged: bool = False) -> None:
    """InputError where an emotion, unless a LoRA is `plugged` in, cannot reach the model."""
    from emolib.editors.base import steps_taken

    if recipe.method in OTHERS:
        return
    settings, spoken = recipe.settings, recipe.method != "asyrp"
    n, levels = settings["num_inference_steps"], model.timesteps(settings["num_inference_steps"])
    for person in (recipe.people[k] for k in recipe.changed):
        strength = settings["strength"] if person.strength is None else person.strength
        taken = steps_taken(n, strength if spoken else 1.0)
        if 1 - model.alphas_cumprod[levels[-taken - 1]] < FAINT:
            start = f"{taken} of {n} steps at strength {strength:g}"
            raise InputError(f"{start}: too few to change anything; take more steps")
        if spoken and not plugged:
            check_prompt(recipe, person, model, tokens)


def check_prompt(recipe: Recipe, person: Person, model: Backbone, tokens: Sequence[Token]) -> None:
    """InputError unless the person's prompt says the emotion, where the model still reads it."""
    labels, template = (person.emotion, person.source_emotion), recipe.template
    text, source = (words.prompt(label, person.description, template).casefold() for label in labels)
    said = [name for name in (words.adjective(person.emotion), *(t.name for t in tokens)) if name in text]
    if not said:
        raise InputError(f"--prompt {template!r} says nothing of the emotion; put {{word}} into it")
    if text == source and len(set(labels)) > 1 and recipe.method not in ("img2img", "ledits++"):
        raise InputError(
            f"--prompt {template!r} says the same before and after, so that {recipe.method} changes nothing;"
            " put {word} where the emotion belongs"
        )
    read, limit = text[: text.index(said[0]) + len(said[0])], model.pipe.tokenizer.model_max_length
    if len(model.pipe.tokenizer(read).input_ids) > limit:
        raise InputError(
            f"the prompt is cut off before {said[0]!r}: the model reads {limit} tokens; shorten it"
        )
