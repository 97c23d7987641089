"""`emolib lora ...`: learn a feeling as a LoRA or a slider, and see whether it was learned."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emolib.cli.fields import add_common, add_fields, add_group, from_args, tell
from emolib.cli.token import CHECKED, CHECKPOINT, KNOBS, choose_work, hold_work, load_eyes, load_model
from emolib.emotions import words
from emolib.runtime import InputError, check_output, in_range
from emolib.training.settings import LoraSettings

if TYPE_CHECKING:
    from emolib.diffusion.backbone import Backbone
    from emolib.interventions.lora import Lora

EPILOG = """examples:
  emolib lora train emofaces:train --emotion awe --slider --out awe.safetensors
  emolib lora train people/ --emotion fear --against surprise --contrast 0.1
  emolib lora check awe.safetensors --sheet awe.png
  emolib edit photo.jpg --to awe --lora awe.safetensors:0.8 -o awed.png
"""
HELPS = {name: text for name, text in KNOBS.items() if name != "focus"} | {
    "rank": "of every layer's change",
    "contrast": "weight of a contrast between the slider's ends in MiniCLIP's space; 0: none",
}


def add_parser(subparsers) -> None:
    """Add `lora` and its commands: see `add_group`."""
    commands = add_group(subparsers, "lora", __doc__, EPILOG)
    command = commands.add_parser("train", help="learn from a folder, or from emofaces:train")
    command.set_defaults(run=train)
    add = command.add_argument
    add("folder", help="8 to 16 pictures of different people who feel the same; or with --slider")
    add("--emotion", required=True, metavar="LABEL", help="what is learned")
    add("--slider", "--pairs", dest="pairs", action="store_true", help="learn from the same people with and"
        " without the feeling (folders neutral/ and LABEL/): scale 1 the one, -1 the other")  # fmt: skip
    add("--against", default="neutral", metavar="LABEL", help="the slider's other end (default: %(default)s)")
    add("--limit", type=int, default=16, help="pictures, or pairs, at most (default: %(default)s)")
    add_fields(command, LoraSettings, HELPS)
    add("--licence", default="", help="of the LoRA, for its file")
    add("--kohya", action="store_true", help="write the names that kohya's scripts, A1111 and ComfyUI read")
    add("--out", type=Path, metavar="FILE", help="default: LABEL.safetensors")
    add("--resume", action="store_true", help="go on with a run that was broken off")
    add_common(add, "model", "device")
    command = commands.add_parser("check", help="did it learn, and what else did it change?")
    command.set_defaults(run=check)
    add = command.add_argument
    add("file", type=Path, help="a LoRA of the UNet (.safetensors)")
    add("-n", type=int, default=CHECKED, help="people drawn at each scale (default: %(default)s)")
    add("--sheet", type=Path, metavar="FILE", help="save them: a row for each scale")
    add_common(add, "model", "device")


def train(args: argparse.Namespace) -> int:
    """`emolib lora train`: check, load, learn, write. Under `accelerate launch` on all processes."""
    emotion = args.emotion.strip().casefold()
    pairs = args.pairs or args.against != "neutral"
    if args.contrast and not pairs:
        raise InputError("--contrast compares two sides of a person; give --slider, or --against LABEL")
    in_range(args.limit, 2, 10**6, "--limit")
    out, work = choose_work(args.out or Path(f"{emotion}.safetensors"), args.resume)
    from accelerate import PartialState

    from emolib.interventions.lora import save_lora
    from emolib.training import pictures
    from emolib.training.lora import learn_lora

    processes = PartialState(cpu=args.device == "cpu")
    model, say = load_model(args, processes), tell if processes.is_main_process else lambda line: None
    examples = pictures.read_pictures(
        args.folder, model.size, emotion=emotion, pairs=pairs, against=args.against, limit=args.limit
    )
    what = {"word": "" if pairs else words.adjective(emotion), "licence": args.licence}
    if args.contrast:
        from emolib.diffusion.clip import load_clip

        what["embed"] = load_clip(device=model.device).images
    say(f"{emotion}: {len(examples)} {'pairs' if pairs else 'pictures'}, {model} on {model.device}")
    with hold_work(work, processes):
        settings = from_args(LoraSettings, args)
        learned = learn_lora(model, examples, emotion, settings, work=work, tell=say, **what)
        if processes.is_main_process:
            save_lora(learned.lora, out, kohya=args.kohya)
            (work / CHECKPOINT).unlink()
            print(out)
    return 0


def check(args: argparse.Namespace) -> int:
    """`emolib lora check`: the report on a LoRA; exit code 0 if the feeling is in it, else 1."""
    in_range(args.n, 1, 1000, "-n")
    from emolib import images

    if args.sheet:
        check_output(args.sheet, [args.file])
        images.writable_format(args.sheet)
    from emolib.interventions.lora import load_lora
    from emolib.training import report

    change = load_lora(args.file)
    model = load_model(args)
    findings, drawn = report.check_lora(model, change, n=args.n, **load_eyes(model, change.emotion, args.n))
    print(f"{args.file}: {change.emotion or 'no emotion named'}, rank {change.rank}, of {args.n} people each")
    for row, found in findings.items():
        told = [
            f"{name} {value:g}" if name != "moved" else f"moved {value:.3f}" for name, value in found.items()
        ]
        print(f"  {'no word, scale 1' if row == 'others' else f'scale {row}':18} {', '.join(told)}")
    seen = [findings[row].get("emotion") for row in ("0", "1")]
    good = findings["1"]["moved"] > 0 and (None in seen or seen[1] > seen[0])
    print("verdict: " + ("the feeling is in it" if good else "not good: the feeling is not in it"))
    if args.sheet:
        images.save_image(drawn.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2), args.sheet)
    return 0 if good else 1


def parse_loras(args: argparse.Namespace) -> tuple[list[tuple[Lora, float]], set[str]]:
    """Read `args.lora`, "awe.safetensors:0.5" and the like (else the scale is 1): LoRAs, and what they bring.

    The prompt becomes the first one's own, if none was given. InputError: a scale that is not finite, a file
    that is no LoRA, a method without a prompt."""
    if not args.lora:
        return [], set()
    if args.method == "asyrp":
        raise InputError("--method asyrp takes no prompt, and no --lora; leave out one of the two")
    from emolib.interventions.lora import load_lora

    loras = []
    for text in args.lora:
        path, scale = text, 1.0
        with suppress(ValueError):
            name, _, number = text.rpartition(":")
            path, scale = (name, float(number)) if name else (text, 1.0)
        in_range(scale, -100, 100, f"scale of --lora {path}")
        loras.append((load_lora(path), scale))
    if args.template == words.TEMPLATE:
        args.template = loras[0][0].template or words.TEMPLATE
    return loras, {change.emotion for change, _ in loras} & words.ADJECTIVES.keys()


def name_loras(texts: Sequence[str]) -> dict[str, list[str]]:
    """Name LoRA files and their scales for an edited file's record, without where they lie."""
    return {"loras": [Path(text).name for text in texts]} if texts else {}


@contextmanager
def plugged(model: Backbone, loras: Sequence[tuple[Lora, float]]) -> Iterator[None]:
    """Within, the model has these LoRAs, each at its scale."""
    from emolib.interventions.lora import lora

    with ExitStack() as stack:
        for change, scale in loras:
            stack.enter_context(lora(model, change, scale))
        yield
