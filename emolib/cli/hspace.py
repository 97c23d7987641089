"""`emolib hspace fit FOLDER --out FILE`: directions from your own pictures; `emolib hspace show FILE`."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emolib.runtime import InputError, check_output

if TYPE_CHECKING:
    from torch import Tensor

    from emolib.data.manifest import Manifest
    from emolib.diffusion.backbone import Backbone
    from emolib.interventions.directions import Directions

MEASURED = ("mean", "pca", "probe")
METHODS = (*MEASURED, "trained", "supervised")
BELONG = {
    "to": ("trained",), "epochs": ("trained",), "clip": ("trained",),
    "steps": ("supervised",), "t_start": ("supervised",),
    "levels": MEASURED, "pooled": MEASURED, "pairs": (*MEASURED, "supervised"),
}  # fmt: skip
"""Options that not every method has."""
DEFAULTS = {"epochs": 4, "steps": 150, "t_start": 500, "levels": 10}
EPILOG = """a folder of pictures, one subfolder an emotion:
  faces/neutral/ann.jpg  faces/neutral/bob.jpg  faces/joyful/ann.jpg  faces/joyful/bob.jpg
examples:
  emolib hspace fit faces --out joy.safetensors
  emolib hspace fit faces --out joy.safetensors --pairs --model sd15
  emolib hspace fit faces --out joy.safetensors --method supervised --place up1
  emolib edit ann.jpg --to joyful --method asyrp --directions joy.safetensors -o out.png
