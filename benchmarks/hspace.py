"""How well Asyrp edits: the directions that came with MiniSD, taken 0.25 to 2 times, by the held-out judge.

Neutral portraits of unseen people, each to Mikels' eight emotions, at the model's size. Every number has its
n and a 95 % interval that resamples people. Writes reports/data/hspace.json, which lesson 05 draws. No
setting is chosen here: every one that was tried is in the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from emolib import images, runtime
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone
from emolib.editors.asyrp import Asyrp
from emolib.emotions.sets import EMOFACES, MIKELS
from emolib.interventions import directions
from emolib.judges import emotion as judges
from emolib.metrics import emotion, estimates, preservation

STRENGTHS = (0.25, 0.5, 1.0, 2.0)  # of the bank's own scale


def faces(split: str, people: int, size: int) -> tuple[list[int], Tensor, Tensor]:
    """Who, their neutral pictures (P, 3, size, size), and the truth (P, 8, 3, size, size) of each emotion."""
    found = emofaces.portraits(split)
    who = found.spread(people)
    shown = images.to_tensor([found.image(person, e) for person in who for e in ("neutral", *MIKELS)])
    shown = images.resize(shown, size).unflatten(0, (len(who), -1))
    return who, shown[:, 0], shown[:, 1:]


def scores(edits: Tensor, truth: Tensor, who: Sequence[int], judge: judges.Judge) -> dict[str, dict]:
    """Target rate and PSNR to the truth of edits (P, 8, 3, H, W), of all and emotion by emotion."""
    wanted = torch.tensor([EMOFACES.index(e) for e in MIKELS]).expand(len(who), -1)
    felt = judge(edits.flatten(0, 1)).emotion.view_as(wanted)
    psnr = preservation.psnr(edits.flatten(0, 1), truth.flatten(0, 1)).view_as(wanted)
    groups = [person for person in who for _ in MIKELS]
    found = {
        "target rate": emotion.target_rate(felt, wanted, groups=groups)._asdict(),
        "PSNR to the truth, dB": estimates.mean(psnr.flatten(), groups=groups)._asdict(),
    }
    each = {e: emotion.target_rate(felt[:, i], wanted[:, i])._asdict() for i, e in enumerate(MIKELS)}
    return {**found, "target rate by emotion": each}


def edited(editor: Asyrp, source: Tensor) -> Tensor:
    """Every person (P, 3, H, W) under the eight emotions, (P, 8, 3, H, W): one inversion a person."""
    parts = runtime.progress(source.split(1), f"scale {editor.scale * editor.strength:g}")
    return torch.stack([editor(one, MIKELS, generator=runtime.generator(0)) for one in parts])


def measure(model: Backbone, bank: directions.Directions, args: argparse.Namespace) -> Mapping[str, object]:
    """What the file says; see the module's text."""
    who, source, truth = faces(args.split, args.people, model.size)
    judge, rows = judges.load_judge("heldout"), []
    for times in args.strengths:
        editor = Asyrp(model, bank, 1.0, bank.scale * times, args.steps, args.t_edit)
        rows.append({"scale": editor.scale, **scores(edited(editor, source), truth, who, judge)})
    with torch.no_grad():
        through = torch.stack([model.decode(model.encode(one)) for one in truth])
    return {
        "split": args.split,
        "people": len(who),
        "directions": repr(bank),
        "num_inference_steps": args.steps,
        "t_edit": bank.t_edit if args.t_edit is None else args.t_edit,
        "nothing": scores(source[:, None].expand_as(truth), truth, who, judge),
        "autoencoded truth": scores(through, truth, who, judge),
        "scales": rows,
        "versions": runtime.versions(),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--people", type=int, default=20, help="eight edits each and scale (default: %(default)s)")
    add("--split", choices=("val", "test"), default="test", help="whom to edit (default: %(default)s)")
    add(
        "--directions", type=Path, help="a file of `emolib hspace fit` (default: those that came with MiniSD)"
    )
    add("--strengths", type=float, nargs="+", default=STRENGTHS, help="times the bank's scale")
    add("--steps", type=int, default=20, help="of the inversion, and of the way back (default: %(default)s)")
    add("--t-edit", type=int, help="edits end here (default: the bank's)")
    add("--out", type=Path, default=runtime.repo_path("reports", "data", "hspace.json"), metavar="FILE")
    args = parser.parse_args()
    bank = (
        directions.load_directions(args.directions)
        if args.directions
        else directions.load_shipped_directions()
    )
    found = measure(backbone.load_backbone("minisd"), bank, args)
    for row in ({"scale": "nothing", **found["nothing"]}, *found["scales"]):
        rate, psnr = (estimates.Estimate(**row[name]) for name in ("target rate", "PSNR to the truth, dB"))
        print(f"scale {row['scale']}: target rate {rate}, PSNR to the truth {psnr} dB")
    runtime.write_json(args.out, found)
    print(args.out)


if __name__ == "__main__":
    runtime.script(main)
