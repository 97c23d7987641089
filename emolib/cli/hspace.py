"""`emolib hspace fit FOLDER --out FILE`: directions from your own pictures; `emolib hspace show FILE`."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emolib.cli.fields import add_common, split_words, tell
from emolib.runtime import InputError, check_output, in_range
from emolib.training.settings import EPOCHS, PAIR_STEPS, T_START

if TYPE_CHECKING:
    from torch import Tensor

    from emolib.data.manifest import Manifest
    from emolib.diffusion.backbone import Backbone
    from emolib.interventions.directions import Directions

MEASURED = ("mean", "pca", "probe")
METHODS = (*MEASURED, "trained", "supervised")
LEVELS = 10
BELONG = {
    "to": ("trained",), "epochs": ("trained",), "clip": ("trained",),
    "steps": ("supervised",), "t_start": ("supervised",),
    "levels": MEASURED, "pooled": MEASURED, "pairs": (*MEASURED, "supervised"),
}  # fmt: skip
"""Options that not every method has; none of them is set unless it was given."""
ENDS = {
    "scale": (-1e9, 1e9), "limit": (2, math.inf), "steps": (1, math.inf), "epochs": (1, math.inf),
    "levels": (1, math.inf), "t_start": (1, 1000),
}  # fmt: skip
"""Between these the numbers make sense; of an emotion, at least two pictures."""
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
    command = below.add_parser(
        "fit",
        help="directions from a folder of pictures",
        description="From a folder of pictures, find what leads from one emotion to the others in h-space.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=fit)
    _add_options(command.add_argument)
    show = below.add_parser("show", help="what a file of directions holds")
    show.add_argument("file", type=Path)
    show.set_defaults(run=_show)


def _add_options(add) -> None:
    add("folder", metavar="DATA", help="a folder with one subfolder an emotion, a table or manifest of"
        " pictures, emofaces:train, ...")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE", help="the file to write (.safetensors)")
    add("--source", metavar="EMOTION", help="where the directions start (default: neutral, if there is such a"
        " subfolder; else the mean of all other pictures; supervised ones: any other picture)")  # fmt: skip
    add("--pairs", action="store_true", default=None, help="pictures of the same name (or `identity`, in a"
        " table) in two subfolders show the same person: compare only those")  # fmt: skip
    add("--method", choices=METHODS, default="mean", help="mean difference; the same within the principal"
        " components; a linear probe; networks trained with CLIP from pictures of the source only; networks"
        " trained on pairs (default: %(default)s)")  # fmt: skip
    add("--to", metavar="WORDS", help="of --method trained: emotions to train for, with commas between"
        " (default: the other subfolders)")  # fmt: skip
    add("--levels", type=int, help=f"of mean, pca, probe: noise levels to look at (default: {LEVELS})")
    add("--place", default="mid", metavar="BLOCK", help="where in the UNet: mid, or a block of its decoder,"
        " up0, up1, ... (default: %(default)s)")  # fmt: skip
    add("--scale", type=float, help="how many times an edit of strength 1 takes the directions (default: 1;"
        " of supervised ones 0.5)")  # fmt: skip
    add("--pooled", action="store_true", default=None, help="one value a channel, not one a place: for"
        " pictures in which faces lie anywhere")  # fmt: skip
    add("--limit", type=int, default=200, help="pictures of an emotion at most (default: %(default)s)")
    add("--steps", type=int, help=f"of --method supervised (default: {PAIR_STEPS})")
    add("--t-start", type=int, help="of --method supervised: the noisiest timestep that edits act at, of"
        f" 1000; lower keeps more (default: {T_START})")  # fmt: skip
    add("--epochs", type=int, help=f"of --method trained (default: {EPOCHS})")
    add("--clip", type=Path, metavar="FOLDER", help="CLIP for --method trained (default: MiniCLIP)")
    add_common(add, "model", "seed", "device", "memory")


def fit(args: argparse.Namespace) -> int:
    """`emolib hspace fit`: check, load, encode, find, write."""
    own = _check_options(args)
    pictures = _open_pictures(args)
    labels = pictures.frame["emotion"].tolist()
    source = args.source
    if args.method != "supervised":  # that one learns to start from anything
        source = source or ("neutral" if "neutral" in labels else None)
    from emolib import runtime
    from emolib.diffusion import backbone, clip, hub
    from emolib.interventions import directions_fit, hspace
    from emolib.training import directions

    hub.check_name(args.model)
    names = split_words(own.pop("to", "")) or directions_fit.check_labels(labels, source)
    device = runtime.pick_device(args.device)
    eyes = clip.load_clip(own.pop("clip", None), device) if args.method == "trained" else None
    model = backbone.load_backbone(args.model, device=args.device, memory=args.memory)
    hspace.block(model.unet, args.place)
    if args.method == "trained" and source:  # looks at pictures of the source alone
        pictures = pictures.take((pictures.frame["emotion"] == source).to_numpy().nonzero()[0])
    z, paired = _encode_pictures(model, pictures), own.pop("pairs", False)
    how = {"generator": runtime.generator(args.seed, "hspace"), "source": source, "place": args.place} | own
    if args.method == "trained":
        bank = directions.fit_networks(model, z, names, eyes, tell=tell, **how)
    elif args.method == "supervised":
        bank = directions.fit_pairs(model, z, labels, pictures.person_keys(), tell=tell, **how)
    else:
        people = pictures.person_keys() if paired else None
        bank = directions_fit.fit_directions(model, z, labels, groups=people, method=args.method, **how)
    bank = bank if args.scale is None else replace(bank, scale=args.scale)
    bank.save(args.out)
    print(describe_bank(bank))
    print(args.out)
    return 0


def _check_options(args: argparse.Namespace) -> dict[str, object]:
    """Give the method's own options, as far as they were given. InputError for what cannot be meant."""
    check_output(args.out, suffix=".safetensors")
    own = {name: getattr(args, name) for name in BELONG if getattr(args, name) is not None}
    for name in own:
        if args.method not in BELONG[name]:
            methods = " or ".join(BELONG[name])
            raise InputError(f"{_option(name)} belongs to --method {methods}, not to {args.method}")
    for name, ends in ENDS.items():
        if getattr(args, name) is not None:
            in_range(getattr(args, name), *ends, _option(name))
    return own


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def describe_bank(directions: Directions) -> str:
    """Say what a bank holds: a line for the whole and one for each emotion."""
    anything = "any other" if directions.method in ("supervised", "trained") else "the mean of the others"
    place = f"at {directions.place} of {directions.model}, scale {directions.scale:g}"
    lines = [f"{directions.method} directions from {directions.source or anything}, {place}"]
    for name in directions.shifts:
        notes = ", ".join(f"{key} {value:.3g}" for key, value in directions.notes.get(name, {}).items())
        lines.append(f"  {name}: {notes}" if notes else f"  {name}")
    return "\n".join(lines)


def _show(args: argparse.Namespace) -> int:
    from emolib.interventions import directions

    print(describe_bank(directions.load_directions(args.file)))
    return 0


def _open_pictures(args: argparse.Namespace) -> Manifest:
    """Open the labelled pictures of DATA, at most `--limit` of each emotion."""
    from emolib.data.open import labelled, open_dataset

    manifest = labelled(open_dataset(args.folder), args.folder)
    turn = manifest.frame.groupby("emotion").cumcount()
    return manifest.take((turn < args.limit).to_numpy().nonzero()[0])


def _encode_pictures(model: Backbone, pictures: Manifest, batch: int = 16) -> Tensor:
    """Give latents (N, c, h, w) on the CPU of every picture's middle square, brought to the model's size."""
    import torch

    from emolib import runtime
    from emolib.training.pictures import square

    parts = []
    for first in runtime.progress(range(0, len(pictures), batch), "encoding"):
        rows = range(first, min(first + batch, len(pictures)))
        squares = [square(pictures.image(i), model.size) for i in rows]
        with torch.no_grad():
            parts.append(model.encode(torch.cat(squares)).cpu())
    return torch.cat(parts)