"""


def add_parser(commands) -> None:
    """Add `hspace` and its commands; the chosen one is in `args.run`."""
    parser = commands.add_parser("hspace", description=__doc__)
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(below)
    show = below.add_parser("show", help="what a file of directions holds")
    show.add_argument("file", type=Path)
    show.set_defaults(run=_show)


def _add_fit(commands) -> None:
    command = commands.add_parser(
        "fit",
        help="directions from a folder of pictures",
        description="From a folder of pictures, find what leads from one emotion to the others in h-space.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("folder", metavar="DATA", help="a folder with one subfolder an emotion, a table or manifest of"
        " pictures, emofaces:train, ...")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE", help="the file to write (.safetensors)")
    add("--source", metavar="EMOTION", help="where the directions start (default: neutral, if there is such a"
        " subfolder; else the mean of all other pictures; supervised ones: any other picture)")  # fmt: skip
    add("--pairs", action="store_true", help="pictures of the same name (or `identity`, in a table) in two"
        " subfolders show the same person: compare only those")  # fmt: skip
    add("--method", choices=METHODS, default="mean", help="mean difference; the same within the principal"
        " components; a linear probe; networks trained with CLIP from pictures of the source only; networks"
        " trained on pairs (default: %(default)s)")  # fmt: skip
    add("--to", metavar="WORDS", help="of --method trained: emotions to train for, with commas between"
        " (default: the other subfolders)")  # fmt: skip
    add("--levels", type=int, default=DEFAULTS["levels"], help="of mean, pca, probe: noise levels to look at"
        " (default: %(default)s)")  # fmt: skip
    add("--place", default="mid", metavar="BLOCK", help="where in the UNet: mid, or a block of its decoder,"
        " up0, up1, ... (default: %(default)s)")  # fmt: skip
    add("--scale", type=float, help="how many times an edit of strength 1 takes the directions (default: 1;"
        " of supervised ones 0.5)")  # fmt: skip
    add("--pooled", action="store_true", help="one value a channel, not one a place: for pictures in which"
        " faces lie anywhere")  # fmt: skip
    add("--limit", type=int, default=200, help="pictures of an emotion at most (default: %(default)s)")
    add("--steps", type=int, default=DEFAULTS["steps"], help="of --method supervised (default: %(default)s)")
    add("--t-start", type=int, default=DEFAULTS["t_start"], help="of --method supervised: the noisiest"
        " timestep that edits act at, of 1000; lower keeps more (default: %(default)s)")  # fmt: skip
    add("--epochs", type=int, default=DEFAULTS["epochs"], help="of --method trained (default: %(default)s)")
    add("--clip", type=Path, metavar="FOLDER", help="CLIP for --method trained (default: MiniCLIP)")
    add("--model", default="minisd", metavar="NAME", help="as in `emolib edit` (default: %(default)s)")
    add(
        "--seed",
        type=int,
        default=0,
        help="which noise and first weights are drawn (default: %(default)s)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    add("--memory", default="auto", help="auto, fast, balanced, low (default: %(default)s)")
    command.set_defaults(run=fit)


def fit(args: argparse.Namespace) -> int:
    """`emolib hspace fit`: check, load, encode, find, write."""
    _check_output(args.out)
    if args.scale is not None and not math.isfinite(args.scale):
        raise InputError(f"--scale must be a finite number, not {args.scale}")
    for name, methods in BELONG.items():
        given = getattr(args, name) not in (DEFAULTS.get(name), None, False)
        if given and args.method not in methods:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} belongs to --method {' or '.join(methods)}, not to {args.method}")
    if args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}")
    if not 0 < args.t_start <= 1000:
        raise InputError(f"--t-start must lie in 1 to 1000, not {args.t_start}")
    pictures = _pictures(args)
    labels = pictures.frame["emotion"].tolist()
    if args.method != "supervised":  # that one learns to start from anything
        args.source = args.source or ("neutral" if "neutral" in labels else None)
    from emolib import runtime
    from emolib.diffusion import backbone, hub
    from emolib.interventions import hspace
    from emolib.interventions.directions_fit import check_labels

    hub.check_name(args.model)
    names = _words(args.to) or check_labels(labels, args.source)
    clip = _clip(args)
    model = backbone.load(args.model, device=args.device, memory=args.memory)
    hspace.block(model.unet, args.place)
    draw = runtime.generator(args.seed, "hspace")
    find = {"trained": _train, "supervised": _supervise}.get(args.method, _measure)
    found = find(args, model, pictures, names, clip, draw)
    found = found if args.scale is None else replace(found, scale=args.scale)
    found.save(args.out)
    print(report(found))
    print(args.out)
    return 0


def _measure(args, model: Backbone, pictures: Manifest, names, clip, draw) -> Directions:
    from emolib.interventions import directions_fit as fitting

    return fitting.fit(
        model,
        _encode(model, pictures),
        pictures.frame["emotion"].tolist(),
        generator=draw,
        source=args.source,
        groups=pictures.person_keys() if args.pairs else None,
        method=args.method,
        levels=args.levels,
        place=args.place,
        pooled=args.pooled,
    )


def _supervise(args, model: Backbone, pictures: Manifest, names, clip, draw) -> Directions:
    from emolib.training import directions as supervised

    return supervised.fit_pairs(
        model,
        _encode(model, pictures),
        pictures.frame["emotion"].tolist(),
        pictures.person_keys(),
        generator=draw,
        source=args.source,
        place=args.place,
        steps=args.steps,
        t_start=args.t_start,
    )


def _train(args, model: Backbone, pictures: Manifest, names, clip, draw) -> Directions:
    from emolib.training import directions as training

    frame = pictures.frame
    shown = (
        pictures
        if args.source is None
        else pictures.take((frame["emotion"] == args.source).to_numpy().nonzero()[0])
    )
    z = _encode(model, shown)
    return training.fit_networks(
        model, z, names, clip, generator=draw, source=args.source, epochs=args.epochs, place=args.place
    )


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def report(directions: Directions) -> str:
    """What a bank holds, as text: a line for the whole and one for each emotion."""
    anything = "any other" if directions.method in ("supervised", "trained") else "the mean of the others"
    start = directions.source or anything
    where = f"at {directions.place} of {directions.model}, scale {directions.scale:g}"
    lines = [f"{directions.method} directions from {start}, {where}"]
    for name in directions.shifts:
        notes = directions.notes.get(name, {})
        known = ", ".join(f"{key} {value:.3g}" for key, value in notes.items())
        lines.append(f"  {name}: {known}" if known else f"  {name}")
    return "\n".join(lines)


def _show(args: argparse.Namespace) -> int:
    from emolib.interventions import directions

    print(report(directions.load(args.file)))
    return 0


def _check_output(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise InputError(f"--out {str(out)!r}: directions are stored as .safetensors; change the suffix")
    check_output(out)


def _pictures(args: argparse.Namespace) -> Manifest:
    """The labelled pictures of DATA, at most `--limit` of each emotion."""
    from emolib.data.open import labelled, open_dataset

    if args.limit < 2:
        raise InputError(f"--limit {args.limit}: at least two pictures of an emotion are needed")
    manifest = labelled(open_dataset(args.folder), args.folder)
    turn = manifest.frame.groupby("emotion").cumcount()
    return manifest.take((turn < args.limit).to_numpy().nonzero()[0])


def _clip(args: argparse.Namespace):
    if args.method != "trained":
        return None
    from emolib.diffusion.clip import load_clip
    from emolib.runtime import pick_device

    return load_clip(args.clip, pick_device(args.device))


def _encode(model: Backbone, pictures: Manifest, batch: int = 16) -> Tensor:
    """Latents (N, c, h, w) on the CPU of every picture's middle square, brought to the model's size."""
    import torch

    from emolib import images, runtime

    parts = []
    for first in runtime.progress(range(0, len(pictures), batch), "encoding"):
        squares = []
        for i in range(first, min(first + batch, len(pictures))):
            picture = images.crop_middle(images.to_tensor(pictures.image(i)))
            squares.append(images.resize(picture, model.size))
        with torch.no_grad():
            parts.append(model.encode(torch.cat(squares)).cpu())
    return torch.cat(parts)
