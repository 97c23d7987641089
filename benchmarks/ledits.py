"""`emolib edit` against LEDITS++ (diffusers' pipeline): what an edit costs, and what it is worth.

Both with the settings they come with, and both at a third of the steps. Costs on one picture, alternating:
network evaluations, seconds on the clock and of the processor. Worth on validation people, eight emotions
each: is the target seen (guide judge), how near is the edit to the truth, and does a picture come back that
is asked for nothing. That a third of the steps is enough was first seen on twelve validation people, so its
worth is no fresh finding here. Writes reports/data/ledits.json.

    python benchmarks/ledits.py       # MiniSD; five minutes on two cores
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from editing import ROUND_TRIP, against, measured, ours, table, through
from torch import Tensor

from emolib import images
from emolib.data import emofaces
from emolib.diffusion import backbone
from emolib.diffusion.backbone import Backbone
from emolib.editors.base import Editor
from emolib.editors.inversion import EditFriendlyInversion
from emolib.editors.ledits import LEditsPP
from emolib.emotions.sets import MIKELS
from emolib.judges import emotion as judges
from emolib.metrics import estimates, preservation
from emolib.runtime import generator, progress, repo_path, script, versions, write_json

PEER, OURS = "LEDITS++", "emolib edit"


def contestants(model: Backbone, counts: tuple[int, int]) -> dict[tuple[str, int], Editor]:
    """(name, steps) -> editor, with its own settings but for the steps."""
    kinds = {PEER: LEditsPP, OURS: EditFriendlyInversion}
    return {(name, n): kind(model, num_inference_steps=n) for name, kind in kinds.items() for n in counts}


def worth(editor: Editor, split: str, n: int) -> dict[str, dict[str, float]]:
    """Mikels' eight asked of n neutral people: the target seen by the guide judge, and PSNR to the truth, dB;
    and back from asking for nothing. Intervals over people."""
    people, guide, model = emofaces.portraits(split), judges.load_judge("guide"), editor.backbone
    who = people.spread(n)
    about = {"description": [emofaces.description(people.record(i, "neutral")) for i in who]}
    about["source_emotion"] = "neutral"

    def show(emotion: str) -> Tensor:
        return images.resize(images.to_tensor([people.image(i, emotion) for i in who]), model.size)

    source, hits, near = show("neutral"), [], []
    for emotion in MIKELS:
        edited = editor(source, emotion, generator=generator(0), **about)
        hits.append(guide(edited).emotion == guide.labels.index(emotion))
        near.append(preservation.psnr(edited, show(emotion)))
    unasked = editor(source, "neutral", generator=generator(0), **about)
    back = preservation.psnr(unasked, through(model, source)).clamp(max=100.0)
    groups = list(who) * len(MIKELS)
    found = {
        "target seen": estimates.rate(torch.cat(hits), groups=groups),
        "PSNR to the truth, dB": estimates.mean(torch.cat(near), groups=groups),
        ROUND_TRIP: estimates.mean(back),
    }
    return {name: value._asdict() for name, value in found.items()}


def costs(editors: dict, model: Backbone, args: argparse.Namespace) -> dict[int, dict]:
    """Emotions asked at once (1, 8) -> editor -> what every round took, the editors in turn."""
    people = emofaces.portraits(args.split)
    one = people.identities[0]
    picture = images.resize(images.to_tensor(people.image(one, "neutral")), model.size)
    text = emofaces.description(people.record(one, "neutral"))
    runs = {asked: {key: [] for key in editors} for asked in (1, 8)}
    for editor in editors.values():
        ours(editor)(picture, ["anger"], text)  # warm up
    for _ in progress(range(args.rounds), "rounds"):
        for asked, rows in runs.items():
            for key, editor in editors.items():
                work = lambda: ours(editor)(picture, [*MIKELS[:asked]], text)  # noqa: B023, E731
                rows[key].append(measured(model, work)[1])
    return runs


def compare(model: Backbone, args: argparse.Namespace) -> dict:
    """Costs and worth of every editor, and how many times as long the peer took."""
    counts = (args.steps, max(1, args.steps // 3))
    editors = contestants(model, counts)
    runs = costs(editors, model, args)
    told = {key: f"{key[0]}, {key[1]} steps" for key in editors}
    found = {
        told[key]: {
            "one edit": table(runs[1][key]),
            "eight edits in one go": table(runs[8][key]),
            **worth(editor, args.split, args.people),
        }
        for key, editor in progress(editors.items(), "what the edits are worth")
    }
    pairs = [(counts[0], counts[0]), (counts[1], counts[1]), counts]
    ratios = {
        f"{told[PEER, theirs]} / {told[OURS, mine]}, edits at once: {asked}": against(rows, (PEER, theirs))[
            OURS, mine
        ]
        for theirs, mine in dict.fromkeys(pairs)
        for asked, rows in runs.items()
    }
    return {"editors": found, "processor time": ratios}


def report(found: dict) -> str:
    """The numbers as plain text."""
    lines = []
    for name, row in found["editors"].items():
        values = ", ".join(f"{k} {v['value']:.2f}" for k, v in row.items() if "edit" not in k)
        lines.append(f"{name}: CPU s {row['one edit']['processor_seconds']['value']:.2f}, {values}")
    return "\n".join(lines + [f"{k}: {v['value']:.2f}" for k, v in found["processor time"].items()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="minisd", help="minisd, or a diffusers folder (default: %(default)s)")
    add("--people", type=int, default=24, help="whose edits are judged (default: %(default)s)")
    add("--rounds", type=int, default=5, help="alternating runs (default: %(default)s)")
    add("--steps", type=int, default=30, help="num_inference_steps (default: %(default)s)")
    add("--split", default="val", choices=("val", "test"), help="whose pictures (default: %(default)s)")
    add("--out", type=Path, default=repo_path("reports", "data", "ledits.json"))
    args = parser.parse_args()
    model = backbone.load_backbone(args.model, device="cpu", dtype="float32")
    about = {"model": model.name, "size": model.size, "split": args.split, "people": args.people}
    about |= {"rounds": args.rounds, "threads": torch.get_num_threads(), "versions": versions()}
    found = {"about": about, **compare(model, args)}
    write_json(args.out, found)
    print(report(found))


if __name__ == "__main__":
    script(main)
