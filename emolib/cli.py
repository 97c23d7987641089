"""The command line: `emolib edit PICTURE --to anger -o out.png`, `emolib evaluate ...`, `emolib data ...`.

Bad input is one line on stderr and exit code 2; nothing is half-written. Torch is loaded only by a command
that needs it, after everything that can be checked without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emolib import __version__
from emolib.data import cli as data_cli
from emolib.evaluation import cli as evaluation_cli
from emolib.runtime import InputError

if TYPE_CHECKING:
    from emolib.editors import Img2Img
    from emolib.images import Box

EPILOG = """examples:
  emolib edit portrait.jpg --to awe -o awed.png
  emolib edit group.jpg --to anger --box 120,40,260,180 --describe "woman with red hair" -o out.png
  emolib edit portrait.jpg --to sadness --model sd15 --strength 0.5 -o sad.jpg
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen command is in `args.run`."""
    parser = argparse.ArgumentParser(
        prog="emolib", description="Emotion-driven image editing with diffusion: the course's command line."
    )
    parser.add_argument("--version", action="version", version=f"emolib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_edit(commands)
    data_cli.add_parser(commands)
    evaluation_cli.add_parser(commands)
    return parser


def _add_edit(commands) -> None:
    command = commands.add_parser(
        "edit",
        help="change what the person in a picture feels",
        description="Change what the person in a picture feels, by img2img (SDEdit) with Stable Diffusion.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("picture", metavar="PICTURE", help="a picture file: PNG, JPEG, WebP, GIF, BMP, TIFF")
    add(
        "--to",
        required=True,
        metavar="EMOTION",
        help="e.g. anger, awe, contentment; or a word such as furious",
    )
    add("-o", "--output", required=True, metavar="FILE", help="where to write it: .png, .jpg or .webp")
    add("--model", default="minisd", metavar="NAME", help="minisd, sd15, sd21, sdxl, a folder or a Hub id"
        " (default: %(default)s)")  # fmt: skip
    add("--strength", type=float, default=0.6, help="0 changes nothing, 1 everything (default: %(default)s)")
    add("--guidance-scale", type=float, default=5.0, help="how much the prompt rules (default: %(default)s)")
    add("--steps", type=int, default=30, help="steps at strength 1 (default: %(default)s)")
    add("--seed", type=int, default=0, help="which noise is drawn (default: %(default)s)")
    add(
        "--describe",
        default="person",
        metavar="WHO",
        help='e.g. "woman with red hair" (default: %(default)s)',
    )
    add("--prompt", metavar="TEXT", help='instead of "photo of {article} {word} {description}"')
    add("--box", metavar="X0,Y0,X1,Y1", help="the face, in pixels; the square around it is edited (default:"
        " the middle square; MiniSD wants faces that fill it)")  # fmt: skip
    add("--side-by-side", action="store_true", help="write the source beside the edit")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--memory", default="auto", help="auto, fast, balanced, low (default: %(default)s)")
    command.set_defaults(run=edit)


def edit(args: argparse.Namespace) -> int:
    """`emolib edit`: check, load, edit one square of the picture, write."""
    emotion = _emotion(args.to, args.model)
    _check_output(Path(args.output), Path(args.picture))
    from emolib import checkpoints

    checkpoints.check_name(args.model)
    from emolib import backbone, editors, images, runtime

    images.writable_format(args.output)
    source = images.to_tensor(images.open_image(args.picture))
    box = _square(args.box, source.shape[-2:])
    editors.steps_taken(args.steps, args.strength)
    model = backbone.load(args.model, device=args.device, memory=args.memory)
    editor = editors.Img2Img(
        model, args.strength, args.guidance_scale, args.steps, args.prompt or editors.TEMPLATE
    )
    print(f"{args.picture}: {emotion} with {model}, square {_text(box)}", file=sys.stderr)
    person = editors.Target(box, emotion, description=args.describe)
    edited = editors.PerPerson(editor, model.size, margin=0.0)(
        source, generator=runtime.generator(args.seed), people=[person]
    )
    result = images.beside(source, edited) if args.side_by_side else edited
    record = _provenance(editor, person, box, args)
    images.save_image(result, args.output, provenance=record)
    print(args.output)
    return 0


def _emotion(word: str, model: str) -> str:
    """The label that the typed word means: one that MiniSD learned, or any with a prompt word elsewhere."""
    from emolib.emotions import words

    label = word.strip().casefold()
    if model != "minisd" and label in words.ADJECTIVES:
        return label
    return words.resolve(word, "emofaces")


def _check_output(output: Path, picture: Path) -> None:
    """The cheap half of what `images.save_image` checks, before anything is loaded."""
    if not output.parent.is_dir():
        raise InputError(f"output folder {str(output.parent)!r} does not exist; make it first")
    if output.is_dir():
        raise InputError(f"output {str(output)!r} is a folder; give the name of a file in it")
    if output.exists() and picture.exists() and output.samefile(picture):
        raise InputError(f"output {str(output)!r} is the source picture; give another name")


def _square(text: str | None, shape: Sequence[int]) -> Box:
    from emolib.images import square_box

    height, width = shape
    if text is None:
        return square_box((0, 0, width, height), height, width)
    try:
        box = [int(number) for number in text.split(",")]
        x0, y0, x1, y1 = box
    except ValueError:
        raise InputError(f"--box {text!r}: give four whole numbers, e.g. 120,40,260,180") from None
    return square_box((x0, y0, x1, y1), height, width)


def _text(box: Box) -> str:
    return ",".join(map(str, box))


def _provenance(editor: Img2Img, person, box: Box, args: argparse.Namespace) -> dict[str, object]:
    """What the file says of itself. Nothing that identifies the source or the machine."""
    from emolib import editors

    return {
        "edited": "by emolib: this picture is not a photograph",
        "method": "img2img",
        "emotion": person.emotion,
        "model": editor.backbone.name,
        "prompt": editors.prompt(person.emotion, person.description, editor.template),
        "strength": editor.strength,
        "guidance_scale": editor.guidance_scale,
        "num_inference_steps": editor.num_inference_steps,
        "seed": args.seed,
        "box": list(box),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, or 2 for bad input (argparse exits with 2 by itself)."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args) or 0
    except (InputError, FloatingPointError) as error:
        print(f"emolib: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("emolib: interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print("emolib: out of memory; try --memory low, a smaller model or --device cpu", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
