"""`emolib token ...`: learn a word for an emotion from pictures, and see whether it was learned."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emolib.emotions import sets, words
from emolib.runtime import InputError, check_output
from emolib.training.settings import Settings

if TYPE_CHECKING:
    from emolib.diffusion.backbone import Backbone
    from emolib.interventions.tokens import Token

EPILOG = """examples:
  emolib token train pictures/ --token "<awe>" --out awe.safetensors
  emolib token train people/ --pairs --token "<awe>" --vectors 2
  emolib token check awe.safetensors --sheet awe.png
"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Add `token` and its commands; a chosen command is in `args.run`, to be called with `args`."""
    parser = subparsers.add_parser(
        "token",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_check(commands)
    return parser


def _add_train(commands) -> None:
    command = commands.add_parser("train", help="learn a token from a folder (textual inversion)")
    add = command.add_argument
    add("folder", type=Path, help="8 to 16 pictures of different people who feel the same; or with --pairs")
    add("--token", required=True, metavar="NAME", help='the new word, in angle brackets: "<awe>"')
    add("--emotion", help="which pictures of a folder of several emotions; default: the token's own name")
    add("--pairs", action="store_true", help="FOLDER holds the folders neutral/ and EMOTION/ with the same"
        " people under the same file names: the token learns the difference")  # fmt: skip
    add("--init", metavar="WORDS", help="word to start from, or several with commas: their mean (default:"
        " the emotion's adjective)")  # fmt: skip
    add("--cross", action="store_true", help="start from the text encoder's output (cross-initialisation)")
    add("--vectors", type=int, default=1, help="1 to 8 (default: %(default)s)")
    add("--steps", type=int, default=Settings.steps, help="at most; it stops when it no longer improves"
        " (default: %(default)s)")  # fmt: skip
    add("--batch", type=int, default=Settings.batch, help="pictures a step (default: %(default)s)")
    add("--micro-batch", type=int, default=0, help="pictures at once, if memory is short (default: all)")
    add("--lr", type=float, default=Settings.lr, help="learning rate (default: %(default)s)")
    add("--focus", action="store_true", help="with --pairs: listen where the two pictures differ most; try it"
        " where the emotion is far from every word, with --batch 16 --min-snr 5")  # fmt: skip
    add("--min-snr", type=float, default=Settings.min_snr, metavar="GAMMA",
        help="min-SNR weights of the loss, e.g. 5; 0: none (default: %(default)g)")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--precision", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)")
    add("--compile", action="store_true", help="torch.compile the denoiser: pays on a GPU")
    add("--licence", default="", help="of the token, for its file")
    add("--out", type=Path, metavar="FILE", help="default: the token's name, e.g. awe.safetensors")
    add("--resume", action="store_true", help="go on with a run that was broken off")
    _add_model(command)
    command.set_defaults(run=train)


def _add_check(commands) -> None:
    command = commands.add_parser("check", help="did it learn? compare a token with its word")
    add = command.add_argument
    add("file", type=Path, help="a token file (.safetensors; others with --allow-pickle)")
    add("--word", metavar="WORDS", help="what to compare with, several with commas: their mean (default:"
        " the emotion's adjective where the model knows it, else what it started from)")  # fmt: skip
    add("-n", type=int, default=8, help="pictures a side (default: %(default)s)")
    add("--sheet", type=Path, metavar="FILE", help="save them: rows token, word, nothing")
    add("--allow-pickle", action="store_true", help="read .pt and .bin files, as plain tensors only")
    _add_model(command)
    command.set_defaults(run=check)


def _add_model(command) -> None:
    command.add_argument("--model", default="minisd", metavar="NAME",
        help="minisd, sd15, sd21, sdxl, a folder or a Hub id (default: %(default)s)")  # fmt: skip
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")


def train(args: argparse.Namespace) -> int:
    """`emolib token train`: check, load, learn, write, report. Under `accelerate launch` on all processes."""
    if args.focus and not args.pairs:
        raise InputError("--focus listens to what differs within pairs; give it --pairs too, or leave it out")
    from emolib.interventions.tokens import placeholder

    name = placeholder(args.token)
    emotion = _emotion(name, args.emotion)
    start = _start(args.init, emotion, args.model)
    out = args.out or Path(f"{name[1:-1]}.safetensors")
    check_output(out)
    work = _work(out, args.resume)
    from accelerate import PartialState

    from emolib.interventions import token_files
    from emolib.training import pictures
    from emolib.training.textual_inversion import Concept, learn

    token_files.check_output(out)
    settings = Settings(
        steps=args.steps,
        batch=args.batch,
        micro_batch=args.micro_batch,
        lr=args.lr,
        focus=args.focus,
        min_snr=args.min_snr,
        seed=args.seed,
        precision=args.precision,
        compile=args.compile,
    )
    processes = PartialState(cpu=args.device == "cpu")
    model = _load(args, str(processes.device) if processes.num_processes > 1 else args.device)
    found = pictures.read(
        args.folder,
        model.size,
        emotion=emotion if args.emotion else None,
        preferred=emotion,
        pairs=args.pairs,
    )
    tell = _tell if processes.is_main_process else lambda line: None
    kind = "pairs" if args.pairs else "pictures"
    tell(f"{name}: {len(found)} {kind}, {model} on {model.device}, starts as {', '.join(start)}")
    for note in found.notes:
        tell(note)
    if out.exists():
        tell(f"overwrites {out}")
    concept = Concept(name, found, start, args.vectors, args.cross, emotion)
    (one,) = learn(model, [concept], settings, licence=args.licence, work=work, tell=tell).learned
    if not processes.is_main_process:
        return 0
    token_files.save(one.token, out)
    (work / "checkpoint.safetensors").unlink()
    _report(model, one.token, ", ".join(start), 8, one.start)
    print(out)
    return 0


