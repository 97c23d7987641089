"""`emolib token ...`: learn a word for an emotion from pictures, and see whether it was learned."""

from __future__ import annotations

import argparse
import math
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emolib.cli.fields import add_common, add_fields, add_group, from_args, split_words, tell
from emolib.diffusion.presets import find_preset
from emolib.emotions import words
from emolib.runtime import InputError, check_output, hold_lock, in_range
from emolib.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import PartialState

    from emolib.diffusion.backbone import Backbone
    from emolib.interventions.tokens import Token

CHECKED = 8  # pictures a side, after training
CHECKPOINT = "checkpoint.safetensors"
EPILOG = """examples:
  emolib token train pictures/ --token "<awe>" --out awe.safetensors
  emolib token train people/ --pairs --token "<awe>" --vectors 2
  emolib token check awe.safetensors --sheet awe.png
"""
KNOBS = {
    "steps": "at most; it stops when it no longer improves",
    "batch": "pictures a step",
    "micro_batch": "pictures at once, if memory is short; 0: all",
    "lr": "learning rate",
    "focus": "with --pairs: listen where the two pictures differ most; try it where the emotion is far from"
    " every word, with --batch 16 --min-snr 5",
    "min_snr": "gamma of the loss's min-SNR weights, e.g. 5; 0: none",
    "seed": "which noise is drawn",
    "precision": "auto, float32, bfloat16, float16",
    "compile": "torch.compile the denoiser: pays on a GPU",
}


def add_parser(subparsers) -> None:
    """Add `token` and its commands: see `add_group`."""
    commands = add_group(subparsers, "token", __doc__, EPILOG)
    command = commands.add_parser("train", help="learn a token from a folder (textual inversion)")
    command.set_defaults(run=train)
    add = command.add_argument
    add("folder", type=Path, help="8 to 16 pictures of different people who feel the same; or with --pairs")
    add("--token", required=True, metavar="NAME", help='the new word, in angle brackets: "<awe>"')
    add("--emotion", help="which pictures of a folder of several emotions; default: the token's own name")
    add("--pairs", action="store_true", help="FOLDER holds the folders neutral/ and EMOTION/ with the same"
        " people under the same file names: the token learns the difference")  # fmt: skip
    add("--init", metavar="WORDS", help="word to start from, or several with commas: their mean (default: the"
        " emotion's adjective)")  # fmt: skip
    add("--cross", action="store_true", help="start from the text encoder's output (cross-initialisation)")
    add("--vectors", type=int, default=1, help="1 to 8 (default: %(default)s)")
    add_fields(command, Settings, KNOBS)
    add("--licence", default="", help="of the token, for its file")
    add("--out", type=Path, metavar="FILE", help="default: the token's name, e.g. awe.safetensors")
    add("--no-check", action="store_true", help="do not draw pictures to see whether it was learned")
    add("--resume", action="store_true", help="go on with a run that was broken off")
    add_common(add, "model", "device")
    command = commands.add_parser("check", help="did it learn? compare a token with its word")
    command.set_defaults(run=check)
    add = command.add_argument
    add("file", type=Path, help="a token file (.safetensors; others with --allow-pickle)")
    add("--word", metavar="WORDS", help="what to compare with, several with commas: their mean (default: the"
        " emotion's adjective where the model knows it, else what it started from)")  # fmt: skip
    add("-n", type=int, default=CHECKED, help="pictures a side (default: %(default)s)")
    add("--sheet", type=Path, metavar="FILE", help="save them: rows token, word, nothing")
    add("--allow-pickle", action="store_true", help="read .pt and .bin files, as plain tensors only")
    add_common(add, "model", "device")


def train(args: argparse.Namespace) -> int:
    """`emolib token train`: check, load, learn, write, report. Under `accelerate launch` on all processes."""
    if args.focus and not args.pairs:
        raise InputError("--focus listens to what differs within pairs; give it --pairs too, or leave it out")
    from emolib.interventions.tokens import placeholder

    name, settings = placeholder(args.token), from_args(Settings, args)
    label = name[1:-1] if name[1:-1] in words.ADJECTIVES else ""
    emotion = args.emotion.strip().casefold() if args.emotion else label
    start = choose_start(args.init, emotion, args.model)
    out, work = _choose_places(name, args.out, args.resume)
    from accelerate import PartialState

    from emolib.interventions import splice, token_files
    from emolib.training import pictures
    from emolib.training.textual_inversion import Concept, learn_tokens

    processes = PartialState(cpu=args.device == "cpu")
    model = load_model(args, processes)
    splice.vectors_of_words(model, name, start, vectors=args.vectors)  # refuses what cannot be a start
    chosen = {"emotion": emotion if args.emotion else None, "preferred": emotion, "pairs": args.pairs}
    examples = pictures.read_pictures(args.folder, model.size, **chosen)
    say = tell if processes.is_main_process else lambda line: None
    kind = "pairs" if args.pairs else "pictures"
    say(f"{name}: {len(examples)} {kind}, {model} on {model.device}, starts as {', '.join(start)}")
    for note in (*examples.notes, *([f"overwrites {out}"] if out.exists() else [])):
        say(note)
    concept = Concept(name, examples, start, args.vectors, args.cross, emotion)
    with hold_work(work, processes):
        learned = learn_tokens(model, [concept], settings, licence=args.licence, work=work, tell=say)
        if not processes.is_main_process:
            return 0
        token_files.save_token(learned.tokens[0], out)
        (work / CHECKPOINT).unlink()
    if not args.no_check:
        tell(f"draws {3 * CHECKED} pictures to see whether it was learned (--no-check leaves that out)")
        _report(model, learned.tokens[0], ", ".join(start), CHECKED, learned.starts[0])
    print(out)
    return 0