def check(args: argparse.Namespace) -> int:
    """`emolib token check`: the report on a token file; exit code 0 if it learned, else 1."""
    if args.n < 1:
        raise InputError(f"-n {args.n}: no pictures show nothing; give 1 or more")
    if args.sheet:
        check_output(args.sheet)
    from emolib import images

    if args.sheet:
        images.writable_format(args.sheet)
    from emolib.interventions import splice, token_files

    token = token_files.load(args.file, allow_pickle=args.allow_pickle)
    unknown = args.model == "minisd" and token.emotion in sets.HELD_OUT
    known = None if unknown else words.ADJECTIVES.get(token.emotion)
    word = args.word or known or token.initializer
    if not word:
        raise InputError(f"{args.file}: does not say what it means; give a word to compare with: --word")
    model = _load(args, args.device)
    start = splice.vectors_of_words(model, token.name, _split(word), vectors=len(token))
    good, made = _report(model, token, word, args.n, start)
    if args.sheet:
        sheet = made.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # sides down, pictures across
        images.save_image(sheet, args.sheet)
    return 0 if good else 1


def _report(model: Backbone, token: Token, word: str, n: int, start: Token | None = None):
    """Print the report, one finding a line; whether it is good, and the pictures."""
    from emolib.judges import emotion as judges
    from emolib.training import report

    recognise = None
    try:
        guide = judges.load_judge("guide", device=str(model.device))
    except InputError:
        guide = None  # installed without the repository's data: the other findings still stand
    if guide is not None and token.emotion in guide.labels:
        wanted = guide.labels.index(token.emotion)
        recognise = lambda pictures: guide(pictures).emotion == wanted  # noqa: E731
    probe, people = _rest_of_the_prompt(model, n)
    found, made = report.check(
        model, token, word, start=start, recognise=recognise, probe=probe, descriptions=people, n=n
    )
    for line in found.lines():
        print(line)
    return found.verdict[0], made


def _rest_of_the_prompt(model: Backbone, n: int):
    """A probe for hair, glasses and beards, and n people to ask for by them; None and "person" for a model
    that draws other people than EmoFaces', or where the probe is not at hand."""
    import torch

    from emolib.judges import attributes

    if model.name != "minisd":
        return None, ("person",)
    try:
        see = attributes.load(device=str(model.device)).see
    except InputError:
        return None, ("person",)
    asked = attributes.descriptions(n)
    named = dict(asked)

    def probe(picture, description):
        hits = attributes.obeyed(see, picture, [(description, named[description])])
        return torch.tensor([all(hit for *_, hit in hits)])

    return probe, [description for description, _ in asked]


def _emotion(name: str, given: str | None) -> str:
    """The label that the token stands for, "" if its name is none and nothing was said."""
    if given:
        return given.strip().casefold()
    bare = name[1:-1]
    return bare if bare in words.ADJECTIVES else ""


def _start(init: str | None, emotion: str, model: str) -> list[str]:
    """The words to start from. InputError if none was given and the emotion does not tell."""
    if init:
        return _split(init)
    if model == "minisd" and emotion in sets.HELD_OUT:
        raise InputError(
            f"minisd knows no word for {emotion!r}; say where to start, e.g. --init awestruck,excited"
        )
    if emotion in words.ADJECTIVES:
        return [words.adjective(emotion)]
    raise InputError("say which word to start from, e.g. --init happy (or the emotion: --emotion joy)")


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _work(out: Path, resume: bool) -> Path:
    """The folder of the run, beside the file. InputError if a broken-off run is there and is not to go on."""
    work = out.with_suffix(".run")
    if work.exists() and not work.is_dir():
        raise InputError(f"{work} is a file where the run's folder should be; move it, or give another --out")
    if (work / "checkpoint.safetensors").is_file() and not resume:
        raise InputError(f"{work} holds a run that was broken off; add --resume to go on, or remove it")
    return work


def _load(args: argparse.Namespace, device: str) -> Backbone:
    from emolib.diffusion import backbone, hub
    from emolib.runtime import pick_device
    from emolib.training.settings import compute_dtype

    hub.check_name(args.model)
    where = pick_device(device)
    # Frozen weights may lie in half precision where steps run in it; on a CPU they stay as they are.
    half = str(compute_dtype(where, getattr(args, "precision", "auto"))).removeprefix("torch.")
    dtype = half if where.type == "cuda" else "float32"
    return backbone.load(args.model, device=str(where), dtype=dtype, memory="fast")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