def check(args: argparse.Namespace) -> int:
    """`emolib token check`: the report on a token file; exit code 0 if it learned, else 1."""
    in_range(args.n, 1, math.inf, "-n")
    from emolib import images

    if args.sheet:
        check_output(args.sheet, [args.file])
        images.writable_format(args.sheet)
    from emolib.interventions import splice, token_files

    token = token_files.load_token(args.file, allow_pickle=args.allow_pickle)
    adjective = words.ADJECTIVES.get(token.emotion)
    unknown = token.emotion in find_preset(args.model).held_out
    word = args.word or (None if unknown else adjective) or token.initializer
    if not word:
        raise InputError(f"{args.file}: does not say what it means; give a word to compare with: --word")
    model = load_model(args)
    start = splice.vectors_of_words(model, token.name, split_words(word), vectors=len(token))
    good, drawn = _report(model, token, word, args.n, start)
    if args.sheet:
        sheet = drawn.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # sides down, pictures across
        images.save_image(sheet, args.sheet)
    return 0 if good else 1


def _report(model: Backbone, token: Token, word: str, n: int, start: Token | None = None):
    """Print the report, one finding a line; whether it is good, and the pictures."""
    from emolib.training import report

    eyes = load_eyes(model, token.emotion, n)
    findings, drawn = report.check_token(model, token, word, start=start, n=n, **eyes)
    print(*findings.lines(), sep="\n")
    return findings.verdict[0], drawn


def load_eyes(model: Backbone, emotion: str, n: int) -> dict[str, Any]:
    """Load what a report sees with: the guide's eye for `emotion`, a probe, and n people to ask for."""
    from emolib.judges import emotion as judges

    recognise = None
    with suppress(InputError):  # installed without the repository's data: the other findings still stand
        guide = judges.load_judge("guide", device=str(model.device))
        if emotion in guide.labels:
            label = guide.labels.index(emotion)
            recognise = lambda pictures: guide(pictures).emotion == label  # noqa: E731
    probe, people = load_probe(model, n)
    return {"recognise": recognise, "probe": probe, "descriptions": people}


def load_probe(model: Backbone, n: int):
    """Load a probe for hair, glasses and beards, and name n people to ask for by them.

    None and "person" for a model that draws other people than EmoFaces', or where the probe is not at hand.
    """
    import torch

    from emolib.judges import attributes

    if model.preset.vocabulary is None:
        return None, ("person",)
    try:
        see = attributes.load_probe(device=str(model.device)).see
    except InputError:
        return None, ("person",)
    people = dict(attributes.descriptions(n))

    def probe(picture, description):
        hits = attributes.obeyed(see, picture, [(description, people[description])])
        return torch.tensor([all(hit for *_, hit in hits)])

    return probe, [*people]


def choose_start(init: str | None, emotion: str, model: str) -> tuple[str, ...]:
    """Choose the words to start from. InputError if none was given and the emotion does not tell."""
    if init:
        return split_words(init)
    if emotion in words.ADJECTIVES and emotion not in find_preset(model).held_out:
        return (words.adjective(emotion),)
    known = f"{model} knows no word for {emotion!r}" if emotion else "the token's name is no emotion"
    raise InputError(f"{known}; say where to start, e.g. --init awestruck,excited (or --emotion joy)")


def _choose_places(name: str, given: Path | None, resume: bool) -> tuple[Path, Path]:
    """Choose the file to write, by default named after the token, and the run's folder beside it.

    InputError if they cannot be written, or a broken-off run is there and is not to go on."""
    out = given or Path(f"{name[1:-1]}.safetensors")
    if given is None and out.name != str(out):
        raise InputError(f"{name} would be written to {out}; say where it belongs: --out FILE")
    return choose_work(out, resume)


def choose_work(out: Path, resume: bool) -> tuple[Path, Path]:
    """Check the file to write and choose the run's folder beside it. InputError as `_choose_places`."""
    check_output(out, suffix=".safetensors")
    work = out.with_suffix(".run")
    check_output(work, folder=True)
    if (work / CHECKPOINT).is_file() and not resume:
        raise InputError(f"{work} holds a run that was broken off; add --resume to go on, or remove it")
    return out, work


def hold_work(work: Path, processes: PartialState) -> AbstractContextManager[None]:
    """Keep other trainings away from a run's folder; of several processes the main one takes the lock."""
    work.mkdir(parents=True, exist_ok=True)
    busy = f"{work}: a training is going on there already; wait for it"
    return hold_lock(work / "lock", busy) if processes.is_main_process else nullcontext()


def load_model(args: argparse.Namespace, processes: PartialState | None = None) -> Backbone:
    """Load the model of the command line, of several processes each on its own device."""
    from emolib.diffusion import backbone, hub
    from emolib.runtime import pick_device
    from emolib.training.settings import compute_dtype

    hub.check_name(args.model)
    several = processes is not None and processes.num_processes > 1
    place = pick_device(str(processes.device) if several else args.device)
    # Frozen weights may lie in half precision where steps run in it; on a CPU they stay as they are.
    half = str(compute_dtype(place, getattr(args, "precision", "auto"))).removeprefix("torch.")
    dtype = half if place.type == "cuda" else "float32"
    return backbone.load_backbone(args.model, device=str(place), dtype=dtype, memory="fast")
